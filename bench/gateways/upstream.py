"""The provider of the benchmark: OpenAI's chat answers over asyncio's protocols, at a given pace.

It lives in the load's own process, so that both share a core and a clock, and it does as little as it can:
everything it says is made once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast

MODEL = "bench"
WORD = b" wheel"  # every chunk with content has it once
HEAD_END = b"\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
USAGE = {"prompt_tokens": 12, "completion_tokens": 24, "total_tokens": 36}
NAMES = {"id": "chatcmpl-bench", "created": 1_790_000_000, "model": MODEL}


@dataclass(slots=True)
class Pace:
    """How answers come from now on."""

    chunks: int = 24  # with content, of a stream
    every_s: float = 0.0  # before each
    opening_s: float = 0.0  # before anything


@dataclass(slots=True)
class Visit:
    """A request that is being answered."""

    is_stream: bool
    closed: asyncio.Future[float]  # when its connection was lost, if it was before the answer's end


@dataclass(slots=True)
class Upstream:
    """The server's state."""

    pace: Pace = field(default_factory=Pace)
    visits: asyncio.Queue[Visit] = field(default_factory=asyncio.Queue)
    is_watched: bool = False
    sent: list[float] = field(default_factory=list)  # when each chunk of the answers at this pace was

    @contextmanager
    def paced(self, pace: Pace) -> Iterator[None]:
        before, self.pace, self.sent = self.pace, pace, []
        try:
            yield
        finally:
            self.pace = before

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Every request that arrives is put into `visits`."""
        self.is_watched, self.visits = True, asyncio.Queue()
        try:
            yield
        finally:
            self.is_watched = False

    async def listen(self) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(
            lambda: _Connection(self), "127.0.0.1", 0, backlog=1024
        )


class _Connection(asyncio.Protocol):
    """One request at a time: no client here sends the next before the answer's end."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream, self._loop = upstream, asyncio.get_running_loop()
        self._held = b""
        self._visit: Visit | None = None
        self._timer: asyncio.Handle | None = None
        self._writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is none by inheritance

    def data_received(self, data: bytes) -> None:
        data = self._held + data
        if not is_whole(data):
            self._held = data
            return
        self._held = b""
        upstream = self._upstream
        is_stream = b'"stream":true' in data or b'"stream": true' in data
        if upstream.is_watched:
            self._visit = Visit(is_stream, self._loop.create_future())
            upstream.visits.put_nowait(self._visit)
        if data.startswith(b"GET"):
            self._transport.write(MODELS)
        elif upstream.pace.opening_s:
            self._timer = self._loop.call_later(upstream.pace.opening_s, self._answer, is_stream, data)
        else:
            self._answer(is_stream, data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._visit is not None and not self._visit.closed.done():
            self._visit.closed.set_result(perf_counter())

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True

    def _answer(self, is_stream: bool, request: bytes) -> None:
        if not is_stream:
            self._transport.write(WHOLE)
            self._finish()
            return
        self._transport.write(STREAM_HEAD)
        end = STREAM_END_WITH_USAGE if b'"include_usage"' in request else STREAM_END
        self._next_chunk(self._upstream.pace.chunks, self._loop.time(), end)

    def _next_chunk(self, left: int, due: float, end: bytes) -> None:
        """Every chunk is a write of its own, at its time, or as soon as the loop comes round again."""
        every_s = self._upstream.pace.every_s
        if self._writable:
            if not left:
                self._transport.write(end)
                self._finish()
                return
            self._upstream.sent.append(perf_counter())
            self._transport.write(CHUNKS[left % 2])
            left -= 1
        if every_s or not self._writable:
            due = max(due + (every_s or 0.001), self._loop.time())
            self._timer = self._loop.call_at(due, self._next_chunk, left, due, end)
        else:
            self._timer = self._loop.call_soon(self._next_chunk, left, due, end)

    def _finish(self) -> None:
        self._visit = self._timer = None


def is_whole(message: bytes) -> bool:
    """Whether a request or an answer is there to its end."""
    end = message.find(HEAD_END)
    if end < 0:
        return False
    head = message[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        length = head[at + 17 :].split(b"\r\n", 1)[0]
        return len(message) >= end + 4 + int(length)
    return b"\r\ntransfer-encoding:" not in head or message.endswith(LAST_CHUNK)


def _json_answer(value: object) -> bytes:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _event(value: object) -> bytes:
    """One event, in one chunk of the transfer encoding."""
    data = f"data: {value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}\n\n"
    return f"{len(data):x}\r\n{data}\r\n".encode()


def _chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return _event({**NAMES, "object": "chat.completion.chunk", "choices": [choice]})


MODELS = _json_answer({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "bench"}]})
ANSWER = {"role": "assistant", "content": (WORD.decode() * USAGE["completion_tokens"]).strip()}
WHOLE = _json_answer(
    {
        **NAMES,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": ANSWER, "logprobs": None, "finish_reason": "stop"}],
        "usage": USAGE,
    }
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n" + _chunk({"role": "assistant", "content": ""})
)
# Two in turn: LiteLLM ends a stream that says the same a hundred times.
CHUNKS = [_chunk({"content": WORD.decode() + end}) for end in ("", "s")]
STREAM_END = _chunk({}, "stop") + _event("[DONE]") + LAST_CHUNK
STREAM_END_WITH_USAGE = (
    _chunk({}, "stop")
    + _event({**NAMES, "object": "chat.completion.chunk", "choices": [], "usage": USAGE})
    + _event("[DONE]")
    + LAST_CHUNK
)
