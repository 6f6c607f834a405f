"""A response's events as a text/event-stream: `event:` and `data:` for each, then `data: [DONE]`."""

from __future__ import annotations

from collections.abc import AsyncIterator

from headrace.api.sse import KEEP_ALIVE_S, LiveStream, StreamWriter
from headrace.errors import ServerError
from headrace.turns.runs import Run
from headrace.wire.generation import dump
from headrace.wire.responses.stream import event_name


class NamedEventWriter(StreamWriter):
    """Writes each event with an `event:` line that repeats its JSON `type`."""

    def framed(self, texts: list[str]) -> bytes:
        return "".join(
            f"data: {text}\n\n"
            if text in self.final_texts
            else f"event: {event_name(text)}\ndata: {text}\n\n"
            for text in texts
        ).encode()

    def error_text(self, error: ServerError) -> str:
        return dump({"type": "error", "code": error.code, "message": error.message, "param": error.param})


class RunStream(LiveStream):
    """A run's events. A `run` is cancelled when its caller leaves; without one, it goes on by itself."""

    writer = NamedEventWriter

    def __init__(
        self,
        texts: AsyncIterator[list[str]],
        headers: dict[str, str],
        run: Run | None = None,
        *,
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        self._texts, self._run = texts, run
        super().__init__(headers, self._cancel, keep_alive_s=keep_alive_s)

    async def pump(self, writer: StreamWriter) -> None:
        async for texts in self._texts:
            await writer.send(texts)
        await writer.end([])

    async def _cancel(self) -> None:
        if self._run is not None:
            await self._run.cancel()
