"""What the store has, as it was read last. Changes by this process are seen at once, those by others within
seconds.
"""

from __future__ import annotations

import asyncio
import contextlib

from headrace.errors import StoreUnavailable

REFRESH_S = 5.0  # how soon another process's changes are seen here


class Refreshed:
    """Subclasses read in `refresh`."""

    _task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read, and go on doing so. A database that cannot be reached is no error."""
        with contextlib.suppress(StoreUnavailable):
            await self.refresh()
        self._task = asyncio.create_task(self._go_on())

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def refresh(self) -> None:
        """Read the value from the store again. Raises StoreUnavailable."""
        raise NotImplementedError

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            with contextlib.suppress(StoreUnavailable):
                await self.refresh()
