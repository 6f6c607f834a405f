"""Limits that processes share in a real Valkey: as in memory, never more, and nothing stays reserved."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from headrace.callers import Limits, Principal
from headrace.errors import Overloaded, RateLimited
from headrace.limits.demand import Demand, Limiter, Reservation
from headrace.limits.memory import MemoryLimiter
from headrace.limits.redis import RedisLimiter
from tests.valkey import Valkey, valkey

ROOT = Path(__file__).parents[2]
PROCESSES, CLIENTS, LIMIT = 3, 67, 100
LEASE_S = 1.0  # of processes that are killed


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with valkey(tmp_path_factory.mktemp("valkey")) as found:
        yield found


async def nothing(_: str) -> tuple[int, int]:
    return 0, 0


def run(url: str, work: Callable[[RedisLimiter], Awaitable[None]], **options: object) -> None:
    async def inner() -> None:
        all_options: dict[str, object] = {"when_down": "closed", "lease_s": 30.0, "spent": nothing, **options}
        limiter = RedisLimiter(url, **all_options)  # type: ignore[arg-type]
        await limiter.start()
        try:
            await work(limiter)
        finally:
            await limiter.aclose()

    asyncio.run(inner())


Outcome = Reservation | tuple[str, str | None, str | None]  # granted; or refused: message, code, what is left


async def outcome(limiter: Limiter, who: Principal, demand: Demand) -> Outcome:
    try:
        return await limiter.reserve(who, demand)
    except RateLimited as exc:
        return exc.message, exc.code, exc.headers.get("x-ratelimit-remaining-tokens")


def limits_of(chance: random.Random) -> Limits:
    return Limits(
        chance.choice([None, 20]),
        chance.choice([None, 100]),
        chance.choice([None, 5]),
        chance.choice([None, 150]),
        chance.choice([None, 0.0005]),
    )


def test_waiting_takes_a_minute_at_most(server: Valkey) -> None:
    async def work(limiter: RedisLimiter) -> None:
        for number in range(20):  # at several moments of a second
            who = Principal(f"minute_{number}", limits=Limits(requests_per_minute=1))
            await limiter.reserve(who, Demand())
            with pytest.raises(RateLimited) as refused:
                await limiter.reserve(who, Demand())
            assert refused.value.headers["Retry-After"] in ("59", "60")
            await asyncio.sleep(0.06)

    run(server.url, work)


def test_a_clock_that_was_set_back_keeps_nobody_out_for_longer_than_a_minute(server: Valkey) -> None:
    """What came before counts as if it came now."""

    async def work(limiter: RedisLimiter) -> None:
        who = Principal("key_clock", limits=Limits(requests_per_minute=2, tokens_per_minute=100))
        window = "headrace:{key_clock}:window"
        tomorrow = int(time.time()) + 86_400
        async with Redis.from_url(server.url, decode_responses=True) as redis:
            for field, value in (("r", "2"), ("t", "90"), ("e", f"{tomorrow}.5")):
                await redis.hset(window, f"{field}{tomorrow}", value)
            with pytest.raises(RateLimited) as refused:
                await limiter.reserve(who, Demand(5))
            assert refused.value.headers["Retry-After"] in ("59", "60")
            assert refused.value.headers["x-ratelimit-remaining-tokens"] == "10"
            assert max(int(name[1:]) for name in await redis.hkeys(window)) < tomorrow - 86_000

    run(server.url, work)


def test_it_decides_as_the_limits_in_memory_do(server: Valkey) -> None:
    async def work(limiter: RedisLimiter) -> None:
        for seed in range(12):
            chance = random.Random(seed)
            who, memory = Principal(f"key_{seed}", limits=limits_of(chance)), MemoryLimiter(nothing)
            running: list[tuple[Reservation, Reservation, int]] = []
            for _ in range(60):
                if running and chance.random() < 0.4:
                    mine, theirs, most = running.pop(chance.randrange(len(running)))
                    used = chance.randint(0, most)
                    await mine.settle(used, used * 1000)
                    await theirs.settle(used, used * 1000)
                    continue
                least = chance.randint(0, 8)
                demand = Demand(chance.randint(0, 9), least, least + chance.choice([0, 0, 30]), 1000, 3000)
                first, second = await outcome(limiter, who, demand), await outcome(memory, who, demand)
                if isinstance(first, tuple) or isinstance(second, tuple):
                    assert first == second
                    continue
                assert first.answer == second.answer
                for name in ("remaining-tokens", "remaining-requests", "limit-tokens"):
                    header = f"x-ratelimit-{name}"
                    assert first.headers().get(header) == second.headers().get(header)
                running.append((first, second, demand.prompt + first.answer))

    run(server.url, work)


def test_budgets_begin_with_what_was_used_before(server: Valkey) -> None:
    async def spent(_: str) -> tuple[int, int]:
        return 90, 0

    async def work(limiter: RedisLimiter) -> None:
        who = Principal("key_budget", limits=Limits(total_tokens=100))
        granted = await limiter.reserve(who, Demand(5, 1, 400))
        assert granted.answer == 5
        with pytest.raises(RateLimited) as raised:
            await limiter.reserve(who, Demand(1))
        assert raised.value.code == "insufficient_quota"
        await granted.settle(6, 0)
        await granted.settle(0, 0)
        assert (await limiter.reserve(who, Demand(4))).answer == 0

    run(server.url, work, spent=spent)


def test_what_runs_when_a_key_gets_a_budget_counts_against_it(server: Valkey) -> None:
    async def work(limiter: RedisLimiter) -> None:
        earlier = await limiter.reserve(
            Principal("key_late", limits=Limits(tokens_per_minute=5000)), Demand(100, 50, 50)
        )
        who = Principal("key_late", limits=Limits(total_tokens=200))
        with pytest.raises(RateLimited):
            await limiter.reserve(who, Demand(51, 0, 0))
        first = await limiter.reserve(who, Demand(50, 0, 0))
        await earlier.settle(60, 0)
        with pytest.raises(RateLimited):
            await limiter.reserve(who, Demand(91, 0, 0))
        await first.settle(50, 0)
        await limiter.reserve(who, Demand(90, 0, 0))

    run(server.url, work)


def test_a_reservation_whose_reply_is_lost_counts_once(server: Valkey) -> None:
    async def work(limiter: RedisLimiter) -> None:
        who = Principal("key_lost", limits=Limits(tokens_per_minute=100))
        demand = Demand(10, 10, 10)
        first = await limiter._call_reserve(who, demand, "lease", (-1, -1))
        again = await limiter._call_reserve(who, demand, "lease", (-1, -1))
        assert again[:4] == first[:4]
        assert (await limiter.reserve(who, demand)).headers()["x-ratelimit-remaining-tokens"] == "60"

    run(server.url, work)


def test_a_caller_who_leaves_while_it_reserves_leaves_nothing_behind(server: Valkey) -> None:
    async def work(limiter: RedisLimiter) -> None:
        who = Principal("key_left", limits=Limits(concurrent_requests=1))
        for _ in range(20):
            asking = asyncio.ensure_future(limiter.reserve(who, Demand()))
            await asyncio.sleep(0.0005)
            asking.cancel()
            outcome = (await asyncio.gather(asking, return_exceptions=True))[0]
            if not isinstance(outcome, BaseException):
                await outcome.settle(0, 0)
        while limiter._tasks:  # what was granted too late is given back meanwhile
            await asyncio.wait(limiter._tasks)
        await limiter.reserve(who, Demand())

    run(server.url, work)


@pytest.mark.parametrize("when_down", ["closed", "open"])
def test_while_it_is_down_limits_are_closed_or_open_and_it_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, when_down: str
) -> None:
    who = Principal("key_a", limits=Limits(concurrent_requests=1))
    with valkey(tmp_path) as server:

        async def work(limiter: RedisLimiter) -> None:
            first = await limiter.reserve(who, Demand())
            server.stop()
            if when_down == "closed":
                with pytest.raises(Overloaded) as raised:
                    await limiter.reserve(who, Demand())
                assert "Retry-After" in raised.value.headers
            else:
                local = await limiter.reserve(who, Demand())
                with pytest.raises(RateLimited):  # by itself
                    await limiter.reserve(who, Demand())
                await local.settle(0, 0)
            await first.settle(0, 0)
            server.start()
            await limiter._renew()
            await limiter.reserve(who, Demand())
            with pytest.raises(RateLimited):
                await limiter.reserve(who, Demand())

        run(server.url, work, when_down=when_down)
    texts = [record.message for record in caplog.records]
    assert sum("Redis cannot be used" in text for text in texts) == 1
    assert sum("Redis is back" in text for text in texts) == 1


class Counting(RedisLimiter):
    """Counts the reservations that are sent to Redis."""

    num_sent = 0

    async def _call_reserve(
        self, caller: Principal, demand: Demand, lease: str, spent: tuple[int, int]
    ) -> list[str]:
        self.num_sent += 1
        return await super()._call_reserve(caller, demand, lease, spent)


def test_one_that_hangs_holds_up_no_further_request_and_is_found_again(tmp_path: Path) -> None:
    who = Principal("key_a", limits=Limits(concurrent_requests=1))
    with valkey(tmp_path) as server:

        async def work() -> None:
            limiter = Counting(server.url, nothing, when_down="closed")
            await limiter.start()
            first = await limiter.reserve(who, Demand())
            num_before = limiter.num_sent
            server.pause()
            await asyncio.gather(*(refused(limiter) for _ in range(3)))
            await asyncio.gather(*(refused(limiter) for _ in range(50)))
            await first.settle(0, 0)
            assert limiter.num_sent == num_before + 3, "the first ones wait, the others do not"
            server.resume()
            await limiter._renew()
            second = await limiter.reserve(who, Demand())  # the first is settled
            await second.settle(0, 0)
            await limiter.aclose()

        async def refused(limiter: RedisLimiter) -> None:
            with pytest.raises(Overloaded):
                await limiter.reserve(who, Demand())

        asyncio.run(work())


def processes(url: str, limit: int, lease_s: float) -> list[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.limits.clients", url, str(CLIENTS), str(limit), str(lease_s)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
        )
        for _ in range(PROCESSES)
    ]
    for process in found:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    return found


def rest(process: subprocess.Popen[str]) -> str:
    """End a process and return its output. `communicate` would lose what `readline` has read ahead."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    with process:
        text = process.stdout.read()
    assert process.returncode == 0
    return text


