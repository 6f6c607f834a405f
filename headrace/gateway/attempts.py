"""Attempts of one request at the targets of a route: fallback, retries and hedging, all before the first
event. Attempts that lose are closed before the winner is returned.
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Generic, TypeVar

from headrace.breaker import Permit, reasons
from headrace.config import RouteConfig
from headrace.errors import BadRequest, ContextTooLong, ProviderError, ProviderUnreachable, ServerError
from headrace.gateway.routing import Plan, Target

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.25  # doubled in each further round, times a random 0.5 to 1.5
MAX_PAUSE_S = 10.0  # a longer Retry-After is passed on to the caller instead

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and randomness, which tests replace. `now`: seconds, monotonic."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Random = field(default_factory=Random)


@dataclass(frozen=True, slots=True)
class Winner(Generic[T]):
    """The attempt that succeeded. Its owner closes `exits`."""

    target: Target
    value: T
    exits: AsyncExitStack


class Attempts(Generic[T]):
    """Tries a route's targets. `run_at` runs the request at one target, and pushes what has to be closed
    later onto the stack. `deadline`: of the request, in seconds on the clock.
    """

    def __init__(
        self,
        plan: Plan,
        route: RouteConfig,
        run_at: Callable[[Target, AsyncExitStack], Awaitable[T]],
        *,
        clock: Clock,
        deadline: float | None,
    ) -> None:
        self._plan, self._route, self._run_at = plan, route, run_at
        self._clock, self._deadline = clock, deadline
        self.count = 0  # attempts started
        self._error: ServerError | None = None  # of the last attempt that failed
        self._not_before: dict[int, float] = {}  # id of a target → when it may be tried again

    async def run(self) -> Winner[T]:
        """The first attempt that succeeds. Raises the error of the last one if all fail."""
        for number in range(self._route.retries + 1):
            if number:
                await self._pause(number)
            winner = await self._round()
            if winner is not None:
                return winner
        raise self._failure()

    async def _round(self) -> Winner[T] | None:
        """Try each target once, the next one when one fails or is slow. Returns None if all have failed."""
        now = self._clock.now()
        waiting = deque(t for t in self._plan.targets if self._not_before.get(id(t), 0.0) <= now)
        running: list[asyncio.Task[Winner[T]]] = []
        hedge_s = self._route.hedge_after_ms / 1000
        winner: Winner[T] | None = None
        try:
            while winner is None and (running or self._start(waiting, running)):
                timeout_s = hedge_s if hedge_s and waiting else None
                done, _ = await asyncio.wait(running, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    self._start(waiting, running)
                winner = self._take(done, running)
        finally:
            # the losers are closed even when this is cancelled, and then the winner, too
            closing = asyncio.ensure_future(_close(running))
            try:
                await asyncio.shield(closing)
            except BaseException:
                await closing
                if winner is not None:
                    await winner.exits.aclose()
                raise
        return winner

    def _start(self, waiting: deque[Target], running: list[asyncio.Task[Winner[T]]]) -> bool:
        """Start an attempt at the next target whose breaker permits it. Returns False if there is none."""
        while waiting:
            target = waiting.popleft()
            assert target.breaker is not None, "a route's targets have breakers"
            permit = target.breaker.take()
            if permit is not None:
                self.count += 1
                running.append(asyncio.ensure_future(self._attempt(target, permit)))
                return True
            self._not_before[id(target)] = self._clock.now() + target.breaker.retry_after_s
        return False

    def _take(
        self, done: Collection[asyncio.Task[Winner[T]]], running: list[asyncio.Task[Winner[T]]]
    ) -> Winner[T] | None:
        """The winner among the attempts that are done, if any. Raises an error that allows no fallback."""
        for task in [task for task in running if task in done and task.exception() is None]:
            running.remove(task)
            return task.result()
        for task in done:
            running.remove(task)
        for task in done:
            error = task.exception()
            if not isinstance(error, ServerError) or not reasons(error) & set(self._route.fallback_on):
                raise error or AssertionError("the attempt has failed")
            self._error = error
        return None

    async def _attempt(self, target: Target, permit: Permit) -> Winner[T]:
        try:
            async with AsyncExitStack() as exits:
                value = await self._run_at(target, exits)
                permit.succeeded()
                return Winner(target, value, exits.pop_all())
        except ServerError as exc:
            self._report(exc, target, permit)
            raise
        except BaseException:
            permit.abandoned()
            raise

    def _report(self, error: ServerError, target: Target, permit: Permit) -> None:
        """Report an error to the target's breaker, and note when the target may be tried again."""
        why = reasons(error)
        if why & {"connection", "408", "5xx"}:
            permit.failed()
        elif why or isinstance(error, BadRequest):
            permit.abandoned()  # busy, too small, or never reached: that says nothing about its health
        else:
            permit.succeeded()  # it refused the request, or has begun to answer: it is alive
        is_guess = isinstance(error, ProviderError) and error.is_pause_guessed
        wait_s = 0.0 if is_guess else retry_after_s(error)
        wait_s = math.inf if isinstance(error, ContextTooLong) else wait_s
        self._not_before[id(target)] = self._clock.now() + wait_s

    async def _pause(self, number: int) -> None:
        """Sleep until a target may be tried again. Raises the last error if that would be too late, or if the
        breakers of all targets are open: no request waits for those.
        """
        now = self._clock.now()
        targets = [one for one in self._plan.targets if one.breaker is None or not one.breaker.retry_after_s]
        if not targets:
            raise self._failure()
        pause_s = FIRST_PAUSE_S * 2 ** (number - 1) * self._clock.random.uniform(0.5, 1.5)
        soonest_s = min(self._not_before.get(id(target), now) for target in targets) - now
        wait_s = max(pause_s, soonest_s)
        if wait_s > MAX_PAUSE_S or (self._deadline is not None and now + wait_s >= self._deadline):
            raise self._failure()
        await self._clock.sleep(wait_s)

    def _failure(self) -> ServerError:
        if self._error is not None:
            return self._error
        soonest_s = min(self._not_before.values(), default=0.0) - self._clock.now()
        return ProviderUnreachable(
            "every target has failed several times in a row and is left alone for a while",
            headers={"Retry-After": str(max(1, math.ceil(soonest_s)))},
        )


async def _close(tasks: Collection[asyncio.Task[Winner[T]]]) -> None:
    """Cancel attempts that have lost, and close those that succeeded all the same."""
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Winner):
            try:
                await ended.exits.aclose()
            except Exception:
                log.exception("a target that lost could not be closed")


def retry_after_s(error: ServerError) -> float:
    """Seconds that an error's Retry-After header (a number or a date) asks to wait; 0 without one."""
    text = next((value for name, value in error.headers.items() if name.lower() == "retry-after"), "0")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0
