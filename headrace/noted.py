"""An answer, and what its backend could not take of the request as it was written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Noted(AsyncIterator[T], Generic[T]):
    """The same events. `names`: members of the request that were left out or changed, by the names that they
    have in chat completions, without indices; the caller is told of them.
    """

    def __init__(self, events: AsyncIterator[T], names: tuple[str, ...]) -> None:
        self._events, self.names = events, names

    async def __anext__(self) -> T:
        return await anext(self._events)


def noted(events: AsyncIterator[T], names: list[str]) -> AsyncIterator[T]:
    """The events, with the names if there are any."""
    return Noted(events, tuple(dict.fromkeys(names))) if names else events


def names_of(events: AsyncIterator[T]) -> tuple[str, ...]:
    return events.names if isinstance(events, Noted) else ()
