"""The answers of the endpoints that generate text: a generation is started, then streamed (most dialects:
as text/event-stream) or folded into one JSON answer. A stream frees its resources however it ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headrace.api.json_response import json_answer
from headrace.api.request import in_time
from headrace.collected import Collected, collect
from headrace.errors import ClientGone, ServerError
from headrace.gateway.gateway import ATTEMPTS
from headrace.gateway.generation import Generation
from headrace.gateway.lifetime import End, Until
from headrace.pool import Pool
from headrace.types import Event, Json, ModelInfo, Started
from headrace.wire import errors
from headrace.wire.generation import dump
from headrace.wire.parameters import with_named
from headrace.wire.steering import FINGERPRINT

log = logging.getLogger(__name__)

LOGPROB = 100  # bytes of one, as JSON
OPENING_S = 1.0  # after that a stream starts without its first event, so that its caller sees a response
LOADING_S = 2.0  # between two reports to a stream whose model is being loaded
KEEP_ALIVE_S = 15.0  # proxies close connections that are silent for long
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Encoder(Protocol):
    """Writes a generation's events as a dialect's chunks, each a JSON text."""

    def first(self) -> list[str]: ...

    def event(self, event: Event) -> list[str]: ...

    def last(self) -> list[str]: ...


class StreamWriter:
    """Sends frames to one caller, and knows when it last did so. Sending raises ClientGone on servers that
    report a closed connection; others (uvicorn) drop the frames. Subclasses frame other dialects.
    """

    media_type = "text/event-stream"
    keep_alive_frame = b": keep-alive\n\n"  # a comment, which every client skips
    final_texts: tuple[str, ...] = ("[DONE]",)

    def __init__(self, send: Send, note: Callable[[], str] = str) -> None:
        self._send, self._note = send, note
        self._sent_at = time.monotonic()
        self._is_sending = False
        self.is_started = False

    @property
    def silent_s(self) -> float:
        """Seconds since the last frame was sent; 0 while one is being sent."""
        return 0.0 if self._is_sending else time.monotonic() - self._sent_at

    def silence(self) -> bytes:
        """The frame that keeps a silent connection open: a comment that says what the answer waits for, if
        known.
        """
        note = self._note()
        return f": {note}\n\n".encode() if note else self.keep_alive_frame

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.is_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send_frames(self, frames: bytes) -> None:
        """Send bytes that are framed already."""
        self._is_sending = True
        try:
            await self._send({"type": "http.response.body", "body": frames, "more_body": True})
        except OSError as exc:
            raise ClientGone("the client closed the connection") from exc
        finally:
            self._is_sending, self._sent_at = False, time.monotonic()

    async def close(self, frames: bytes = b"") -> None:
        """Send the last bytes as they are, and end the response."""
        self._is_sending = True
        await self._send({"type": "http.response.body", "body": frames, "more_body": False})

    async def end(self, texts: list[str], remark: str = "") -> None:
        """Send the last texts, after a comment if there is a remark, and end the response."""
        comment = f": {remark}\n\n" if remark else ""
        frames = comment.encode() + self.framed([*texts, *self.final_texts])
        await self._send({"type": "http.response.body", "body": frames, "more_body": False})

    async def fail(self, error: ServerError) -> None:
        """End the response with an error event: the status has been sent already."""
        await self.end([self.error_text(error)])

    def framed(self, texts: list[str]) -> bytes:
        return "".join(f"data: {text}\n\n" for text in texts).encode()

    def error_text(self, error: ServerError) -> str:
        return dump(errors.to_body(error))


async def keep_alive(
    writer: StreamWriter, keep_alive_s: float, opening: Callable[[], Awaitable[None]] | None = None
) -> ServerError:
    """Send a keep-alive frame whenever nothing was sent for `keep_alive_s`, until this task is cancelled.
    `opening` starts the response if nothing else does within OPENING_S. Returns ClientGone if sending fails.
    """
    try:
        if opening is not None:
            await asyncio.sleep(min(OPENING_S, keep_alive_s))
            await opening()
        silent_s = 0.0
        while True:
            await asyncio.sleep(keep_alive_s - silent_s)
            silent_s = writer.silent_s if writer.is_started else 0.0
            if silent_s >= keep_alive_s:
                await writer.send_frames(writer.silence())
                silent_s = 0.0
    except ClientGone as exc:
        return exc


class LiveStream(Response):
    """A response that streams `texts`, each batch when it comes. `close` frees what they come from, once;
    `ends`: futures whose error ends the stream; `remark` returns a comment for its end, about what is not
    known yet when the headers are sent; `keep_alive_s`: the longest time without a frame. With `note`, which
    returns what is awaited, the stream begins with that.
    """

    def __init__(
        self,
        texts: AsyncIterator[list[str]],
        headers: Mapping[str, str],
        close: Callable[[], Awaitable[None]] | None = None,
        *ends: End,
        writer: type[StreamWriter] = StreamWriter,
        remark: Callable[[], str] = str,
        keep_alive_s: float = KEEP_ALIVE_S,
        note: Callable[[], str] = str,
    ) -> None:
        self._note = note
        self._texts, self._close, self._ends = texts, close, ends
        self._writer, self._remark, self._keep_alive_s = writer, remark, keep_alive_s
        super().__init__(None, headers={**HEADERS, **headers}, media_type=writer.media_type)
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = self._writer(send, self._note)
        try:
            await writer.start(self.status_code, self.raw_headers)
            try:
                if self._note():
                    await writer.send_frames(writer.silence())
                beat = asyncio.ensure_future(keep_alive(writer, self._keep_alive_s))
                async with Until(*self._ends, beat, receive=receive):
                    async for texts in self._texts:
                        if texts:
                            await writer.send_frames(writer.framed(texts))
                    await writer.end([], self._remark())
            except ClientGone:
                pass
            except ServerError as exc:
                await writer.fail(exc)
            except Exception:
                log.exception("a stream failed")
                await writer.fail(ServerError("the server had an error"))
        finally:
            if self._close is not None:
                await asyncio.shield(self._close())


async def encoded(events: AsyncIterable[Event], encoder: Encoder) -> AsyncIterator[list[str]]:
    """The events as a dialect's chunks."""
    yield encoder.first()
    async for event in events:
        yield encoder.event(event)
    yield encoder.last()


