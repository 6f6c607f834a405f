"""Fetches and compiles a model once, at the first request for it, while others wait for the same."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from headrace.errors import ModelError, ModelUnavailable
from headrace.models.model import Progress

log = logging.getLogger(__name__)

RETRY_S = 30.0
SHARES = 4  # how many lines of the log a long step takes

T = TypeVar("T")


class Loading(Generic[T]):
    """`load` runs in a thread of its own, reports its progress to the log, and raises ModelError. For
    `retry_s` seconds after a failure, that is reported again without another attempt.
    """

    def __init__(self, name: str, load: Callable[[Progress], T], *, retry_s: float = RETRY_S) -> None:
        self._name, self._load, self._retry_s = name, load, retry_s
        self._running: asyncio.Future[T] | None = None
        self._failure = ""  # why the last attempt failed
        self._failed_at = 0.0
        self._is_closed = False

    @property
    def value(self) -> T | None:
        """What was loaded; None: it is not loaded yet."""
        done = self._running is not None and self._running.done() and not self._running.exception()
        return self._running.result() if done and self._running is not None else None

    async def get(self) -> T:
        """What is loaded, once it is. Cancelling the call does not end the loading. Raises
        ModelUnavailable.
        """
        passed_s = time.monotonic() - self._failed_at
        if self._failure and passed_s < self._retry_s:
            raise self._error(self._retry_s - passed_s)
        if self._running is None:
            self._running = asyncio.get_running_loop().create_future()
            # A daemon: neither a download nor a compilation may delay the end of the process.
            threading.Thread(
                target=self._run, args=(self._running, asyncio.get_running_loop()), daemon=True
            ).start()
        return await asyncio.shield(self._running)

    def close(self) -> None:
        """End a download that runs."""
        self._is_closed = True

    def _run(self, future: asyncio.Future[T], loop: asyncio.AbstractEventLoop) -> None:
        log.info("%s is loaded, at its first use", self._name)
        try:
            value = self._load(_Log(self._name, self._check_open))
        except ModelError as exc:
            self._tell(loop, self._fail, future, exc.message)
        except Exception as exc:
            log.exception("%s could not be loaded", self._name)
            self._tell(loop, self._fail, future, f"{type(exc).__name__} (see the log)")
        else:
            self._tell(loop, _succeed, future, value)

    def _tell(self, loop: asyncio.AbstractEventLoop, call: Callable[..., None], *values: object) -> None:
        if not self._is_closed:
            loop.call_soon_threadsafe(call, *values)

    def _fail(self, future: asyncio.Future[T], reason: str) -> None:
        log.warning("%s could not be loaded: %s", self._name, reason)
        self._failure, self._failed_at, self._running = reason, time.monotonic(), None
        future.set_exception(self._error(self._retry_s))
        future.exception()  # marks the error as retrieved: all who wait may have left

    def _error(self, retry_after_s: float) -> ModelUnavailable:
        message = f"the model {self._name} could not be loaded: {self._failure}"
        return ModelUnavailable(message, retry_after_s=math.ceil(retry_after_s))

    def _check_open(self) -> None:
        if self._is_closed:
            raise ModelError("the server is shutting down")


def _succeed(future: asyncio.Future[T], value: T) -> None:
    future.set_result(value)


class _Log:
    """Writes a few lines of progress to the log. Calls `check` each time, which may end the work."""

    def __init__(self, name: str, check: Callable[[], None]) -> None:
        self._name, self._check = name, check
        self._last: tuple[str, int] | None = None

    def __call__(self, label: str, done: int, total: int) -> None:
        self._check()
        share = SHARES * done // total if total else 0
        if (label, share) != self._last:
            self._last = (label, share)
            amount = f" {100 * done // total} % of {total / 1e6:.1f} MB" if total else ""
            log.info("%s: %s%s", self._name, label, amount)