def test_clients_of_three_processes_never_get_more_than_the_limit(tmp_path: Path) -> None:
    """201 clients of one key with 100 tokens a minute, which ask for more all the time."""
    with valkey(tmp_path) as server:
        started = processes(server.url, LIMIT, 60.0)  # what stays reserved is not freed by a lease's end
        time.sleep(1)  # they compete meanwhile
        outputs = [rest(process) for process in started]
        lines = [line.split() for text in outputs for line in text.splitlines()]
        uses = [(float(at), int(used)) for at, used in lines]
        assert uses
        assert sum(used for _, used in uses) <= LIMIT  # all of it within a minute

        async def nothing_stays(limiter: RedisLimiter) -> None:
            who = Principal("key_shared", limits=Limits(tokens_per_minute=LIMIT))
            granted = await limiter.reserve(who, Demand(0, 0, 1000))
            assert granted.answer == LIMIT - sum(used for _, used in uses)

        run(server.url, nothing_stays, lease_s=LEASE_S)


HOLDER = """
import asyncio, sys
from headrace.callers import Limits, Principal
from headrace.limits.demand import Demand, Limiter, Reservation
from headrace.limits.redis import RedisLimiter

async def spent(_):
    return 0, 0

async def main():
    limiter = RedisLimiter(sys.argv[1], spent, when_down="closed", lease_s=float(sys.argv[2]))
    await limiter.start()
    limits = Limits(None, 100, 1, 100)
    await limiter.reserve(Principal("key_held", limits=limits), Demand(50, 50, 50))
    print("held", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_what_a_killed_process_had_reserved_is_free_after_its_lease(tmp_path: Path) -> None:
    who = Principal("key_held", limits=Limits(None, 100, 1, 100))
    with valkey(tmp_path) as server:
        command = [sys.executable, "-c", HOLDER, server.url, str(LEASE_S)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}

        async def work(limiter: RedisLimiter) -> None:
            # the next line blocks until the process is there, which nothing else here minds
            with subprocess.Popen(  # noqa: ASYNC220
                command, stdout=subprocess.PIPE, text=True, env=environment
            ) as holder:
                assert holder.stdout is not None
                assert holder.stdout.readline() == "held\n"
                await asyncio.sleep(2 * LEASE_S)  # while it lives, its lease is renewed
                with pytest.raises(RateLimited):
                    await limiter.reserve(who, Demand(1))
                holder.kill()
            while True:  # until the lease is over
                try:
                    granted = await limiter.reserve(who, Demand(1, 0, 1000))
                except RateLimited:
                    await asyncio.sleep(0.05)
                else:
                    break
            assert granted.answer == 99

        run(server.url, work, lease_s=LEASE_S)
