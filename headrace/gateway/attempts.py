"""One request's way along its targets: fallback, retries and hedging, all before the first event. What loses
is closed before what wins is handed over.
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

from headrace.config import FallbackReason, RouteConfig
from headrace.errors import (
    BadRequest,
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
from headrace.gateway.breaker import Permit
from headrace.gateway.routing import Plan, Target

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.25  # doubled for each further round, give or take a half
MAX_PAUSE_S = 10.0  # a longer Retry-After is passed on to the caller instead of waited for

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and chance, so that tests decide both. `now`: seconds, monotonic."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Random = field(default_factory=Random)


@dataclass(frozen=True, slots=True)
class Winner(Generic[T]):
    """Who has it closes `exits`."""

    target: Target
    value: T
    exits: AsyncExitStack


class Attempts(Generic[T]):
    """`work` asks one target; what it has to give back when it is over goes into the stack. `deadline`: of
    the request, on the world's clock.
    """

    def __init__(
        self,
        plan: Plan,
        route: RouteConfig,
        work: Callable[[Target, AsyncExitStack], Awaitable[T]],
        *,
        world: Clock,
        deadline: float | None,
    ) -> None:
        self._plan, self._route, self._work = plan, route, work
        self._world, self._deadline = world, deadline
        self.count = 0  # attempts begun
        self._error: ServerError | None = None  # of the last that failed
        self._not_before: dict[int, float] = {}  # target → when it may be asked again

    async def run(self) -> Winner[T]:
        """The first that succeeds. Raises what the last one failed with."""
        for number in range(self._route.retries + 1):
            if number:
                await self._pause(number)
            won = await self._round()
            if won is not None:
                return won
        raise self._failure()

    async def _round(self) -> Winner[T] | None:
        """Each target once, the next when one fails or is slow; None: all have failed."""
        now = self._world.now()
        waiting = deque(t for t in self._plan.targets if self._not_before.get(id(t), 0.0) <= now)
        running: list[asyncio.Task[Winner[T]]] = []
        hedge_s = self._route.hedge_after_ms / 1000
        won: Winner[T] | None = None
        try:
            while won is None and (running or self._start(waiting, running)):
                timeout_s = hedge_s if hedge_s and waiting else None
                done, _ = await asyncio.wait(running, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    self._start(waiting, running)
                won = self._take(done, running)
        finally:
            # under a cancellation, too
            closing = asyncio.ensure_future(_close(running))
            try:
                await asyncio.shield(closing)
            except BaseException:
                await closing
                if won is not None:
                    await won.exits.aclose()
                raise
        return won

    def _start(self, waiting: deque[Target], running: list[asyncio.Task[Winner[T]]]) -> bool:
        """Whether one of those that wait could be asked."""
        while waiting:
            target = waiting.popleft()
            assert target.breaker is not None, "a route's targets have breakers"
            permit = target.breaker.take()
            if permit is not None:
                self.count += 1
                running.append(asyncio.ensure_future(self._attempt(target, permit)))
                return True
            self._not_before[id(target)] = self._world.now() + target.breaker.retry_after_s
        return False

    def _take(
        self, done: Collection[asyncio.Task[Winner[T]]], running: list[asyncio.Task[Winner[T]]]
    ) -> Winner[T] | None:
        """The winner, if there is one. Raises the error of one that failed for good."""
        for task in [task for task in running if task in done and task.exception() is None]:
            running.remove(task)
            return task.result()
        for task in done:
            running.remove(task)
        for task in done:
            error = task.exception()
            if not isinstance(error, ServerError) or not reasons(error) & set(self._route.fallback_on):
                raise error or AssertionError("it has failed")
            self._error = error
        return None

    async def _attempt(self, target: Target, permit: Permit) -> Winner[T]:
        try:
            async with AsyncExitStack() as exits:
                value = await self._work(target, exits)
                permit.succeeded()
                return Winner(target, value, exits.pop_all())
        except ServerError as exc:
            self._judge(exc, target, permit)
            raise
        except BaseException:
            permit.abandoned()
            raise

    def _judge(self, error: ServerError, target: Target, permit: Permit) -> None:
        """What an error says about its target."""
        why = reasons(error)
        if why & {"connection", "408", "5xx"}:
            permit.failed()
        elif why or isinstance(error, BadRequest):
            permit.abandoned()  # busy, or too small, or never asked: that says nothing of its health
        else:
            permit.succeeded()  # it finds fault with the request, or has begun to answer: it lives
        wait_s = math.inf if isinstance(error, ContextTooLong) else retry_after_s(error)
        self._not_before[id(target)] = self._world.now() + wait_s

    async def _pause(self, number: int) -> None:
        """Until one of them may be asked again. Raises their error if that is too late."""
        now, targets = self._world.now(), self._plan.targets
        pause_s = FIRST_PAUSE_S * 2 ** (number - 1) * self._world.random.uniform(0.5, 1.5)
        soonest_s = min(self._not_before.get(id(target), now) for target in targets) - now
        wait_s = max(pause_s, soonest_s)
        if wait_s > MAX_PAUSE_S or (self._deadline is not None and now + wait_s >= self._deadline):
            raise self._failure()
        await self._world.sleep(wait_s)

    def _failure(self) -> ServerError:
        if self._error is not None:
            return self._error
        soonest_s = min(self._not_before.values(), default=0.0) - self._world.now()
        return ProviderUnreachable(
            "every target has failed several times in a row and is left alone for a while",
            headers={"Retry-After": str(max(1, math.ceil(soonest_s)))},
        )


async def _close(tasks: Collection[asyncio.Task[Winner[T]]]) -> None:
    """What has lost: cancelled, and what it held given back."""
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Winner):
            try:
                await ended.exits.aclose()
            except Exception:
                log.exception("a target that lost could not be closed")


def reasons(error: ServerError) -> set[FallbackReason]:
    """Under which names an error may make the next target be asked; none: it would be told the same."""
    if isinstance(error, ProviderError) and error.is_begun:
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


def retry_after_s(error: ServerError) -> float:
    """What an error's Retry-After asks for, a number or a date; 0: nothing."""
    text = next((value for name, value in error.headers.items() if name.lower() == "retry-after"), "0")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0
