"""Limits of one process: never more than the limit in any minute, and nothing stays reserved."""

from __future__ import annotations

import asyncio
import random

import pytest

from headrace.callers import Limits, Principal
from headrace.errors import RateLimited
from headrace.limits.demand import BILLION, Demand
from headrace.limits.memory import MemoryLimiter, MemoryReservation


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


async def nothing(_: str) -> tuple[int, int]:
    return 0, 0


def caller(**limits: float) -> Principal:
    return Principal("key_a", limits=Limits(**limits))  # type: ignore[arg-type]


def reserve(limiter: MemoryLimiter, who: Principal, demand: Demand | None = None) -> MemoryReservation:
    return asyncio.run(limiter.reserve(who, demand or Demand()))


def settle(reservation: MemoryReservation, tokens: int = 0, cost: int = 0) -> None:
    asyncio.run(reservation.settle(tokens, cost))


def refused(limiter: MemoryLimiter, who: Principal, demand: Demand | None = None) -> RateLimited:
    with pytest.raises(RateLimited) as raised:
        reserve(limiter, who, demand)
    return raised.value


def test_requests_a_minute() -> None:
    clock = Clock()
    limiter, who = MemoryLimiter(nothing, clock), caller(requests_per_minute=2)
    assert reserve(limiter, who).headers()["x-ratelimit-remaining-requests"] == "1"
    clock.time += 10
    last = reserve(limiter, who)
    assert last.headers() == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
    }
    error = refused(limiter, who)
    assert (error.status, error.code, error.headers["Retry-After"]) == (429, "rate_limit_exceeded", "50")
    clock.time += 50
    reserve(limiter, who)
    assert refused(limiter, who).headers["Retry-After"] == "10"


@pytest.mark.parametrize("start", [1000.0, 1000.25, 123456.999])
def test_waiting_takes_a_minute_at_most_and_then_suffices(start: float) -> None:
    clock = Clock()
    clock.time = start
    limiter, who = MemoryLimiter(nothing, clock), caller(requests_per_minute=1)
    reserve(limiter, who)
    assert refused(limiter, who).headers["Retry-After"] == "60"
    clock.time += 59.9
    assert refused(limiter, who).headers["Retry-After"] == "1"
    clock.time = start + 60
    reserve(limiter, who)


def test_tokens_are_reserved_and_settled() -> None:
    limiter, who = MemoryLimiter(nothing, Clock()), caller(tokens_per_minute=100)
    first = reserve(limiter, who, Demand(20, 30, 30))
    assert first.headers()["x-ratelimit-remaining-tokens"] == "50"
    assert refused(limiter, who, Demand(20, 31, 31)).headers["x-ratelimit-remaining-tokens"] == "50"
    settle(first, 25)
    settle(first, 0)  # once only
    assert reserve(limiter, who, Demand(20, 31, 31)).headers()["x-ratelimit-remaining-tokens"] == "24"


def test_an_answer_without_a_limit_gets_what_is_left() -> None:
    limiter, who = MemoryLimiter(nothing, Clock()), caller(tokens_per_minute=100)
    settle(reserve(limiter, who, Demand(10, 10, 10)), 20)
    assert reserve(limiter, who, Demand(10, 5, 4096)).answer == 70
    refused(limiter, who, Demand(10, 5, 4096))


def test_what_never_fits_says_so() -> None:
    error = refused(MemoryLimiter(nothing, Clock()), caller(tokens_per_minute=100), Demand(60, 41, 41))
    assert error.headers["x-should-retry"] == "false"
    assert "max_tokens" in error.message


def test_requests_at_once() -> None:
    limiter, who = MemoryLimiter(nothing, Clock()), caller(concurrent_requests=2)
    first, _ = reserve(limiter, who), reserve(limiter, who)
    assert refused(limiter, who).headers["Retry-After"] == "1"
    settle(first)
    reserve(limiter, who)


def test_budgets_count_what_was_used_before() -> None:
    async def spent(_: str) -> tuple[int, int]:
        return 900, 0

    limiter, who = MemoryLimiter(spent, Clock()), caller(total_tokens=1000)
    first = reserve(limiter, who, Demand(50, 50, 50))
    error = refused(limiter, who, Demand(1, 0, 0))
    assert (error.code, error.headers["x-should-retry"]) == ("insufficient_quota", "false")
    settle(first, 60)
    assert reserve(limiter, who, Demand(10, 5, 4096)).answer == 30


def test_what_runs_when_a_key_gets_a_budget_counts_against_it() -> None:
    """Its reservation does until it ends, and what it has used then."""
    limiter = MemoryLimiter(nothing, Clock())
    earlier = reserve(limiter, caller(tokens_per_minute=5000), Demand(100, 50, 50))
    who = caller(total_tokens=200)
    assert refused(limiter, who, Demand(51, 0, 0)).code == "insufficient_quota"
    first = reserve(limiter, who, Demand(50, 0, 0))
    settle(earlier, 60)
    assert refused(limiter, who, Demand(91, 0, 0)).code == "insufficient_quota"
    settle(first, 50)
    reserve(limiter, who, Demand(90, 0, 0))


def test_a_budget_of_cost() -> None:
    limiter, who = MemoryLimiter(nothing, Clock()), caller(total_cost=0.001)
    demand = Demand(100, 10, 4096, prompt_price=1000, answer_price=4000)
    first = reserve(limiter, who, demand)
    assert first.answer == (BILLION // 1000 - 100_000) // 4000
    assert refused(limiter, who, demand).code == "insufficient_quota"
    settle(first, 200, 500_000)
    assert reserve(limiter, who, demand).answer == 100


def test_keys_do_not_share_limits() -> None:
    limiter = MemoryLimiter(nothing, Clock())
    for number in range(1500):
        settle(reserve(limiter, Principal(f"key_{number}", limits=Limits(requests_per_minute=1))))


def test_at_random_no_minute_has_more_than_the_limit_and_all_comes_back() -> None:
    for seed in range(30):
        chance, clock = random.Random(seed), Clock()
        limiter, who = MemoryLimiter(nothing, clock), caller(tokens_per_minute=100, concurrent_requests=7)
        used: list[tuple[float, int]] = []
        running: list[tuple[float, MemoryReservation, int]] = []
        for _ in range(400):
            clock.time += chance.choice([0, 0, 0.4, 3])
            if running and chance.random() < 0.5:
                at, reservation, most = running.pop(chance.randrange(len(running)))
                tokens = chance.randint(0, most)
                settle(reservation, tokens)
                used.append((at, tokens))
                continue
            prompt, answer = chance.randint(1, 20), chance.randint(1, 30)
            try:
                granted = reserve(limiter, who, Demand(prompt, answer, answer))
            except RateLimited:
                continue
            running.append((clock.time, granted, prompt + answer))
            assert len(running) <= 7
        used += [(at, most) for at, _, most in running]
        for start, _ in used:
            assert sum(tokens for at, tokens in used if start <= at < start + 60) <= 100
        for _, reservation, _ in running:
            settle(reservation)
        clock.time += 61
        assert reserve(limiter, who, Demand(100)).headers()["x-ratelimit-remaining-tokens"] == "0"
