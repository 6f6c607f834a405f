"""A provider for a test: a real HTTP server on loopback that plays scripted answers, byte for byte.

>>> with scripted() as upstream:
...     upstream.play(Answer(pieces=sse({"choices": []}, "[DONE]")))
...     ask(upstream.url)
...     assert upstream.requests[0].body["model"] == "m"
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import pairwise
from typing import Any

NEVER_S = 3600.0
MAX_UNSENT = 2**20  # bytes that wait to be read
SSE = "text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request gets. Each piece is one chunk of the body and one write to the socket. `status` 0: not
    even a status line. `cut`: the connection is closed after the pieces, in the middle of the body. `stall`:
    nothing follows the pieces, and the connection stays. `last`: the answer is whole, and then the connection
    is closed, though nothing has said so. `deaf`: it is closed when the next request comes, which nobody
    reads. The header Content-Type is SSE's unless given.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: Sequence[bytes] = ()
    delay_s: float = 0.0  # before each piece
    opening_s: float = 0.0  # before the status line
    cut: bool = False
    stall: bool = False
    last: bool = False
    deaf: bool = False
    gzip: bool = False
    is_bare: bool = False  # the body has neither chunks nor a length: the connection's end is its own
    head: bytes = b""  # the status line and the headers as they are; the body is not chunked then


@dataclass(slots=True)
class Seen:
    """A request as it came. Names of headers are in lower case."""

    method: str
    path: str  # without its query
    headers: dict[str, str]
    raw: bytes
    connection: int  # 0.. by order of arrival: requests with the same one shared it
    query: str = ""
    read_at: float = field(default_factory=time.monotonic)
    closed_at: float | None = None  # monotonic seconds: when the client left before the answer's end

    @property
    def body(self) -> Any:
        """The body as JSON; None: it has none."""
        return json.loads(self.raw) if self.raw else None

    @property
    def closed_after_s(self) -> float | None:
        """From the request's end to the client's hang-up; None: it did not hang up."""
        return None if self.closed_at is None else self.closed_at - self.read_at


class Upstream:
    """The scripted provider. Every request gets the next answer of its path's queue, else, if it is a POST,
    what `chooses` says or the next of the common queue, else the path's standing answer, else status 599.
    """

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[Seen] = []
        self.num_connections = 0
        self.chooses: Callable[[Seen], Answer] | None = None
        self.transports = set[asyncio.Transport]()  # the open connections: its own thread's
        self._queues: dict[str | None, deque[Answer]] = {}
        self._standing: dict[str, Answer] = {}

    @property
    def url(self) -> str:
        """Without a path: http://127.0.0.1:1234"""
        return f"http://127.0.0.1:{self.port}"

    @property
    def posts(self) -> list[Seen]:
        return [seen for seen in self.requests if seen.method == "POST"]

    def play(self, *answers: Answer, path: str | None = None) -> None:
        """The next answers to `path`, e.g. /v1/models; without one: to POSTs, wherever they go."""
        self._queues.setdefault(path, deque()).extend(answers)

    def always(self, path: str, answer: Answer) -> None:
        """What `path` answers when nothing is queued for it."""
        self._standing[path] = answer

    def forget(self) -> None:
        """What is queued."""
        self._queues.clear()

    def answer_to(self, seen: Seen) -> Answer:
        if self.chooses is not None and seen.method == "POST" and not self._queues.get(seen.path):
            return self.chooses(seen)
        for key in (seen.path, None) if seen.method == "POST" else (seen.path,):
            if queue := self._queues.get(key):
                return queue.popleft()
        unscripted = {"error": {"message": f"nothing is scripted for {seen.method} {seen.path}"}}
        return self._standing.get(seen.path) or answer(unscripted, status=599)


