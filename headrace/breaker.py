"""A circuit breaker for one target: after several failures in a row the target gets no requests for a while,
then a single probe; and which failures of a target leave the request to another one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from headrace.config import FallbackReason
from headrace.errors import (
    ContextTooLong,
    Overloaded,
    ProviderError,
    ProviderKeyRefused,
    ProviderLimited,
    ProviderTimedOut,
    ProviderUnreachable,
    ServerError,
    TimedOut,
)

State = Literal["closed", "open", "half-open"]

MAX_FAILURES = 5
COOL_DOWN_S = 10.0


class Breaker:
    """closed → (`MAX_FAILURES` in a row) → open → (`COOL_DOWN_S`) → half-open → (one probe) → closed or open.
    `now`: seconds, monotonic.
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
        """Seconds until the target may be tried; 0: now."""
        return 0.0 if self._opened_at is None else max(0.0, self._opened_at + COOL_DOWN_S - self._now())

    def take(self) -> Permit | None:
        """A permit for one request, whose holder reports the result once; None if the breaker is open, or a
        probe is on its way.
        """
        if self._opened_at is None:
            return Permit(self, is_probe=False)
        if self._is_probing or self.retry_after_s:
            return None
        self._is_probing = True
        return Permit(self, is_probe=True)

    def close(self) -> None:
        self._failures, self._opened_at, self._is_probing = 0, None, False

    def count_failure(self, *, is_probe: bool) -> None:
        """Count a failure; open the breaker at the limit, or when a probe has failed."""
        self._failures += 1
        if is_probe or (self._failures >= MAX_FAILURES and self._opened_at is None):
            self._opened_at = self._now()
        self.release(is_probe=is_probe)

    def release(self, *, is_probe: bool) -> None:
        """End a probe without counting its result."""
        if is_probe:
            self._is_probing = False


@dataclass(frozen=True, slots=True)
class Permit:
    """Permission for one request. Its holder calls exactly one of the methods, once."""

    breaker: Breaker
    is_probe: bool

    def succeeded(self) -> None:
        self.breaker.close()

    def failed(self) -> None:
        self.breaker.count_failure(is_probe=self.is_probe)

    def abandoned(self) -> None:
        """The request was cancelled or never sent: its result says nothing about the target."""
        self.breaker.release(is_probe=self.is_probe)


def reasons(error: ServerError) -> set[FallbackReason]:
    """The fallback reasons that an error matches; empty if another target would fail in the same way."""
    if isinstance(error, ProviderError) and error.has_started:
        return set()
    if isinstance(error, ContextTooLong):
        return {"context"}
    if isinstance(error, Overloaded):
        return {"overloaded"}
    if isinstance(error, ProviderLimited):
        return {"429"}
    if isinstance(error, TimedOut | ProviderKeyRefused) or error.status < 500:
        return set()
    if isinstance(error, ProviderUnreachable):
        return {"connection", "5xx"}
    return {"408", "5xx"} if isinstance(error, ProviderTimedOut) else {"5xx"}
