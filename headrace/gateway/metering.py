"""What each request has cost, reported to a meter once, when the request is over."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from headrace.errors import ClientGone, ServerError
from headrace.gateway.generation import Outcome
from headrace.types import Event, Finished, Usage, total

log = logging.getLogger(__name__)


class Tally:
    """One request's. `work`: the endpoint of what is passed on, else "generate" or "embed". `is_streamed`: to
    the caller; None: not known here. `status` and `code`: of the error it ended with, else 200 and None.
    Times are from its arrival; None: it did not come to that.
    """

    def __init__(self, work: str, model: str, *, is_streamed: bool | None = None) -> None:
        self.work, self.model, self.is_streamed = work, model, is_streamed
        self._began = time.perf_counter()
        self.provider: str | None = None
        self.attempts = 0
        self.status = 200
        self.code: str | None = None
        self.first_byte_s: float | None = None
        self.took_s = 0.0
        self.usage: Usage | None = None  # None: the provider did not tell

    def reached(self, provider: str, attempts: int) -> None:
        self.provider, self.attempts = provider, attempts

    def began(self) -> None:
        """The answer. Once."""
        self.first_byte_s = time.perf_counter() - self._began

    def failed(self, error: BaseException) -> None:
        """The first counts."""
        if self.status == 200:
            told = ClientGone("") if isinstance(error, asyncio.CancelledError) else error
            self.status, self.code = (
                (told.status, told.code) if isinstance(told, ServerError) else (500, None)
            )

    def ended(self) -> None:
        self.took_s = time.perf_counter() - self._began


class Meter(Protocol):
    """Is told of every request, once, when it is over."""

    def record(self, tally: Tally) -> None: ...


class AnswerMeter:
    """Observes a generation and reports it to the meter. `n`: how many choices share a prompt."""

    def __init__(self, tally: Tally, meter: Meter, n: int) -> None:
        self._tally, self._meter, self._n = tally, meter, n
        self._usages: dict[int, Usage] = {}

    def saw(self, event: Event) -> None:
        if self._tally.first_byte_s is None:
            self._tally.began()
        if isinstance(event, Finished):
            self._usages[event.index] = event.usage

    async def ended(self, outcome: Outcome, error: Exception | None) -> None:
        if self._usages:
            found = total(self._usages, self._n)
            self._tally.usage = found if found.is_known else None
        if error is not None:
            self._tally.failed(error)
        self._tally.ended()
        self._meter.record(self._tally)


class LoggingMeter:
    def record(self, tally: Tally) -> None:
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "work=%s model=%s provider=%s attempts=%d stream=%s status=%d code=%s usage=%s "
                "first_byte_s=%s took_s=%.4f",
                tally.work, tally.model, tally.provider, tally.attempts, tally.is_streamed, tally.status,
                tally.code, tally.usage, tally.first_byte_s, tally.took_s,
            )  # fmt: skip
