"""The cost of each request, reported to a meter once, when the request is over."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Protocol

from headrace.errors import ClientGone, ServerError
from headrace.gateway.generation import Outcome
from headrace.types import Event, Finished, Usage, total

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Tally:
    """One request's cost and result.

    `work`: the endpoint of a request that is passed on, else "generate" or "embed". `is_streamed`: None where
    the gateway does not know it. `status` and `code`: of the error that ended the request, else 200 and None.
    Times are in seconds since the request came; `first_byte_s` is None if there was no answer.
    """

    work: str
    model: str
    is_streamed: bool | None = None
    provider: str | None = None
    attempts: int = 0
    status: int = 200
    code: str | None = None
    first_byte_s: float | None = None
    took_s: float = 0.0
    usage: Usage | None = None  # None: the provider reported none
    _arrived: float = field(default_factory=time.perf_counter, init=False)

    def answer_began(self) -> None:
        """Record the time to the first byte; only the first call counts."""
        if self.first_byte_s is None:
            self.first_byte_s = time.perf_counter() - self._arrived

    def end(self, error: BaseException | None = None) -> None:
        """Record the duration, and the error that ended the request, if any. A cancellation counts as a
        caller who left.
        """
        self.took_s = time.perf_counter() - self._arrived
        if isinstance(error, asyncio.CancelledError):
            error = ClientGone("")
        if isinstance(error, ServerError):
            self.status, self.code = error.status, error.code
        elif error is not None:
            self.status, self.code = 500, None


class Meter(Protocol):
    """Receives the tally of every request, once, when the request is over."""

    def record(self, tally: Tally) -> None: ...


@dataclass(slots=True)
class AnswerMeter:
    """Observes a generation and reports it to the meter. `n`: the number of choices of each prompt."""

    tally: Tally
    meter: Meter
    n: int
    _usages: dict[int, Usage] = field(default_factory=dict, init=False)  # choice → its usage

    def saw(self, event: Event) -> None:
        self.tally.answer_began()
        if isinstance(event, Finished):
            self._usages[event.index] = event.usage

    async def ended(self, outcome: Outcome, error: Exception | None) -> None:
        if self._usages:
            usage = total(self._usages, self.n)
            self.tally.usage = usage if usage.is_known else None
        self.tally.end(error)
        self.meter.record(self.tally)


class LoggingMeter:
    """Logs every tally at debug level."""

    def record(self, tally: Tally) -> None:
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "work=%s model=%s provider=%s attempts=%d stream=%s status=%d code=%s usage=%s "
                "first_byte_s=%s took_s=%.4f",
                tally.work, tally.model, tally.provider, tally.attempts, tally.is_streamed, tally.status,
                tally.code, tally.usage, tally.first_byte_s, tally.took_s,
            )  # fmt: skip
