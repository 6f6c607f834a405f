"""The load: chat requests over asyncio's protocols. Only an answer's end and its words are looked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter
from typing import cast

from bench.gateways.upstream import HEAD_END, LAST_CHUNK, WORD, is_whole

MESSAGES = [
    {"role": "system", "content": "Answer in few words."},
    {"role": "user", "content": "What turns when the water flows through the headrace to the mill?"},
]
ANSWER_S = 60.0
OK = b"HTTP/1.1 200"


class Refused(Exception):
    """Something else than a whole answer came; the message has its beginning."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where chat requests go, with what headers, for which model."""

    port: int
    model: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def request(self, *, stream: bool) -> bytes:
        asked = {"model": self.model, "messages": MESSAGES, **({"stream": True} if stream else {})}
        body = json.dumps(asked, separators=(",", ":")).encode()
        headers = {
            "Host": f"127.0.0.1:{self.port}", "Content-Type": "application/json",
            "Content-Length": str(len(body)), **self.headers,
        }  # fmt: skip
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST /v1/chat/completions HTTP/1.1\r\n{lines}\r\n".encode() + body


class _Asker(asyncio.Protocol):
    """Asks for whole answers over one connection, one after the other, while `more` says so."""

    def __init__(self, request: bytes, more: Callable[[], bool], took: list[float]) -> None:
        self._request, self._more, self._took = request, more, took
        self._held = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is none by inheritance
        self._ask()

    def data_received(self, data: bytes) -> None:
        if self._held:
            data = self._held + data
        if not is_whole(data):
            self._held = data
            return
        self._took.append(perf_counter() - self._began)
        self._held = b""
        if data.startswith(OK):
            self._ask()
        else:
            self._end(Refused(data[:1000].decode(errors="replace")))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(Refused(f"the connection was closed: {exc}"))

    def _ask(self) -> None:
        if self._more():
            self._began = perf_counter()
            self._transport.write(self._request)
        else:
            self._end(None)

    def _end(self, error: Refused | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
        self._transport.close()


async def ask(address: Address, connections: int, *, requests: int, within_s: float) -> list[float]:
    """Whole answers, until so many or for so long; seconds that each took. Raises Refused."""
    took: list[float] = []
    left, until = requests, perf_counter() + within_s

    def more() -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and perf_counter() < until

    request = address.request(stream=False)
    loop = asyncio.get_running_loop()
    askers = [
        (await loop.create_connection(lambda: _Asker(request, more, took), "127.0.0.1", address.port))[1]
        for _ in range(connections)
    ]
    async with asyncio.timeout(within_s + ANSWER_S):
        await asyncio.gather(*(asker.done for asker in askers))
    return took


class Stream(asyncio.Protocol):
    """One streamed answer in pieces, and when they came. `leave` hangs up."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._pieces: list[bytes] = []
        self.began = 0.0
        self.times: list[float] = []  # of the pieces from the first word on
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[None] = loop.create_future()  # its first word is there, or it ended
        self.ended: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is none by inheritance
        self.began = perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = perf_counter()
        self._pieces.append(data)
        if self.times or WORD in data:
            self.times.append(now)
            if not self.started.done():
                self.started.set_result(None)
        if data.endswith(LAST_CHUNK):
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.started, self.ended):
            if not future.done():
                future.set_result(None)

    def leave(self) -> float:
        """Hang up; when that was."""
        self._transport.close()
        return perf_counter()

    @property
    def worst_gap(self) -> float:
        return max((after - before for before, after in pairwise(self.times)), default=0.0)

    def check(self, words: int) -> None:
        """Raises Refused if it is not a whole answer with so many words."""
        head, _, body = b"".join(self._pieces).partition(HEAD_END)
        found = _without_chunks(body).count(WORD)
        if found != words or not head.startswith(OK):
            begun = (head + HEAD_END + body)[:1000].decode(errors="replace")
            raise Refused(f"{found} of {words} chunks came: {begun}")


def _without_chunks(body: bytes) -> bytes:
    """The body without the transfer encoding, whose chunks may begin and end within a word."""
    parts, at = [], 0
    while (end := body.find(b"\r\n", at)) >= 0:
        size = int(body[at:end].split(b";")[0], 16)
        parts.append(body[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return b"".join(parts)


async def open_stream(address: Address, *, stream: bool = True) -> Stream:
    """Send one request; the answer comes by itself. `stream` false: a whole answer is asked for."""
    request = address.request(stream=stream)
    loop = asyncio.get_running_loop()
    _, opened = await loop.create_connection(lambda: Stream(request), "127.0.0.1", address.port)
    return opened


async def streams(address: Address, count: int, words: int) -> list[Stream]:
    """So many streams at once, each to its end. Raises Refused."""
    opened = [await open_stream(address) for _ in range(count)]
    async with asyncio.timeout(ANSWER_S):
        await asyncio.gather(*(one.ended for one in opened))
    for one in opened:
        one.check(words)
    return opened
