"""Answers as text/event-stream responses (wire.md §1c). Whatever happens to the caller, they are closed."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headrace.api.disconnect import hung_up
from headrace.errors import ClientGone, ServerError
from headrace.gateway.gateway import Generation
from headrace.types import Event
from headrace.wire import errors
from headrace.wire.generation import dump

log = logging.getLogger(__name__)

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


class LiveStream(Response):
    """`keep_alive_s`: how long nothing may be sent. `line`: how a dialect frames what is sent."""

    media_type = "text/event-stream"
    line: type[Line] = Line

    def __init__(self, headers: dict[str, str], *, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self.keep_alive_s = keep_alive_s
        super().__init__(None, headers={**HEADERS, **headers})
        del self.headers["content-length"]

    async def pump(self, line: Line) -> None:
        """Send everything, and the end. Raises ClientGone, and what goes wrong."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Free what it holds, once."""
        raise NotImplementedError

    def interrupted(self) -> asyncio.Future[ServerError] | None:
        """What ends it from outside, if anything may."""
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Closed here and not by the events' reader: a caller who left early means the reader may never start.
        try:
            await self._respond(receive, self.line(send))
        finally:
            await asyncio.shield(self.aclose())

    async def _respond(self, receive: Receive, line: Line) -> None:
        await line.start(self.status_code, self.raw_headers)
        pump, gone = asyncio.ensure_future(self._pump(line)), asyncio.ensure_future(hung_up(receive))
        interrupted = self.interrupted()
        either: set[asyncio.Future[Any]] = {pump, gone} | (
            {interrupted} if interrupted is not None else set()
        )
        try:
            await self._keep_alive(line, either)
            if pump.done() or gone.done() or interrupted is None or not interrupted.done():
                return
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
            await line.fail(interrupted.result())
        finally:
            pump.cancel()
            gone.cancel()
            await asyncio.gather(pump, gone, return_exceptions=True)

    async def _keep_alive(self, line: Line, either: set[asyncio.Future[Any]]) -> None:
        """Until one of them is done, or nobody listens."""
        while True:
            timeout_s = max(0.0, self.keep_alive_s - line.silent_s)
            done, _ = await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return
            try:
                if line.silent_s >= self.keep_alive_s:
                    await line.keep_alive()
            except ClientGone:
                return

    async def _pump(self, line: Line) -> None:
        try:
            await self.pump(line)
        except ClientGone:
            return
        except ServerError as exc:
            await line.fail(exc)
        except Exception:
            log.exception("a stream failed")
            await line.fail(ServerError("the server had an error"))


class EventStream(LiveStream):
    """A generation's events, through a dialect's encoder."""

    def __init__(
        self,
        generation: Generation,
        encoder: Encoder,
        headers: dict[str, str],
        *,
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        self.generation, self.encoder = generation, encoder
        super().__init__(headers, keep_alive_s=keep_alive_s)

    async def pump(self, line: Line) -> None:
        await line.send(self.encoder.first())
        async for event in self.generation.events:
            await line.send(self.encoder.event(event))
        await line.end(self.encoder.last(), self.remark())

    def remark(self) -> str:
        """What can only be said at the end, when the headers are sent; "": nothing."""
        return ""

    async def aclose(self) -> None:
        await self.generation.aclose()

    def interrupted(self) -> asyncio.Future[ServerError]:
        return self.generation.interrupted
