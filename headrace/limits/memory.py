"""Limits within one process. Checking and reserving is one step of the event loop, so no other request comes
between. The last minute is counted in slices of one second.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from headrace.callers import Limits, Principal
from headrace.limits.demand import BILLION, WINDOW_S, Demand, Reason, State, refusal

MAX_IDLE = 1000  # keys that are remembered although nothing of theirs counts

# the tokens that a key has used so far, and their cost in billionths
Spent = Callable[[str], Awaitable[tuple[int, int]]]


@dataclass(slots=True)
class Slice:
    """The requests or tokens of one second. `last`: when the last of them came."""

    second: int
    count: int = 0
    last: float = 0.0

    def left_s(self, now: float) -> float:
        """Seconds for which it still counts: WINDOW_S at most."""
        return min(max(0.0, self.last + WINDOW_S - now), float(WINDOW_S))


class Window:
    """Counts requests or tokens. A slice counts until the last of it is WINDOW_S old, so that never more than
    the limit is in any WINDOW_S seconds. Times are in seconds, monotonic.
    """

    def __init__(self) -> None:
        self._slices: deque[Slice] = deque()  # the oldest first
        self.total = 0

    def forget(self, now: float) -> None:
        """Drop the slices that are over."""
        while self._slices and self._slices[0].left_s(now) <= 0:
            self.total -= self._slices.popleft().count

    def add(self, now: float, count: int) -> int:
        """Count, and return the slice's second."""
        second = int(now)
        if not self._slices or self._slices[-1].second != second:
            self._slices.append(Slice(second))
        self._slices[-1].count += count
        self._slices[-1].last = now
        self.total += count
        return second

    def change(self, second: int, by: int) -> None:
        """Correct the count of a slice, if it still counts."""
        for entry in reversed(self._slices):  # most requests take a second or two
            if entry.second == second:
                entry.count += by
                self.total += by
                return

    def reset_s(self, now: float) -> float:
        """Seconds until nothing counts any more."""
        return next((one.left_s(now) for one in reversed(self._slices) if one.count), 0.0)

    def free_s(self, now: float, excess: int) -> float:
        """Seconds until at least `excess` of the count is over."""
        for one in self._slices:
            excess -= one.count
            if excess <= 0:
                return one.left_s(now)
        return float(WINDOW_S)


@dataclass(slots=True)
class Account:
    """What one key uses. `tokens`, `cost`: of its budgets, reserved ones included; None: not loaded.
    `reserved_tokens`, `reserved_cost`: what running requests have reserved.
    """

    requests: Window = field(default_factory=Window)
    tokens_used: Window = field(default_factory=Window)
    num_running: int = 0
    reserved_tokens: int = 0
    reserved_cost: int = 0
    tokens: int | None = None
    cost: int | None = None

    @property
    def is_idle(self) -> bool:
        return not self.num_running and not self.requests.total and not self.tokens_used.total

    def forget(self, now: float) -> None:
        """Drop what is over."""
        self.requests.forget(now)
        self.tokens_used.forget(now)

    def state(self, limits: Limits, now: float, retry_s: float = 0.0) -> State:
        return State(
            (limits.requests_per_minute or 0) - self.requests.total,
            (limits.tokens_per_minute or 0) - self.tokens_used.total,
            self.requests.reset_s(now),
            self.tokens_used.reset_s(now),
            retry_s,
        )


