"""A response's events as a text/event-stream: `event:` and `data:` of each, then `[DONE]`."""

from __future__ import annotations

from collections.abc import AsyncIterator

from headrace.api.sse import KEEP_ALIVE_S, Line, LiveStream
from headrace.errors import ServerError
from headrace.turns.runs import Run
from headrace.wire.generation import dump
from headrace.wire.responses.stream import event_name


class EventLine(Line):
    """Whatever is told names itself."""

    def frames(self, texts: list[str]) -> bytes:
        return "".join(
            f"event: {event_name(text)}\ndata: {text}\n\n" if text not in self.done else f"data: {text}\n\n"
            for text in texts
        ).encode()

    def refusal(self, error: ServerError) -> str:
        return dump({"type": "error", "code": error.code, "message": error.message, "param": error.param})


class FollowedStream(LiveStream):
    """`run`: is cancelled when its caller leaves; None: nobody needs these events."""

    line = EventLine

    def __init__(
        self,
        texts: AsyncIterator[list[str]],
        headers: dict[str, str],
        run: Run | None = None,
        *,
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        self._texts, self._run = texts, run
        super().__init__(headers, keep_alive_s=keep_alive_s)

    async def pump(self, line: Line) -> None:
        async for texts in self._texts:
            await line.send(texts)
        await line.end([])

    async def aclose(self) -> None:
        if self._run is not None:
            await self._run.cancel()
