"""One target's circuit breaker: after failures in a row it is left alone for a while, then tried once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half-open"]

MAX_FAILURES = 5
COOL_DOWN_S = 10.0


class Breaker:
    """closed → (`MAX_FAILURES` in a row) → open → (`COOL_DOWN_S`) → half-open: one probe decides which of the
    two it is next. `now`: seconds, monotonic.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._failures = 0
        self._opened_at: float | None = None
        self._is_probing = False

    @property
    def state(self) -> State:
        if self._opened_at is None:
            return "closed"
        return "half-open" if self.retry_after_s == 0 else "open"

    @property
    def retry_after_s(self) -> float:
        """Until it may be tried; 0: now."""
        return 0.0 if self._opened_at is None else max(0.0, self._opened_at + COOL_DOWN_S - self._now())

    def take(self) -> Permit | None:
        """None: it may not be tried now. Who gets a permit says how it went, once."""
        if self._opened_at is None:
            return Permit(self, is_probe=False)
        if self._is_probing or self.retry_after_s:
            return None
        self._is_probing = True
        return Permit(self, is_probe=True)

    def close(self) -> None:
        self._failures, self._opened_at, self._is_probing = 0, None, False

    def count(self, *, is_probe: bool) -> None:
        """A failure."""
        self._failures += 1
        if is_probe or (self._failures >= MAX_FAILURES and self._opened_at is None):
            self._opened_at = self._now()
        self.forget(is_probe=is_probe)

    def forget(self, *, is_probe: bool) -> None:
        if is_probe:
            self._is_probing = False


@dataclass(frozen=True, slots=True)
class Permit:
    """To try once."""

    breaker: Breaker
    is_probe: bool

    def succeeded(self) -> None:
        self.breaker.close()

    def failed(self) -> None:
        self.breaker.count(is_probe=self.is_probe)

    def abandoned(self) -> None:
        """Nobody waited for its answer: that says nothing."""
        self.breaker.forget(is_probe=self.is_probe)
