"""A backend whose answers are scripted. For tests; served only when a configuration names it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from headrace.types import Event, Finished, GenerateRequest, ModelInfo, TextDelta, Usage


class FakeBackend:
    """Answers every request with `words`, one each `delay_s`; `error` is raised after them instead of a
    finish. It takes `opening_s` to start answering; with `refusal` it raises that instead.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        id: str = "fake",
        delay_s: float = 0.0,
        opening_s: float = 0.0,
        error: Exception | None = None,
        refusal: Exception | None = None,
    ) -> None:
        self.words, self.id, self.delay_s, self.opening_s = words, id, delay_s, opening_s
        self.error, self.refusal = error, refusal
        self.num_active = 0
        self.requests: list[GenerateRequest] = []
        self.is_alive = True

    async def start(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    def models(self) -> list[ModelInfo]:
        return [ModelInfo(self.id, "fake", 0, 4096, "fp_fake")]

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        self.requests.append(request)
        if self.refusal is not None:
            raise self.refusal
        self.num_active += 1
        try:
            await asyncio.sleep(self.opening_s)
            yield self._events(request.n)
        finally:
            self.num_active -= 1

    async def _events(self, n: int) -> AsyncIterator[Event]:
        for word in self.words:
            await asyncio.sleep(self.delay_s)
            for index in range(n):
                yield TextDelta(index, word)
        if self.error is not None:
            raise self.error
        for index in range(n):
            yield Finished(index, "stop", Usage(1, len(self.words)))
