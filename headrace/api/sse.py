"""One generation as a text/event-stream response (wire.md §1c). Whatever happens to the caller, it is
closed.
"""

from __future__ import annotations

import asyncio
import logging
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

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Encoder(Protocol):
    """A dialect's chunks, as JSON texts."""

    def first(self) -> list[str]: ...

    def event(self, event: Event) -> list[str]: ...

    def last(self) -> list[str]: ...


class EventStream(Response):
    media_type = "text/event-stream"

    def __init__(self, generation: Generation, encoder: Encoder, headers: dict[str, str]) -> None:
        self.generation, self.encoder = generation, encoder
        super().__init__(None, headers={**HEADERS, **headers})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Closed here and not by the events' reader: a caller who left early means the reader may never start.
        try:
            await self._respond(receive, send)
        finally:
            await asyncio.shield(self.generation.aclose())

    async def _respond(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        pump, gone = asyncio.ensure_future(self._pump(send)), asyncio.ensure_future(hung_up(receive))
        interrupted = self.generation.interrupted
        either: set[asyncio.Future[Any]] = {pump, gone, interrupted}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if pump.done() or gone.done():
                return
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
            await self._end(send, [dump(errors.to_body(interrupted.result()))])
        finally:
            pump.cancel()
            gone.cancel()
            await asyncio.gather(pump, gone, return_exceptions=True)

    async def _pump(self, send: Send) -> None:
        try:
            await _send(send, self.encoder.first())
            async for event in self.generation.events:
                await _send(send, self.encoder.event(event))
            last = self.encoder.last()
        except ClientGone:
            return
        except ServerError as exc:
            last = [dump(errors.to_body(exc))]
        except Exception:
            log.exception("a stream failed")
            last = [dump(errors.to_body(ServerError("the server had an error")))]
        await self._end(send, last)

    async def _end(self, send: Send, last: list[str]) -> None:
        body = _frames([*last, "[DONE]"])
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def _send(send: Send, texts: list[str]) -> None:
    """Raises ClientGone: some servers say so, others (uvicorn) drop what nobody reads."""
    try:
        if texts:
            await send({"type": "http.response.body", "body": _frames(texts), "more_body": True})
    except OSError as exc:
        raise ClientGone("the client closed the connection") from exc


def _frames(texts: list[str]) -> bytes:
    return "".join(f"data: {text}\n\n" for text in texts).encode()
