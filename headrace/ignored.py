"""An answer's events, with the request members that the backend left out or changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class WithIgnored(AsyncIterator[T], Generic[T]):
    """Events with `ignored`: the request members that were left out or changed, as chat completions calls
    them, without indices. They are reported in X-Headrace-Ignored.
    """

    def __init__(self, events: AsyncIterator[T], ignored: tuple[str, ...]) -> None:
        self._events, self.ignored = events, ignored

    async def __anext__(self) -> T:
        return await anext(self._events)


def with_ignored(events: AsyncIterator[T], names: list[str]) -> AsyncIterator[T]:
    """Attach the names to the events, unless there are none."""
    return WithIgnored(events, tuple(dict.fromkeys(names))) if names else events
