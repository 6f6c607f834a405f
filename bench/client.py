"""The load generator: raw HTTP over asyncio. Nothing is parsed while tokens arrive: cores are for servers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import urlsplit

from bench.children.protocol import Timing
from bench.workload import Prompt

TIMEOUT_S = 600
POLL_S = 0.005
BEFORE, BESIDE_TOKENS = 60, 1500  # pieces of each stream before the long prompt comes; tokens at most
DONE = b"data: [DONE]"


class Refused(Exception):
    """The server answered with something else than a whole stream."""


class _Stream(asyncio.Protocol):
    """One streamed answer: the time of its first and its last piece, and its bytes for later."""

    def __init__(self, request: bytes) -> None:
        self._request, self.received = request, bytearray()
        self.first = self.last = 0.0
        self.times: list[float] = []  # of each piece
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
        self.times.append(now)
        if self.received.find(DONE, begin) >= 0:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


@dataclass(frozen=True, slots=True)
class Gaps:
    """Between the pieces of streams, in seconds: before a long prompt came, and while it was computed."""

    usual: list[float]
    beside: list[float]
    prompt_s: float  # how long the prompt took


async def complete(url: str, model: str, prompts: Sequence[Prompt], max_tokens: int) -> list[Timing]:
    """Continue all prompts at once over /v1/completions. Raises Refused."""
    started = time.perf_counter()
    streams = [_Stream(_request(url, _body(model, prompt, max_tokens))) for prompt in prompts]
    await asyncio.gather(*(_run(url, stream) for stream in streams))
    return [_timing(stream, started) for stream in streams]


async def gaps_beside(url: str, model: str, prompts: Sequence[Prompt], long: Prompt) -> Gaps:
    """Send a long prompt while others stream, and measure what the streams notice."""
    streams = [_Stream(_request(url, _body(model, prompt, BESIDE_TOKENS))) for prompt in prompts]
    tasks = [asyncio.ensure_future(_run(url, stream)) for stream in streams]
    while min(len(stream.times) for stream in streams) < BEFORE:  # noqa: ASYNC110  # nothing is signalled
        await asyncio.sleep(POLL_S)
    begin = time.perf_counter()
    await complete(url, model, [long], 1)
    end = time.perf_counter()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    usual = [gap for stream in streams for gap in _gaps(stream.times[5:], 0, begin)]
    beside = [gap for stream in streams for gap in _gaps(stream.times, begin, end)]
    return Gaps(usual, beside, end - begin)


def _gaps(times: list[float], begin: float, end: float) -> list[float]:
    return [b - a for a, b in pairwise(times) if begin <= b < end]


async def _run(url: str, stream: _Stream) -> None:
    host, port = _address(url)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(TIMEOUT_S):
        transport, _ = await loop.create_connection(lambda: stream, host, port)
        try:
            await stream.done
        finally:
            transport.close()


def _request(url: str, body: bytes) -> bytes:
    host, port = _address(url)
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _body(model: str, prompt: Prompt, max_tokens: int) -> bytes:
    members = {
        "model": model, "prompt": prompt.text, "max_tokens": max_tokens, "temperature": 0, "stream": True,
        "stream_options": {"include_usage": True}, "ignore_eos": not prompt.ends,
        "parse_special": bool(prompt.ends),
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
