"""The load generator: raw HTTP over asyncio. Nothing is parsed while tokens arrive: cores are for servers."""

from __future__ import annotations

import asyncio
import json
import time
from urllib.parse import urlsplit

from bench.children.protocol import Timing

TIMEOUT_S = 600
DONE = b"data: [DONE]"


class Refused(Exception):
    """The server answered with something else than a whole stream."""


class _Stream(asyncio.Protocol):
    """One streamed answer: the time of its first and its last piece, and its bytes for later."""

    def __init__(self, request: bytes) -> None:
        self._request, self.received = request, bytearray()
        self.first = self.last = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        begin = max(0, len(self.received) - len(DONE))
        self.received += data
        if not self.first and b"data: " in self.received:
            self.first = now
        self.last = now
        if self.received.find(DONE, begin) >= 0:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def complete(url: str, model: str, prompts: list[str], max_tokens: int) -> list[Timing]:
    """Continue all prompts at once over /v1/completions. Raises Refused."""
    started = time.perf_counter()
    streams = await asyncio.gather(*(_stream(url, _body(model, prompt, max_tokens)) for prompt in prompts))
    return [_timing(stream, started) for stream in streams]


async def _stream(url: str, body: bytes) -> _Stream:
    host, port = _address(url)
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(TIMEOUT_S):
        _, stream = await loop.create_connection(lambda: _Stream(head.encode() + body), host, port)
        await stream.done
    return stream


def _body(model: str, prompt: str, max_tokens: int) -> bytes:
    members = {
        "model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    return json.dumps(members).encode()


def _timing(stream: _Stream, started: float) -> Timing:
    lines = bytes(stream.received).splitlines()
    events = [line[6:] for line in lines if line.startswith(b"data: ")]
    if not lines or b" 200 " not in lines[0] + b" " or events[-1:] != [b"[DONE]"]:
        raise Refused(bytes(stream.received[:1000]).decode(errors="replace"))
    usage = next(usage for event in events[-2::-1] if (usage := json.loads(event).get("usage")))
    first_s, last_s = stream.first - started, stream.last - started
    return Timing(usage["prompt_tokens"], usage["completion_tokens"], first_s, last_s)


async def poll_health(url: str, every_s: float, latencies: list[float]) -> None:
    """GET /health over one connection, again and again until cancelled."""
    host, port = _address(url)
    reader, writer = await asyncio.open_connection(host, port)
    request = f"GET /health HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
    try:
        while True:
            started = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            latencies.append(time.perf_counter() - started)
            await asyncio.sleep(max(0.0, every_s - latencies[-1]))
    finally:
        writer.close()


async def is_healthy(url: str) -> bool:
    host, port = _address(url)
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    try:
        writer.write(f"GET /health HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        return b" 200 " in await asyncio.wait_for(reader.readline(), 1)
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port