@dataclass(frozen=True, slots=True)
class Reply:
    """How a generation is written. `encoder` writes a stream; None means one JSON answer, written by `whole`.
    `writer` frames the stream, `remark` returns a comment for its end. `names` translates the names of chat
    completions' members into the endpoint's. `is_steered`: a stream waits until its model is loaded: only a
    loaded model knows the fingerprint, and what it refuses.
    """

    encoder: Callable[[ModelInfo], Encoder] | None
    whole: Callable[[ModelInfo, Collected], Json]
    writer: type[StreamWriter] = StreamWriter
    remark: Callable[[], str] = str
    names: Callable[[str], str] = str
    is_steered: bool = False


async def respond(
    http: Request, starting: Awaitable[Generation], reply: Reply, headers: Mapping[str, str]
) -> Response:
    """Start a generation, then stream it or fold it into one JSON answer. Raises ServerError, also for an
    error before a stream's first event, so that it gets its own status.
    """
    pool: Pool | None = http.app.state.pool
    async with in_time(http):
        if pool is None or reply.encoder is None or reply.is_steered:
            generation: Generation | LiveStream = await starting
        else:  # the model may have to be loaded first
            generation = await _started(pool, starting, reply, reply.encoder, headers)
    if isinstance(generation, LiveStream):
        return generation
    async with AsyncExitStack() as exits:
        exits.push_async_callback(generation.aclose)
        noted = map(reply.names, generation.noted)
        if left_out := list(dict.fromkeys([*noted, *generation.ignored])):
            headers = with_named(headers, left_out)
        headers = {**headers, **generation_headers(generation)}
        async with Until(generation.interrupted, receive=http.receive):
            if reply.encoder is None:
                collected = await collect(generation, generation.n)
                headers |= timing(collected.started, collected.decode_s)
                whole = partial(reply.whole, generation.info, collected)
                return await json_answer(_size(collected), whole, headers)
            first = await generation.first(OPENING_S)
        if isinstance(first, Started):
            headers |= timing(first)
        texts = encoded(generation, reply.encoder(generation.info))
        close, end = generation.aclose, generation.interrupted
        stream = LiveStream(texts, headers, close, end, writer=reply.writer, remark=reply.remark)
        exits.pop_all()  # the stream closes the generation
        return stream


