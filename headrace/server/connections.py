"""All connections of the server: how many there may be, which one goes when there are too many, and what
takes too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

log = logging.getLogger(__name__)

SWEEP_S = 1.0  # between two looks at all connections
LOG_S = 60.0  # between two lines about the same thing


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    connections: int
    receive_s: float = 30.0  # for a head; for a body, without progress
    send_s: float = 60.0  # without the client reading anything of its answer
    idle_s: float = 75.0  # longer than clients' pools keep a connection, so that they close first
    head: int = 64 * 1024
    target: int = 16 * 1024
    headers: int = 128
    pipelined: int = 16  # requests that wait for the answer to the one before them
    progress: int = 1024  # of a body that is not complete, within `receive_s`


class Checked(Protocol):
    """A connection that is looked at every second."""

    def check(self, now: float) -> None: ...


class Idle(Protocol):
    """A connection that serves no request now."""

    def drop(self) -> None: ...


class Connections:
    """`limits`: of each of them, and of their number."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        # the one that has been idle longest comes first
        self._idle: dict[Idle, None] = {}
        self._idle_for_good: dict[Idle, None] = {}
        self._told: dict[str, float] = {}  # when a kind of line was last logged
        self._untold: dict[str, int] = {}  # how often it was not, since

    def is_idle(self, connection: Idle, *, may_return: bool = True) -> None:
        """`may_return`: its client opens another one without ado, so that it is closed before others."""
        self.is_busy(connection)
        (self._idle if may_return else self._idle_for_good)[connection] = None

    def is_busy(self, connection: Idle) -> None:
        self._idle.pop(connection, None)
        self._idle_for_good.pop(connection, None)

    def make_room(self, number: int) -> bool:
        """Whether a new connection may stay, `number` being how many there are with it. Those that have been
        idle longest are closed for it.
        """
        most = self.limits.connections
        while number > most and (idle := self._idle or self._idle_for_good):
            oldest = next(iter(idle))
            del idle[oldest]
            oldest.drop()
            number -= 1
            self.tell("dropped", f"all {most} connections are in use: an idle one was closed")
        if number > most:
            self.tell("refused", f"all {most} connections are busy: a new one was refused")
        return number <= most

    def tell(self, kind: str, line: str) -> None:
        """Log a line, unless one of its kind was logged in the last minute."""
        now = time.monotonic()
        if now - self._told.get(kind, -LOG_S) < LOG_S:
            self._untold[kind] = self._untold.get(kind, 0) + 1
            return
        untold = self._untold.pop(kind, 0)
        self._told[kind] = now
        log.warning("%s%s", line, f" (and {untold} more since the last such line)" if untold else "")

    @asynccontextmanager
    async def watched(self, connections: Iterable[Checked]) -> AsyncIterator[None]:
        """While inside, `connections` (as they come and go) are checked every second."""
        task = asyncio.ensure_future(_check(connections))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _check(connections: Iterable[Checked]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(SWEEP_S)
        now = loop.time()
        for connection in list(connections):
            try:
                connection.check(now)
            except Exception:  # of one connection: the others shall be looked at nevertheless
                log.exception("a connection could not be checked")