class _Connection(asyncio.Protocol):
    """One connection; requests on it are answered one after the other."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream, self._held = upstream, b""
        self._number, upstream.num_connections = upstream.num_connections, upstream.num_connections + 1
        self._playing: asyncio.Task[None] | None = None
        self._seen: Seen | None = None
        self._is_deaf = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._upstream.transports.add(transport)

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            self._transport.close()
            return
        self._held += data
        self._next()

    def eof_received(self) -> None:
        self._left()

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.transports.discard(self._transport)
        self._left()

    def _left(self) -> None:
        if self._seen is not None and self._seen.closed_at is None:
            self._seen.closed_at = time.monotonic()
        if self._playing is not None:
            self._playing.cancel()

    def _next(self) -> None:
        """Start the next answer, if a request has arrived whole and no answer is under way."""
        head, end, rest = self._held.partition(b"\r\n\r\n")
        if not end or self._seen is not None:
            return
        first, *fields = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in fields)}
        assert "transfer-encoding" not in headers, "a request in chunks: this server does not read that"
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        raw, self._held = rest[:length], rest[length:]
        method, target, _ = first.split(" ")
        path, _, query = target.partition("?")
        self._seen = Seen(method, path, headers, raw, self._number, query)
        self._upstream.requests.append(self._seen)
        playing = self._play(self._upstream.answer_to(self._seen), head_only=method == "HEAD")
        self._playing = asyncio.get_running_loop().create_task(playing)

    async def _play(self, answer: Answer, *, head_only: bool) -> None:
        await asyncio.sleep(answer.opening_s)
        if answer.status:
            self._transport.write(answer.head or _head(answer))
        for piece in () if head_only else _encoded(answer):
            await asyncio.sleep(answer.delay_s)
            while self._transport.get_write_buffer_size() > MAX_UNSENT:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            is_plain = answer.is_bare or answer.head
            self._transport.write(piece if is_plain else b"%x\r\n%b\r\n" % (len(piece), piece))
        if answer.stall:
            await asyncio.sleep(NEVER_S)
        self._seen = None  # whoever leaves from here on does not leave early
        if answer.cut or answer.is_bare or answer.head:
            self._transport.close()
            return
        self._transport.write(b"" if head_only else b"0\r\n\r\n")
        self._is_deaf = answer.deaf
        if answer.last:
            self._transport.close()
        self._next()


def _head(answer: Answer) -> bytes:
    try:
        phrase = HTTPStatus(answer.status).phrase
    except ValueError:
        phrase = "Unnamed"
    headers = {"Content-Type": SSE, **answer.headers}
    headers |= {"Connection": "close"} if answer.is_bare else {"Transfer-Encoding": "chunked"}
    if answer.gzip:
        headers["Content-Encoding"] = "gzip"
    fields = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {answer.status} {phrase}", *fields, "", ""]).encode("latin-1")


class Endless(Sequence[bytes]):
    """`first`, then `again` until nobody reads on. `num_taken`: how many of those were taken."""

    def __init__(self, first: bytes, again: bytes) -> None:
        self._first, self._again, self.num_taken = first, again, 0

    def __iter__(self) -> Iterator[bytes]:
        yield self._first
        while True:
            self.num_taken += 1
            yield self._again

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, at: Any) -> Any:
        return self._again if at else self._first


def _encoded(answer: Answer) -> Iterator[bytes]:
    if not answer.gzip:
        yield from filter(None, answer.pieces)
        return
    packer = zlib.compressobj(wbits=31)  # 31: with gzip's header
    for piece in answer.pieces:
        yield packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)
    yield packer.flush()


@contextmanager
def scripted() -> Iterator[Upstream]:
    """A scripted provider, until the block ends. It runs in a thread with its own loop."""
    upstream = Upstream()
    ready, runner = threading.Event(), asyncio.Runner()
    stop = asyncio.Event()
    thread = threading.Thread(target=_run, args=(runner, _serve(upstream, ready, stop)), name="upstream")
    thread.start()
    try:
        assert ready.wait(60), "the scripted upstream did not start"
        yield upstream
    finally:
        runner.get_loop().call_soon_threadsafe(stop.set)
        thread.join(60)
        assert not thread.is_alive(), "the scripted upstream did not end"


async def _serve(upstream: Upstream, ready: threading.Event, stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(upstream), "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    ready.set()
    await stop.wait()
    server.close()
    for transport in list(upstream.transports):
        transport.abort()
    await server.wait_closed()


def _run(runner: asyncio.Runner, main: Coroutine[Any, Any, None]) -> None:
    with runner:
        runner.run(main)


def answer(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """A JSON answer in one piece."""
    all_headers = {"Content-Type": "application/json", **(headers or {})}
    return Answer(status, all_headers, [json.dumps(value).encode()])


def sse(*events: object, end: bytes = b"\n") -> list[bytes]:
    """Events of a text/event-stream, each as bytes: of a JSON value or text as it is, or of a pair of an
    event's name and one of those.
    """
    return [_event(event, end) for event in events]


def _event(event: object, end: bytes) -> bytes:
    name, value = event if isinstance(event, tuple) else ("", event)
    data = value if isinstance(value, str) else json.dumps(value)
    lines = ([f"event: {name}".encode()] if name else []) + [f"data: {data}".encode(), b"", b""]
    return end.join(lines)


def split(raw: bytes | Sequence[bytes], at: Sequence[int]) -> list[bytes]:
    """`raw`, cut into pieces at these places."""
    whole = raw if isinstance(raw, bytes) else b"".join(raw)
    places = [0, *at, len(whole)]
    return [whole[start:end] for start, end in pairwise(places)]
