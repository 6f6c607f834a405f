"""What is done in the background while the store is open: a beat, what the dead left, retention."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from headrace.config import StoreConfig
from headrace.errors import StoreUnavailable
from headrace.store.conversations import Conversations
from headrace.store.database import Database
from headrace.store.processes import Processes
from headrace.store.retention import prune

log = logging.getLogger(__name__)

BEAT_S = 4.0
SOON_S, HOURLY_S = 60.0, 3600.0


class Upkeep:
    def __init__(
        self, database: Database, processes: Processes, conversations: Conversations, config: StoreConfig
    ) -> None:
        self._database, self._processes, self._config = database, processes, config
        self._conversations = conversations
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._beat()), asyncio.create_task(self._prune())]

    async def aclose(self) -> None:
        """Leave, so that nobody has to find out."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(StoreUnavailable):
            await self._database.write(self._processes.leave)

    async def _beat(self) -> None:
        is_well = True
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                await self._processes.beat(self._database)
                await self._conversations.release_owed()
            except StoreUnavailable as exc:
                if is_well:
                    log.warning("%s", exc.message)
                is_well = False
            except Exception:
                log.exception("the store's upkeep failed")
            else:
                is_well = True

    async def _prune(self) -> None:
        pause = SOON_S
        while True:
            await asyncio.sleep(pause)
            pause, started = HOURLY_S, time.monotonic()
            try:
                gone = await prune(self._database, self._config)
            except StoreUnavailable as exc:
                log.warning("retention: %s", exc.message)
                pause = SOON_S
            except Exception:
                log.exception("retention failed")
            else:
                if any(gone.values()):
                    told = ", ".join(f"{count} {name}" for name, count in gone.items() if count)
                    log.info("retention: %s removed in %.1f s", told, time.monotonic() - started)
