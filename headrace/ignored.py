"""An answer's events, with what the backend knows before the first of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class WithIgnored(AsyncIterator[T], Generic[T]):
    """Events with `ignored`: the request members that were left out or changed, as chat completions calls
    them, without indices. They are reported in X-Headrace-Ignored. `fingerprint`: how the first choice is
    steered, for X-Steering-Fingerprint.
    """

    def __init__(
        self, events: AsyncIterator[T], ignored: tuple[str, ...], fingerprint: str | None = None
    ) -> None:
        self._events, self.ignored, self.fingerprint = events, ignored, fingerprint

    async def __anext__(self) -> T:
        return await anext(self._events)


def with_ignored(
    events: AsyncIterator[T], names: list[str], fingerprint: str | None = None
) -> AsyncIterator[T]:
    """Attach the names and the fingerprint to the events, unless there are none."""
    if not names and fingerprint is None:
        return events
    return WithIgnored(events, tuple(dict.fromkeys(names)), fingerprint)
