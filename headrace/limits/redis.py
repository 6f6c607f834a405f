"""Limits that several processes share, in Redis or Valkey. Each reservation and each settlement is one
script, which the server runs without anything in between.

A reservation is a lease: it names its process, and every process has a key that expires after LEASE_S unless
it is renewed. The leases of a process whose key is gone are given back by the next reservation of the same
API key. So nothing stays reserved longer than LEASE_S after a process was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from headrace.callers import Principal
from headrace.errors import ConfigError, Overloaded
from headrace.limits.demand import BILLION, Demand, Reason, Reservation, State, refusal
from headrace.limits.memory import MemoryLimiter, Spent

log = logging.getLogger(__name__)

LEASE_S = 30.0
ANSWER_S = 2.0  # how long Redis may take to answer: a request waits for it
PROBE_S = 1.0  # between two attempts to reach Redis while it is down: requests do not wait for them
PREFIX = "headrace:"
PROCESSES = PREFIX + "process:"
FOLDER = Path(__file__).parent


class RedisLimiter:
    """`when_down`: whether requests are refused while Redis is down ("closed"), or each process applies the
    limits by itself ("open"). `spent`: as in MemoryLimiter. `lease_s` is shorter in tests.
    """

    def __init__(
        self, url: str, spent: Spent, *, when_down: Literal["open", "closed"], lease_s: float = LEASE_S
    ) -> None:
        try:
            self._redis = Redis.from_url(
                url, decode_responses=True, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S
            )
        except ValueError as exc:
            raise ConfigError(f"limits.redis_url: {exc}") from exc
        self._reserve = self._redis.register_script((FOLDER / "reserve.lua").read_text())
        self._settle = self._redis.register_script((FOLDER / "settle.lua").read_text())
        self._spent, self._lease_s = spent, lease_s
        self._local = MemoryLimiter(spent) if when_down == "open" else None
        self._process = secrets.token_hex(12)
        self._unsettled: deque[RedisReservation] = deque()  # that ended while Redis was down
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_down = False
        self._beat: asyncio.Task[None] | None = None
        self._is_closing = False  # rather than a cancellation, which redis-py may swallow
        self._wake = asyncio.Event()  # ends the pause between two renewals

    async def start(self) -> None:
        """Register this process, and keep its leases alive."""
        await self._renew()
        self._beat = asyncio.create_task(self._keep_alive())

    async def aclose(self) -> None:
        """Settle what is left, and deregister this process."""
        self._is_closing = True
        self._wake.set()
        if self._beat is not None:
            await self._beat
        while self._tasks:  # a reservation that ends may start its own settlement
            await asyncio.wait(self._tasks)
        with contextlib.suppress(RedisError, OSError):
            await self._settle_rest()
            await self._redis.delete(PROCESSES + self._process)
        await self._redis.aclose()

    async def reserve(self, caller: Principal, demand: Demand) -> Reservation:
        """See Limiter. Raises RateLimited, StoreUnavailable; Overloaded while Redis is down and `when_down`
        is "closed".
        """
        # In a task of its own, which is never cancelled: redis-py may swallow a cancellation, and then the
        # caller would go on; and a grant whose reply is never read would stay reserved.
        granting = asyncio.ensure_future(self._grant(caller, demand))
        self._tasks.add(granting)
        granting.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(granting)
        except asyncio.CancelledError:
            granting.add_done_callback(self._undo)
            raise

    def _undo(self, granting: asyncio.Task[Reservation]) -> None:
        """Give back what was granted to a caller who has left meanwhile."""
        if granting.exception() is None:
            undoing = asyncio.ensure_future(granting.result().settle(0, 0))
            self._tasks.add(undoing)
            undoing.add_done_callback(self._tasks.discard)

    async def _grant(self, caller: Principal, demand: Demand) -> Reservation:
        if self._is_down:
            return await self._without(caller, demand)
        lease = secrets.token_hex(12)
        try:
            reply = await self._call_reserve(caller, demand, lease, (-1, -1))
            if reply[0] == "seed":
                reply = await self._call_reserve(caller, demand, lease, await self._spent(caller.id))
        except (RedisError, OSError) as exc:
            # it may have been granted without our knowing it
            self._unsettled.append(RedisReservation(self, caller, lease, demand, 0, State()))
            self._note(exc)
            return await self._without(caller, demand)
        state = State(int(reply[2]), int(reply[3]), *(float(text) for text in reply[4:7]))
        if reply[0]:
            raise refusal(cast("Reason", reply[0]), caller.limits, demand, state)
        return RedisReservation(self, caller, lease, demand, int(reply[1]), state)

    async def _without(self, caller: Principal, demand: Demand) -> Reservation:
        """Reserve in this process alone, while Redis is down. Raises Overloaded if that is not allowed."""
        if self._local is None:
            raise Overloaded("the limits of API keys cannot be checked now")
        return await self._local.reserve(caller, demand)

    async def settle(self, reservation: RedisReservation) -> None:
        """Settle now, or once Redis is back; also if the caller is cancelled."""
        settling = asyncio.ensure_future(self._settle_or_keep(reservation))
        self._tasks.add(settling)
        settling.add_done_callback(self._tasks.discard)
        await asyncio.shield(settling)

    async def _settle_or_keep(self, reservation: RedisReservation) -> None:
        if self._is_down:
            self._unsettled.append(reservation)
            return
        try:
            await self._call_settle(reservation)
        except (RedisError, OSError) as exc:
            self._note(exc)
            self._unsettled.append(reservation)

    async def _call_reserve(
        self, caller: Principal, demand: Demand, lease: str, spent: tuple[int, int]
    ) -> list[str]:
        limits, cost = caller.limits, caller.limits.total_cost
        counts = (
            limits.requests_per_minute, limits.tokens_per_minute, limits.concurrent_requests,
            limits.total_tokens, None if cost is None else int(cost * BILLION),
        )  # fmt: skip
        args: list[str | int] = [
            self._process, lease, *(-1 if count is None else count for count in counts),
            demand.prompt, demand.least, demand.most, demand.prompt_price, demand.answer_price, *spent,
            PROCESSES, int(self._lease_s * 1000),
        ]  # fmt: skip
        reply: list[str] = await self._reserve(keys=_keys(caller.id), args=args)
        return reply

    async def _call_settle(self, reservation: RedisReservation) -> None:
        args: list[str | int] = [reservation.lease, reservation.tokens, reservation.cost]
        await self._settle(keys=_keys(reservation.key), args=args)

    async def _settle_rest(self) -> None:
        while self._unsettled:
            reservation = self._unsettled.popleft()
            try:
                await self._call_settle(reservation)
            except BaseException:  # a cancellation, too: what is not settled must not be lost
                self._unsettled.appendleft(reservation)
                raise

    async def _keep_alive(self) -> None:
        while not self._is_closing:
            with contextlib.suppress(TimeoutError):
                # Three times a lease: two renewals may fail before others give this process's leases back.
                async with asyncio.timeout(PROBE_S if self._is_down else self._lease_s / 3):
                    await self._wake.wait()
            self._wake.clear()
            await self._renew()

    async def _renew(self) -> None:
        try:
            if self._is_down:  # what is left of the connections to it may be dead
                await self._redis.connection_pool.disconnect(inuse_connections=False)
            await self._redis.set(PROCESSES + self._process, "1", px=int(self._lease_s * 1000))
            await self._settle_rest()
        except (RedisError, OSError) as exc:
            self._note(exc)
        else:
            self._note(None)

    def _note(self, error: Exception | None) -> None:
        """Log when Redis goes away, and when it is back. One call that fails is enough: requests do without
        it then until `_renew` has reached it, which is tried at once.
        """
        if error is not None and not self._is_down:
            how = (
                "requests with limits are refused" if self._local is None else "each process limits by itself"
            )
            log.warning("limits: Redis cannot be used (%s): %s until it is back", type(error).__name__, how)
            self._wake.set()
        elif error is None and self._is_down:
            log.warning("limits: Redis is back")
        self._is_down = error is not None


class RedisReservation:
    """A grant. `tokens`, `cost`: what was used, once it is settled."""

    def __init__(
        self,
        limiter: RedisLimiter,
        caller: Principal,
        lease: str,
        demand: Demand,
        answer: int,
        state: State,
    ) -> None:
        self._limiter: RedisLimiter | None = limiter
        self.key, self.lease, self.answer = caller.id, lease, answer
        self.tokens = self.cost = 0
        self._limits, self._state, self._reserved = caller.limits, state, demand.prompt + answer

    def headers(self) -> Mapping[str, str]:
        return self._state.headers(self._limits)

    async def settle(self, tokens: int, cost: int) -> None:
        limiter, self._limiter = self._limiter, None  # settles once, however often it is called
        if limiter is not None:
            self.tokens, self.cost = tokens, cost
            self._state.tokens_left += self._reserved - tokens
            await limiter.settle(self)


def _keys(id: str) -> list[str]:
    return [f"{PREFIX}{{{id}}}:{kind}" for kind in ("window", "leases", "budgets")]
