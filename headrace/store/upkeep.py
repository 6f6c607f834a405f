"""What is done in the background while the store is open: a beat, the dead, retention."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from headrace.config import StoreConfig
from headrace.errors import HeadraceError
from headrace.store.database import Database
from headrace.store.processes import Processes

log = logging.getLogger(__name__)

BEAT_S = 4.0
SOON_S, HOURLY_S = 60.0, 3600.0


class Upkeep:
    def __init__(self, database: Database, processes: Processes, config: StoreConfig) -> None:
        self._database, self._processes, self._config = database, processes, config
        self._task: asyncio.Task[None] | None = None
        self._is_well = True

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Leave, so that nobody has to find out."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(HeadraceError):
            await self._database.write(self._processes.leave)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                await self._processes.beat(self._database)
            except HeadraceError as exc:
                if self._is_well:
                    log.warning("%s", exc.message)
                self._is_well = False
            else:
                self._is_well = True
