"""Replicas that are processes of ours: started, awaited, restarted and stopped."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from headrace.backends.replicas.replica import Replica
from headrace.backends.replicas.watch import Watch
from headrace.children.child import Child
from headrace.children.keeper import Keeper
from headrace.errors import HeadraceError, ModelError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Process:
    """A process that is ready at `url`."""

    child: Child
    url: str


@dataclass(frozen=True, slots=True)
class Program:
    """How a replica's process is started. `open`: starts it and waits until it is ready; `is_awaited`: the
    server takes no requests before; `stop_s`: how long it may take to finish what it does; `hangs_s`: after
    so long without an answer to a probe it is killed, and started again.
    """

    open: Callable[[], Awaitable[Process]]
    is_awaited: bool = True
    stop_s: float = 30.0
    hangs_s: float = 60.0


class Supervision:
    """Keeps the process of one replica running."""

    def __init__(self, replica: Replica, watch: Watch, program: Program) -> None:
        self._replica, self._watch, self._program = replica, watch, program
        replica.is_reachable, replica.is_starting, replica.backend.is_starting = False, True, True
        self._keeper = Keeper[Process](
            replica.name,
            program.open,
            came=self._came,
            left=self._left,
            hangs=self._hangs,
            stop_s=program.stop_s,
        )

    async def start(self) -> None:
        """Raises ModelError if a process that is awaited cannot be started."""
        if not self._program.is_awaited:
            self._keeper.start()
            return
        try:
            first = await self._program.open()
        except HeadraceError as exc:
            raise ModelError(exc.message) from exc
        self._came(first)
        self._keeper.start(first)
        try:
            await self._replica.backend.refresh()  # routes may lead to its models
        except HeadraceError as exc:
            raise ModelError(exc.message) from exc

    async def aclose(self) -> None:
        await self._keeper.aclose()

    def _came(self, process: Process) -> None:
        replica = self._replica
        log.info("%s is ready at %s (process %d)", replica.name, process.url, process.child.pid)
        replica.backend.upstream.base_url = process.url
        self._watch.moves(process.url)
        replica.breaker.close()
        replica.is_reachable, replica.is_starting, replica.was_ready, replica.trouble = True, False, True, ""
        replica.backend.is_starting = False
        replica.backend.refresh_now()

    def _left(self, why: str) -> None:
        replica = self._replica
        replica.is_reachable, replica.is_starting, replica.trouble = False, True, why
        replica.reports(None)

    def _hangs(self) -> bool:
        since = self._watch.silent_since
        return since is not None and time.monotonic() - since > self._program.hangs_s
