"""An answer's events, with the request members that the backend left out or changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Noted(AsyncIterator[T], Generic[T]):
    """Events with `names`: the request members that were left out or changed, as chat completions calls them,
    without indices. They are reported in X-Headrace-Ignored.
    """

    def __init__(self, events: AsyncIterator[T], names: tuple[str, ...]) -> None:
        self._events, self.names = events, names

    async def __anext__(self) -> T:
        return await anext(self._events)


def noted(events: AsyncIterator[T], names: list[str]) -> AsyncIterator[T]:
    """Attach the names to the events, unless there are none."""
    return Noted(events, tuple(dict.fromkeys(names))) if names else events