async def _started(
    pool: Pool,
    starting: Awaitable[Generation],
    reply: Reply,
    encoder: Callable[[ModelInfo], Encoder],
    headers: Mapping[str, str],
) -> Generation | LiveStream:
    """The generation that is to be streamed; or, if its model has to be loaded first, a stream that begins at
    once, with comments until the generation has started. Its errors are then in the stream.
    """
    task = asyncio.ensure_future(starting)
    try:
        entry = None
        while not task.done() and entry is None:
            await asyncio.wait([task], timeout=OPENING_S)
            entry = pool.waited_for(task)
    except asyncio.CancelledError:
        await _abandoned(task)
        raise
    if task.done() or entry is None:
        return task.result()
    end: End = asyncio.get_running_loop().create_future()
    return LiveStream(
        _late(task, encoder, end),
        headers,
        partial(_abandoned, task),
        end,
        writer=reply.writer,
        remark=reply.remark,
        keep_alive_s=LOADING_S,
        note=lambda: "" if task.done() else f"{entry.id} is {entry.state}",
    )


async def _late(
    task: asyncio.Task[Generation], encoder: Callable[[ModelInfo], Encoder], end: End
) -> AsyncIterator[list[str]]:
    """The texts of a generation that has not started yet. `end` is done when the generation has to end."""
    generation = await task

    def pass_on(interrupted: End) -> None:
        if not interrupted.cancelled() and not end.done():
            end.set_result(interrupted.result())

    generation.interrupted.add_done_callback(pass_on)
    async for texts in encoded(generation, encoder(generation.info)):
        yield texts


async def _abandoned(task: asyncio.Task[Generation]) -> None:
    """Cancel a generation that is being started, or close it if it has started meanwhile."""
    if not task.done():
        task.cancel()
    (result,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(result, Generation):
        await result.aclose()


def _size(collected: Collected) -> int:
    """The approximate size of the answer as JSON, in bytes."""
    choices = collected.choices.values()
    return sum(
        len(choice.text)
        + len(choice.reasoning)
        + sum(LOGPROB * (1 + len(token.top)) for token in choice.logprobs)
        + sum(
            LOGPROB * (1 + len(reading.top) + len(reading.features))
            for entry in choice.activations
            for reading in entry.readings
        )
        for choice in choices
    )


def target_headers(provider: str, attempts: int) -> dict[str, str]:
    """Response headers that name the provider that answered, and the number of attempts up to its own."""
    return {"X-Headrace-Backend": provider, ATTEMPTS: str(attempts)}


def generation_headers(generation: Generation) -> dict[str, str]:
    """Response headers of a generation: its provider, the attempts, and how it is steered."""
    headers = target_headers(generation.provider, generation.attempts)
    return headers if generation.fingerprint is None else {**headers, FINGERPRINT: generation.fingerprint}


def timing(started: Started | None, decode_s: float | None = None) -> dict[str, str]:
    """The header Server-Timing with the durations that are known, in ms."""
    if started is None:
        return {}
    durations = {"queue": started.queue_s, "prefill": started.prefill_s, "decode": decode_s}
    metrics = [f"{name};dur={took_s * 1000:.1f}" for name, took_s in durations.items() if took_s is not None]
    return {"Server-Timing": ", ".join(metrics)}
