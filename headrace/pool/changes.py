"""Wakes those who wait for the next change of something, on the event loop."""

from __future__ import annotations

import asyncio


class Changes:
    """Each `next` returns at the first `notify` after it was called. `count` grows with each change, so that
    a reader who was busy meanwhile notices that it missed some.
    """

    def __init__(self) -> None:
        self._next: asyncio.Future[None] | None = None
        self.count = 0

    def notify(self) -> None:
        self.count += 1
        if self._next is not None and not self._next.done():
            self._next.set_result(None)
        self._next = None

    async def next(self, within_s: float | None = None) -> None:
        """Wait for a change, or for `within_s` seconds."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._next], timeout=within_s)
