"""A bound on the memory that the bodies of all requests in flight take. A request beyond it is refused with
503, and may be sent again later. What idle WebSockets remember counts, too, and is forgotten first.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field

from headrace.errors import Overloaded

FACTOR = 4  # bytes of memory for each byte of a body: raw, decoded, and as it is sent to a provider
CONTAINER = 1024  # bytes of memory for each JSON object or list, once it is parsed
CHARGE = "headrace.charge"  # the key of a request's charge in its scope


TRIM_AFTER = 32 * 2**20  # released bytes after which free memory goes back to the system
TRIM_DELAY_S = 1.0  # after the last of them: not between the requests of a burst


@dataclass(slots=True)
class Budget:
    """The memory of the server. `limit`: in bytes; 0: none. `released`: since memory last went back to the
    system. `forgettable`: functions that release memory which its owners can do without, oldest first.
    """

    limit: int
    used: int = 0
    released: int = 0
    forgettable: dict[int, Callable[[], None]] = field(default_factory=dict)
    _trim: asyncio.TimerHandle | None = None

    def has_room(self, size: int) -> bool:
        """Whether there are this many bytes, if need be once some owners have forgotten what they can."""
        while self.limit and self.used + size > self.limit and self.forgettable:
            oldest = next(iter(self.forgettable))
            self.forgettable.pop(oldest)()
        return not self.limit or self.used + size <= self.limit

    def trim_later(self) -> None:
        """Ask the C library for the memory that it keeps for later, once much was released and no more is."""
        if self.released >= TRIM_AFTER:
            if self._trim is not None:
                self._trim.cancel()
            self._trim = asyncio.get_running_loop().call_later(TRIM_DELAY_S, self._trim_now)

    def _trim_now(self) -> None:
        self.released, self._trim = 0, None
        asyncio.get_running_loop().run_in_executor(None, trim)


def trim() -> bool:
    """Give freed memory back to the system. Returns whether any was; only glibc can."""
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError, TypeError):  # another C library
        return False


@dataclass(slots=True)
class Charge:
    """The bytes that one request takes from a budget."""

    _budget: Budget
    _taken: int = 0

    def take(self, size: int) -> None:
        """Take more bytes. Raises Overloaded if there are not enough; then all bytes are released."""
        budget = self._budget
        if not budget.has_room(size):
            self.release()
            raise Overloaded("the bodies of other requests take all memory there is for them")
        budget.used += size
        self._taken += size

    def release(self) -> None:
        """Give all bytes back to the budget. Idempotent."""
        self._budget.used -= self._taken
        self._budget.released += self._taken
        self._taken = 0

    def moved(self) -> Charge:
        """A new charge that takes over all bytes, for work that goes on after the request."""
        other = Charge(self._budget, self._taken)
        self._taken = 0
        return other
