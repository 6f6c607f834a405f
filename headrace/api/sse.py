"""Answers as text/event-stream responses. Whatever happens to the caller, they are closed."""

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

OPENING_S = 1.0  # then a stream starts without its first event, so that its caller sees that it is served
KEEP_ALIVE_S = 15.0  # proxies cut connections that are silent for long
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Encoder(Protocol):
    """A dialect's chunks, as JSON texts."""

    def first(self) -> list[str]: ...

    def event(self, event: Event) -> list[str]: ...

    def last(self) -> list[str]: ...


class Line:
    """What is sent to the caller, and when last. Raises ClientGone: some servers say so, others (uvicorn)
    drop what nobody reads.
    """

    silence = b": keep-alive\n\n"  # a comment: every client skips it
    done: tuple[str, ...] = ("[DONE]",)

    def __init__(self, send: Send) -> None:
        self._send = send
        self._sent_at = time.monotonic()
        self._is_sending = False
        self.is_started = False

    @property
    def silent_s(self) -> float:
        """For how long nothing was sent, or on its way."""
        return 0.0 if self._is_sending else time.monotonic() - self._sent_at

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.is_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, texts: list[str]) -> None:
        if texts:
            await self._body(self.frames(texts))

    async def pass_on(self, frames: bytes) -> None:
        """What is framed already."""
        await self._body(frames)

    async def close(self, last: bytes = b"") -> None:
        """The end, as it is."""
        self._is_sending = True
        await self._send({"type": "http.response.body", "body": last, "more_body": False})

    async def keep_alive(self) -> None:
        await self._body(self.silence)

    async def end(self, last: list[str], remark: str = "") -> None:
        """`remark`: a comment, for whoever reads them."""
        body = (f": {remark}\n\n" if remark else "").encode() + self.frames([*last, *self.done])
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def fail(self, error: ServerError) -> None:
        """The end, told as an error: after the first byte there is no other way."""
        await self.end([self.refusal(error)])

    def frames(self, texts: list[str]) -> bytes:
        return "".join(f"data: {text}\n\n" for text in texts).encode()

    def refusal(self, error: ServerError) -> str:
        return dump(errors.to_body(error))

    async def _body(self, body: bytes) -> None:
        self._is_sending = True
        try:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
        except OSError as exc:
            raise ClientGone("the client closed the connection") from exc
        finally:
            self._is_sending, self._sent_at = False, time.monotonic()


@asynccontextmanager
async def kept_alive(
    line: Line, keep_alive_s: float, opening: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[asyncio.Future[ServerError]]:
    """Sends a comment whenever nothing was sent for `keep_alive_s`. `opening` starts the line if nothing else
    has done so within OPENING_S. The future is done, with ClientGone, when a comment finds nobody.
    """
    beating = asyncio.ensure_future(_beat(line, keep_alive_s, opening))
    try:
        yield beating
    finally:
        beating.cancel()


async def _beat(
    line: Line, keep_alive_s: float, opening: Callable[[], Awaitable[None]] | None
) -> ServerError:
    try:
        if opening is not None:
            await asyncio.sleep(min(OPENING_S, keep_alive_s))
            await opening()
        while True:
            await asyncio.sleep(keep_alive_s - (line.silent_s if line.is_started else 0.0))
            if line.is_started and line.silent_s >= keep_alive_s:
                await line.keep_alive()
    except ClientGone as exc:
        return exc


class LiveStream(Response):
    """A response that goes on until `pump` ends. `keep_alive_s`: how long nothing may be sent. `line`: how a
    dialect frames what is sent. `ends`: futures whose error ends the stream.
    """

    media_type = "text/event-stream"
    line: type[Line] = Line

    def __init__(
        self,
        headers: dict[str, str],
        *ends: asyncio.Future[ServerError],
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        self.keep_alive_s, self._ends = keep_alive_s, ends
        super().__init__(None, headers={**HEADERS, **headers})
        del self.headers["content-length"]

    async def pump(self, line: Line) -> None:
        """Send everything, and the end. Raises ClientGone, and what goes wrong."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Free what the stream holds, once."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Closed here and not by the events' reader: a caller who left early means the reader may never start.
        try:
            await self._respond(receive, self.line(send))
        finally:
            await asyncio.shield(self.aclose())

    async def _respond(self, receive: Receive, line: Line) -> None:
        await line.start(self.status_code, self.raw_headers)
        try:
            async with (
                kept_alive(line, self.keep_alive_s) as unheard,
                connected(receive, *self._ends, unheard),
            ):
                await self.pump(line)
        except ClientGone:
            return
        except ServerError as exc:
            await line.fail(exc)
        except Exception:
            log.exception("a stream failed")
            await line.fail(ServerError("the server had an error"))


class EventStream(LiveStream):
    """A generation's events, through a dialect's encoder. `remark` gives a comment for the end of the stream,
    for what is not known when the headers are sent.
    """

    def __init__(
        self,
        generation: Generation,
        encoder: Encoder,
        headers: dict[str, str],
        *,
        line: type[Line] = Line,
        remark: Callable[[], str] = str,
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        self._generation, self._encoder, self._remark = generation, encoder, remark
        self.line = line
        super().__init__(headers, generation.interrupted, keep_alive_s=keep_alive_s)

    async def pump(self, line: Line) -> None:
        await line.send(self._encoder.first())
        async for event in self._generation:
            await line.send(self._encoder.event(event))
        await line.end(self._encoder.last(), self._remark())

    async def aclose(self) -> None:
        await self._generation.aclose()
