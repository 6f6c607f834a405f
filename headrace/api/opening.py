"""The beginning of a stream: its first event is awaited before the response starts, so that an error gets its
real status and the headers can tell how long the request waited.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.types import Receive

from headrace.api.disconnect import while_connected
from headrace.gateway.gateway import Generation
from headrace.types import Event

OPENING_S = 1.0  # then the response starts without it: a client should see that it is being served


async def first_event(receive: Receive, generation: Generation) -> Event | None:
    """The first event if it comes in time; the generation's events still begin with it. Raises ClientGone,
    and what the generation failed with.
    """
    events = _Events(generation.events)
    generation.events = events
    generation.exits.push_async_callback(events.aclose)
    return await while_connected(receive, generation, events.peek())


class _Events:
    """Events of which the first is being fetched already."""

    def __init__(self, events: AsyncIterator[Event]) -> None:
        self._events = events
        self._first: asyncio.Task[Event] | None = asyncio.ensure_future(self._next())

    def __aiter__(self) -> _Events:
        return self

    async def __anext__(self) -> Event:
        if self._first is None:
            return await anext(self._events)
        first, self._first = self._first, None
        return await first

    async def peek(self) -> Event | None:
        assert self._first is not None
        await asyncio.wait([self._first], timeout=OPENING_S)
        if not self._first.done() or isinstance(self._first.exception(), StopAsyncIteration):
            return None
        return self._first.result()

    async def aclose(self) -> None:
        if self._first is not None:
            self._first.cancel()
            await asyncio.gather(self._first, return_exceptions=True)

    async def _next(self) -> Event:
        return await anext(self._events)
