"""What becomes of a generation, told once: its events are folded on their way to whoever reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Literal

from headrace.gateway.gateway import Generation
from headrace.types import Event
from headrace.wire.generation import Collected

Outcome = Literal["completed", "left", "failed"]  # left: its reader went away before the end
Keep = Callable[[Collected, Outcome], Awaitable[None]]


def watch(generation: Generation, n: int, keep: Keep) -> None:
    """`keep` runs when the events have ended, before their reader is told that they have; or else when the
    generation is closed, after what it held is free. It is not cancelled. `n`: as the request's.
    """
    events = _Watched(generation, n, keep)
    exits = AsyncExitStack()
    exits.push_async_callback(events.closed)
    exits.push_async_callback(generation.exits.aclose)  # the first to run
    generation.events, generation.exits = events, exits


class _Watched:
    def __init__(self, generation: Generation, n: int, keep: Keep) -> None:
        self._events, self._interrupted = generation.events, generation.interrupted
        self._collected, self._n, self._keep = Collected(n), n, keep
        self._has_failed = False
        self._keeping: asyncio.Future[None] | None = None

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        try:
            event = await anext(self._events)
        except StopAsyncIteration:
            await self._end("completed")
            raise
        except Exception:
            self._has_failed = True
            raise
        self._collected.push(event)
        return event

    async def closed(self) -> None:
        choices = self._collected.choices.values()
        if sum(choice.usage is not None for choice in choices) == self._n:
            await self._end("completed")
        else:
            await self._end("failed" if self._has_failed or self._interrupted.done() else "left")

    async def _end(self, outcome: Outcome) -> None:
        if self._keeping is None:
            self._keeping = asyncio.ensure_future(self._keep(self._collected, outcome))
        await asyncio.shield(self._keeping)
