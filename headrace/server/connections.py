"""The connections of the server: their limits, how many this process can open, which idle one is closed when
there are too many, and the check of their time limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from headrace.offload import background

log = logging.getLogger(__name__)

RETIRING_S = 3.0  # how long a connection of a process that is replaced may be idle
SWEEP_S = 1.0  # between two checks of all connections
LOG_S = 60.0  # between two log lines of the same kind

ENOUGH = 65_536  # more would slow down child processes that close all possible descriptors
WITHOUT_LIMIT = 8_192  # on systems without such a limit (Windows)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of connections and requests. Sizes are in bytes, times in seconds."""

    connections: int
    receive_s: float = 30.0  # for a whole head, and for a body to make progress
    send_s: float = 60.0  # for a client to read some of its answer
    idle_s: float = 75.0  # longer than in clients' pools, so that the client closes first
    head: int = 64 * 1024
    target: int = 16 * 1024
    headers: int = 128
    pipelined: int = 16  # requests that wait for the answer to an earlier one
    progress: int = 1024  # that must arrive of an incomplete body within `receive_s`


class Checked(Protocol):
    """A connection that is checked every second."""

    def check(self, now: float) -> None: ...

    def retire(self) -> None: ...


class Idle(Protocol):
    """A connection without a request."""

    def drop(self) -> None: ...


class Connections:
    """Keeps the idle connections in order, and closes the oldest when there are too many connections."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.is_retiring = False  # the process accepts no more connections, and closes those that it has
        # in both, the connection that has been idle longest comes first
        self._idle: dict[Idle, None] = {}
        self._idle_for_good: dict[Idle, None] = {}
        self._logged_at: dict[str, float] = {}  # kind of log line → when one was last logged
        self._num_skipped: dict[str, int] = {}  # kind of log line → how many were skipped since

    @property
    def idle_s(self) -> float:
        """How long a connection may be idle."""
        return RETIRING_S if self.is_retiring else self.limits.idle_s

    def retire(self, connections: Iterable[Checked]) -> None:
        """Close connections after the next answer, or when they have been idle for RETIRING_S: a client that
        receives `Connection: close` opens the next one elsewhere, and none is cut off while its request is on
        its way.
        """
        self.is_retiring = True
        for connection in list(connections):
            connection.retire()

    def is_idle(self, connection: Idle, *, may_return: bool = True) -> None:
        """Note that a connection is idle. With `may_return`, its client can easily open another one, so it is
        closed before those that cannot.
        """
        self.is_busy(connection)
        (self._idle if may_return else self._idle_for_good)[connection] = None

    def is_busy(self, connection: Idle) -> None:
        self._idle.pop(connection, None)
        self._idle_for_good.pop(connection, None)

    def make_room(self, number: int) -> bool:
        """Make room for a new connection by closing those that have been idle longest. `number`: the number
        of connections, the new one included. Returns False if all others are busy.
        """
        most = self.limits.connections
        while number > most and (idle := self._idle or self._idle_for_good):
            oldest = next(iter(idle))
            del idle[oldest]
            oldest.drop()
            number -= 1
            self.warn("dropped", f"all {most} connections are in use: an idle one was closed")
        if number > most:
            self.warn("refused", f"all {most} connections are busy: a new one was refused")
        return number <= most

    def warn(self, kind: str, line: str) -> None:
        """Log a warning, unless one of its kind was logged within LOG_S."""
        now = time.monotonic()
        if now - self._logged_at.get(kind, -LOG_S) < LOG_S:
            self._num_skipped[kind] = self._num_skipped.get(kind, 0) + 1
            return
        skipped = self._num_skipped.pop(kind, 0)
        self._logged_at[kind] = now
        log.warning("%s%s", line, f" (and {skipped} more since the last such line)" if skipped else "")

    def watched(self, connections: Iterable[Checked]) -> AbstractAsyncContextManager[None]:
        """Check `connections`, a changing collection, every second while the body runs."""
        return background(_check(connections))


async def _check(connections: Iterable[Checked]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(SWEEP_S)
        now = loop.time()
        for connection in list(connections):
            try:
                connection.check(now)
            except Exception:  # one connection's failure must not stop the checks of the others
                log.exception("a connection could not be checked")


def raise_limit() -> int:
    """Raise the soft limit of open files and sockets to the hard one, but not beyond ENOUGH. Returns the new
    limit.
    """
    try:
        import resource
    except ImportError:
        return WITHOUT_LIMIT
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS may refuse its own hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ENOUGH if soft == resource.RLIM_INFINITY else soft


def connections_within(descriptors: int) -> int:
    """The number of client connections that fit; a quarter of the descriptors, at least 64, is for the
    server's own files and connections.
    """
    return max(descriptors - max(64, descriptors // 4), 16)
