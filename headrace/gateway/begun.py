"""Events of which the first is there already."""

from __future__ import annotations

from collections.abc import AsyncIterator

from headrace.types import Event


async def begun(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """The same events, once the first has come, or there are none. Raises what they fail with before."""
    try:
        first = await anext(events)
    except StopAsyncIteration:
        return events
    return _Begun(first, events)


class _Begun:
    def __init__(self, first: Event, rest: AsyncIterator[Event]) -> None:
        self._first: Event | None = first
        self._rest = rest

    def __aiter__(self) -> _Begun:
        return self

    async def __anext__(self) -> Event:
        if self._first is None:
            return await anext(self._rest)
        first, self._first = self._first, None
        return first
