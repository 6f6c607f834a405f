"""Background work while the store is open: heartbeats, the locks of dead processes, retention."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time

from headrace.config import StoreConfig
from headrace.errors import StoreUnavailable
from headrace.store.conversations import Conversations
from headrace.store.database import Database
from headrace.store.processes import Processes
from headrace.store.retention import KEEP_S, prune

log = logging.getLogger(__name__)

HEARTBEAT_S = 4.0
FIRST_PRUNE_S, PRUNE_S = 60.0, KEEP_S  # after the start or a failure; after a success


class Housekeeping:
    def __init__(
        self, database: Database, processes: Processes, conversations: Conversations, config: StoreConfig
    ) -> None:
        self._database, self._processes, self._config = database, processes, config
        self._conversations = conversations
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._beat()), asyncio.create_task(self._prune())]

    async def aclose(self) -> None:
        """Deregister this process, so that others need not wait for its heartbeat to expire."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(StoreUnavailable):
            await self._database.write(self._processes.leave)

    async def _beat(self) -> None:
        is_healthy = True
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                await self._processes.beat(self._database)
                await self._conversations.retry_releases()
            except StoreUnavailable as exc:
                if is_healthy:
                    log.warning("%s", exc.message)
                is_healthy = False
            except Exception:
                log.exception("the store's housekeeping failed")
            else:
                is_healthy = True

    async def _prune(self) -> None:
        pause, last = FIRST_PRUNE_S, math.inf
        while True:
            await asyncio.sleep(pause)
            pause, started, now = PRUNE_S, time.monotonic(), time.time()
            try:
                # if the clock has jumped ahead, only what was dropped before the last run is an hour old
                counts = await prune(self._database, self._config, before=last)
            except StoreUnavailable as exc:
                log.warning("retention: %s", exc.message)
                pause = FIRST_PRUNE_S
            except Exception:
                log.exception("retention failed")
            else:
                last = now
                if any(counts.values()):
                    removed = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
                    log.info("retention: %s removed in %.1f s", removed, time.monotonic() - started)
