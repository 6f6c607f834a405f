"""A bound on the memory that the bodies of all requests in flight take. A request beyond it is refused with
503, and may be sent again later.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.errors import Overloaded

FACTOR = 4  # bytes of memory for each byte of a body: raw, decoded, and as it is sent to a provider
CONTAINER = 1024  # bytes of memory for each JSON object or list, once it is parsed
CHARGE = "headrace.charge"  # the key of a request's charge in its scope


@dataclass(slots=True)
class Budget:
    """The memory of the server. `limit`: in bytes; 0: none."""

    limit: int
    used: int = 0


@dataclass(slots=True)
class Charge:
    """The bytes that one request takes from a budget."""

    _budget: Budget
    _taken: int = 0

    def take(self, size: int) -> None:
        """Take more bytes. Raises Overloaded if there are not enough; then all bytes are released."""
        budget = self._budget
        if budget.limit and budget.used + size > budget.limit:
            self.release()
            raise Overloaded("the bodies of other requests take all memory there is for them")
        budget.used += size
        self._taken += size

    def release(self) -> None:
        """Give all bytes back to the budget. Idempotent."""
        self._budget.used -= self._taken
        self._taken = 0

    def moved(self) -> Charge:
        """A new charge that takes over all bytes, for work that goes on after the request."""
        other = Charge(self._budget, self._taken)
        self._taken = 0
        return other