class MemoryLimiter:
    """`spent`: reads the budgets' use so far, when a key is first seen. `now`: seconds, monotonic."""

    def __init__(self, spent: Spent, now: Callable[[], float] = time.monotonic) -> None:
        self._spent, self._now = spent, now
        self._accounts: dict[str, Account] = {}

    async def start(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    async def reserve(self, caller: Principal, demand: Demand) -> MemoryReservation:
        """Reserve what a request may use of its key's limits. Raises RateLimited, StoreUnavailable."""
        limits = caller.limits
        account = self._account(caller.id)
        if (limits.total_tokens is not None or limits.total_cost is not None) and account.tokens is None:
            # The only `await`: other requests run meanwhile, and may have loaded the account, or dropped it.
            tokens, cost = await self._spent(caller.id)
            account = self._account(caller.id)
            if account.tokens is None or account.cost is None:  # else another request has loaded it meanwhile
                # what ran before the key had a budget settles against it, too
                account.tokens = tokens + account.reserved_tokens
                account.cost = cost + account.reserved_cost
        # Nothing awaits from here on, so what `judge` finds still holds when the reservation is made.
        now = self._now()
        account.forget(now)
        reason, retry_s, answer = judge(limits, demand, account, now)
        if reason is not None:
            raise refusal(reason, limits, demand, account.state(limits, now, retry_s))
        return MemoryReservation(account, demand, answer, limits, self._now)

    def _account(self, id: str) -> Account:
        account = self._accounts.get(id)
        if account is None:
            if len(self._accounts) >= MAX_IDLE:
                self._drop_idle()
            account = self._accounts[id] = Account()
        return account

    def _drop_idle(self) -> None:
        now = self._now()
        for account in self._accounts.values():
            account.forget(now)
        self._accounts = {id: account for id, account in self._accounts.items() if not account.is_idle}


def judge(limits: Limits, demand: Demand, account: Account, now: float) -> tuple[Reason | None, float, int]:
    """The limit that the request meets, or None; the seconds after which that may change; and the tokens that
    its answers get.
    """
    if limits.concurrent_requests is not None and account.num_running >= limits.concurrent_requests:
        return "concurrent", 1.0, 0
    if limits.requests_per_minute is not None and account.requests.total >= limits.requests_per_minute:
        excess = account.requests.total - limits.requests_per_minute + 1
        return "requests", account.requests.free_s(now, excess), 0
    answer, needed = demand.most, demand.prompt + demand.least
    if limits.tokens_per_minute is not None:
        if needed > limits.tokens_per_minute:
            return "size", 0.0, 0
        left = limits.tokens_per_minute - account.tokens_used.total
        if needed > left:
            return "tokens", account.tokens_used.free_s(now, needed - left), 0
        answer = min(answer, left - demand.prompt)
    if limits.total_tokens is not None:
        left = limits.total_tokens - (account.tokens or 0)
        if needed > left:
            return "total_tokens", 0.0, 0
        answer = min(answer, left - demand.prompt)
    if limits.total_cost is not None:
        left = int(limits.total_cost * BILLION) - (account.cost or 0)
        if left <= 0 or demand.cost(demand.least) > left:
            return "total_cost", 0.0, 0
        if demand.answer_price:
            answer = min(answer, (left - demand.cost(0)) // demand.answer_price)
    return None, 0.0, answer


class MemoryReservation:
    """A grant. Creating it reserves."""

    def __init__(
        self, account: Account, demand: Demand, answer: int, limits: Limits, clock: Callable[[], float]
    ) -> None:
        self.answer = answer
        self._account, self._limits, self._now = account, limits, clock
        self._is_settled, now = False, clock()
        self._tokens, self._cost = demand.prompt + answer, demand.cost(answer)
        account.num_running += 1
        account.reserved_tokens += self._tokens
        account.reserved_cost += self._cost
        account.requests.add(now, 1)
        self._second = account.tokens_used.add(now, self._tokens)
        self._spend(account, self._tokens, self._cost)

    def headers(self) -> Mapping[str, str]:
        now = self._now()
        self._account.forget(now)
        return self._account.state(self._limits, now).headers(self._limits)

    async def settle(self, tokens: int, cost: int) -> None:
        account = self._account
        if self._is_settled:
            return
        self._is_settled = True
        account.num_running -= 1
        account.reserved_tokens -= self._tokens
        account.reserved_cost -= self._cost
        account.tokens_used.change(self._second, tokens - self._tokens)
        self._spend(account, tokens - self._tokens, cost - self._cost)

    @staticmethod
    def _spend(account: Account, tokens: int, cost: int) -> None:
        if account.tokens is not None and account.cost is not None:
            account.tokens += tokens
            account.cost += cost
