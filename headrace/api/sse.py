"""Answers as text/event-stream responses, which free their resources however they end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headrace.api.disconnect import connected
from headrace.errors import ClientGone, ServerError
from headrace.gateway.generation import Generation
from headrace.types import Event
from headrace.wire import errors
from headrace.wire.generation import dump

log = logging.getLogger(__name__)

OPENING_S = 1.0  # after that a stream starts without its first event, so that its caller sees a response
KEEP_ALIVE_S = 15.0  # proxies close connections that are silent for long
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Encoder(Protocol):
    """Writes a generation's events as a dialect's chunks, each a JSON text."""

    def first(self) -> list[str]: ...

    def event(self, event: Event) -> list[str]: ...

    def last(self) -> list[str]: ...


class StreamWriter:
    """Sends frames to one caller, and knows when it last did so. Sending raises ClientGone on servers that
    report a closed connection; others (uvicorn) drop what nobody reads. Subclasses frame other dialects.
    """

    keep_alive_frame = b": keep-alive\n\n"  # a comment, which every client skips
    final_texts: tuple[str, ...] = ("[DONE]",)

    def __init__(self, send: Send) -> None:
        self._send = send
        self._sent_at = time.monotonic()
        self._is_sending = False
        self.is_started = False

    @property
    def silent_s(self) -> float:
        """Seconds since the last frame was sent; 0 while one is being sent."""
        return 0.0 if self._is_sending else time.monotonic() - self._sent_at

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.is_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, texts: list[str]) -> None:
        if texts:
            await self.send_frames(self.framed(texts))

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


@asynccontextmanager
async def kept_alive(
    writer: StreamWriter, keep_alive_s: float, opening: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[asyncio.Future[ServerError]]:
    """Sends a keep-alive frame whenever nothing was sent for `keep_alive_s`. `opening` starts the response if
    nothing else does within OPENING_S. The yielded future is done, with ClientGone, when sending fails.
    """
    beating = asyncio.ensure_future(_beat(writer, keep_alive_s, opening))
    try:
        yield beating
    finally:
        beating.cancel()


async def _beat(
    writer: StreamWriter, keep_alive_s: float, opening: Callable[[], Awaitable[None]] | None
) -> ServerError:
    try:
        if opening is not None:
            await asyncio.sleep(min(OPENING_S, keep_alive_s))
            await opening()
        while True:
            await asyncio.sleep(keep_alive_s - (writer.silent_s if writer.is_started else 0.0))
            if writer.is_started and writer.silent_s >= keep_alive_s:
                await writer.send_frames(writer.keep_alive_frame)
    except ClientGone as exc:
        return exc


class LiveStream(Response):
    """A response that lasts until `pump` ends. `close` frees its resources, once; `ends`: futures whose error
    ends the stream; `keep_alive_s`: the longest time without a frame.
    """

    media_type = "text/event-stream"
    writer: type[StreamWriter] = StreamWriter

    def __init__(
        self,
        headers: dict[str, str],
        close: Callable[[], Awaitable[None]],
        *ends: asyncio.Future[ServerError],
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        self.keep_alive_s, self._close, self._ends = keep_alive_s, close, ends
        super().__init__(None, headers={**HEADERS, **headers})
        del self.headers["content-length"]

    async def pump(self, writer: StreamWriter) -> None:
        """Send everything, and end the response. Raises ClientGone, or the error that ends the stream."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = self.writer(send)
        try:
            await writer.start(self.status_code, self.raw_headers)
            try:
                async with (
                    kept_alive(writer, self.keep_alive_s) as send_failure,
                    connected(receive, *self._ends, send_failure),
                ):
                    await self.pump(writer)
            except ClientGone:
                pass
            except ServerError as exc:
                await writer.fail(exc)
            except Exception:
                log.exception("a stream failed")
                await writer.fail(ServerError("the server had an error"))
        finally:
            # here and not in `pump`, which never runs if the caller leaves early
            await asyncio.shield(self._close())


class EventStream(LiveStream):
    """A generation's events, written by a dialect's encoder. `remark` returns a comment for the end of the
    stream, about what is not known yet when the headers are sent.
    """

    def __init__(
        self,
        generation: Generation,
        encoder: Encoder,
        headers: dict[str, str],
        *,
        writer: type[StreamWriter] = StreamWriter,
        remark: Callable[[], str] = str,
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        self._generation, self._encoder, self._remark = generation, encoder, remark
        self.writer = writer
        super().__init__(headers, generation.aclose, generation.interrupted, keep_alive_s=keep_alive_s)

    async def pump(self, writer: StreamWriter) -> None:
        await writer.send(self._encoder.first())
        async for event in self._generation:
            await writer.send(self._encoder.event(event))
        await writer.end(self._encoder.last(), self._remark())
