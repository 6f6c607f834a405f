"""The pool: models that are loaded when they are asked for, and unloaded when there is no room; with scripted
backends.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from headrace.errors import (
    ModelError,
    ModelLeased,
    ModelLocked,
    ModelNotFound,
    ModelUnavailable,
)
from headrace.pool import Entry, Pool
from headrace.pool.entry import Hold
from headrace.types import Event, GenerateRequest
from tests.gateway.gateways import ManualClock, ask
from tests.pool.models import SIZE, Models


@asynccontextmanager
async def pool_of(
    models: Models,
    ids: str = "abc",
    *,
    budget: int = 2 * SIZE,
    clock: ManualClock | None = None,
    **options: object,
) -> AsyncIterator[Pool]:
    time = {} if clock is None else {"now": clock.now}
    pool = Pool([models.known(id) for id in ids], budget_bytes=budget, **time, **options)  # type: ignore[arg-type]
    await pool.start()
    try:
        yield pool
    finally:
        await pool.aclose()


async def answer(pool: Pool, id: str) -> list[Event]:
    async with pool.generate(ask(id)) as events:
        return [event async for event in events]


@asynccontextmanager
async def busy(pool: Pool, id: str) -> AsyncIterator[None]:
    """A request to a model runs."""
    async with pool.generate(ask(id)):
        yield


async def eventually(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it did not happen in time")


def states(pool: Pool) -> dict[str, str]:
    return {id: entry.state for id, entry in pool.entries.items()}


def run(test: Callable[[Models], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(60):
            await test(Models())

    asyncio.run(within())


def test_a_request_loads_its_model() -> None:
    async def test(models: Models) -> None:
        async with pool_of(models) as pool:
            assert states(pool) == {"a": "ready", "b": "ready", "c": "ready"}
            assert [info.id for info in pool.models()] == ["a", "b", "c"]
            assert len(await answer(pool, "b")) == 2
            assert states(pool) == {"a": "ready", "b": "loaded", "c": "ready"}
            assert models.log == ["+b"]
        assert models.log == ["+b", "-b"]

    run(test)


def test_requests_that_come_together_load_once() -> None:
    async def test(models: Models) -> None:
        models.load_s = 0.05
        async with pool_of(models) as pool:
            await asyncio.gather(*(answer(pool, "a") for _ in range(10)))
            assert models.log == ["+a"]

    run(test)


def test_the_model_used_longest_ago_makes_room() -> None:
    async def test(models: Models) -> None:
        async with pool_of(models) as pool:
            for id in "abac":
                await answer(pool, id)
            assert models.log == ["+a", "+b", "-b", "+c"]
            assert pool.residents.used_bytes == 2 * SIZE

    run(test)


def test_a_model_that_answers_is_never_unloaded() -> None:
    async def test(models: Models) -> None:
        async with pool_of(models) as pool, busy(pool, "a"):
            for id in "bcbcb":
                await answer(pool, id)
            assert states(pool)["a"] == "loaded"
            assert "-a" not in models.log

    run(test)


def test_a_request_waits_for_memory_until_a_model_is_idle() -> None:
    async def test(models: Models) -> None:
        async with pool_of(models) as pool:
            async with busy(pool, "a"), busy(pool, "b"):
                waiting = asyncio.ensure_future(answer(pool, "c"))
                await eventually(lambda: pool.entries["c"].num_waiting)
                assert states(pool) == {"a": "loaded", "b": "loaded", "c": "loading"}
                assert pool.waited_for(waiting) is pool.entries["c"]
            assert len(await waiting) == 2
            assert pool.waited_for(waiting) is None

    run(test)


def test_a_caller_who_leaves_stops_only_its_own_wait() -> None:
    async def test(models: Models) -> None:
        async with pool_of(models) as pool:
            async with busy(pool, "a"), busy(pool, "b"):
                leaves, stays = (asyncio.ensure_future(answer(pool, "c")) for _ in range(2))
                await eventually(lambda: pool.entries["c"].num_waiting == 2)
                leaves.cancel()
                await asyncio.gather(leaves, return_exceptions=True)
                assert pool.entries["c"].num_waiting == 1
            assert len(await stays) == 2

    run(test)


def test_a_load_that_nobody_waits_for_any_more_unloads_nothing() -> None:
    async def test(models: Models) -> None:
        async with pool_of(models) as pool:
            async with busy(pool, "a"), busy(pool, "b"):
                waiting = asyncio.ensure_future(answer(pool, "c"))
                await eventually(lambda: pool.entries["c"].num_waiting)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                await eventually(lambda: pool.entries["c"].loading is None)
            assert states(pool) == {"a": "loaded", "b": "loaded", "c": "ready"}

    run(test)


def test_none_waits_for_ever_behind_models_that_are_always_busy() -> None:
    async def test(models: Models) -> None:
        clock = ManualClock()
        async with pool_of(models, clock=clock) as pool:
            stop = asyncio.Event()

            async def keep_busy(id: str) -> None:
                """Requests that overlap, so that the model is never idle."""
                while not stop.is_set():
                    await asyncio.gather(_hold(pool, id, 0.02), asyncio.sleep(0.01))

            loads = [asyncio.ensure_future(keep_busy(id)) for id in "abab"]
            await eventually(lambda: pool.residents.used_bytes == 2 * SIZE)
            waiting = asyncio.ensure_future(answer(pool, "c"))
            await eventually(lambda: pool.entries["c"].num_waiting)
            clock.time += 11
            assert len(await waiting) == 2
            stop.set()
            await asyncio.gather(*loads)

    run(test)


async def _hold(pool: Pool, id: str, for_s: float) -> None:
    async with busy(pool, id):
        await asyncio.sleep(for_s)


@pytest.mark.parametrize("how", ["pinned", "locked", "leased"])
def test_what_is_held_stays(how: str) -> None:
    async def test(models: Models) -> None:
        clock = ManualClock()
        pinned = frozenset("a" if how == "pinned" else "")
        async with pool_of(models, clock=clock, pinned=pinned) as pool:
            await answer(pool, "a")
            if how != "pinned":
                pool.hold("a", Hold("me", until=clock.time + 60 if how == "leased" else None))
            for id in "bcb":
                await answer(pool, id)
            assert states(pool)["a"] == "loaded"

    run(test)


def test_where_everything_is_held_there_is_no_room() -> None:
    async def test(models: Models) -> None:
        async with pool_of(models, pinned=frozenset("ab")) as pool:
            for id in "ab":
                await answer(pool, id)
            with pytest.raises(ModelUnavailable) as caught:
                await answer(pool, "c")
            assert "pinned, locked or leased" in caught.value.message
            assert int(caught.value.headers["Retry-After"]) > 0

    run(test)


def test_a_model_that_never_fits_says_so() -> None:
    async def test(models: Models) -> None:
        async with pool_of(models, budget=SIZE - 1) as pool:
            with pytest.raises(ModelUnavailable, match=r"engine\.memory_budget"):
                await answer(pool, "a")

    run(test)


def test_a_failed_load_is_a_503_with_its_reason_until_a_pause_is_over() -> None:
    async def test(models: Models) -> None:
        clock = ManualClock()
        models.faults["a"] = ModelError("the file is damaged")
        async with pool_of(models, clock=clock) as pool:
            for _ in range(2):
                with pytest.raises(ModelUnavailable, match="the file is damaged") as caught:
                    await answer(pool, "a")
                assert (caught.value.status, caught.value.headers["Retry-After"]) == (503, "5")
            assert models.log == ["-a"], "it was tried once, and closed"
            clock.time += 5
            with pytest.raises(ModelUnavailable) as caught:
                await answer(pool, "a")
            assert caught.value.headers["Retry-After"] == "10", "the pause grows"
            assert await answer(pool, "b"), "other models are not concerned"
            del models.faults["a"]
            clock.time += 10
            assert len(await answer(pool, "a")) == 2
            assert pool.entries["a"].error is None

    run(test)


def test_the_pool_lives_while_its_loaded_models_do() -> None:
    async def test(models: Models) -> None:
        async with pool_of(models) as pool:
            assert pool.is_alive
            await answer(pool, "a")
            models.built["a"].is_alive = False
            assert not pool.is_alive
            await pool.unload("a")
            assert len(await answer(pool, "a")) == 2
            assert pool.is_alive

    run(test)


def test_a_model_that_ended_by_itself_is_loaded_again_without_a_request() -> None:
    async def test(models: Models) -> None:
        async with pool_of(models, preload="a") as pool:
            models.built["a"].dies = True
            await eventually(lambda: models.log == ["+a", "-a", "+a"])
            assert len(await answer(pool, "a")) == 2
            assert states(pool) == {"a": "loaded", "b": "ready", "c": "ready"}

    run(test)


def test_a_request_that_finds_its_model_ended_waits_for_it() -> None:
    async def test(models: Models) -> None:
        async with pool_of(models, preload="a") as pool:
            models.built["a"].dies = True
            assert len(await answer(pool, "a")) == 2
            assert models.log == ["+a", "-a", "+a"]
            assert pool.is_alive

    run(test)


def test_a_model_that_ends_again_and_again_pauses() -> None:
    async def test(models: Models) -> None:
        clock = ManualClock()
        async with pool_of(models, clock=clock) as pool:
            for pause in ("", "5", "10"):
                await answer(pool, "a")
                models.built["a"].dies = True
                if pause:
                    with pytest.raises(ModelUnavailable, match="stopped") as caught:
                        await answer(pool, "a")
                    assert caught.value.headers["Retry-After"] == pause
                    clock.time += int(pause)
            await answer(pool, "a")
            clock.time += 3600
            models.built["a"].dies = True
            assert await answer(pool, "a"), "it had been well for long"

    run(test)


def test_a_pool_that_cannot_load_an_ended_model_again_says_that_it_is_not_alive() -> None:
    async def test(models: Models) -> None:
        clock = ManualClock()
        async with pool_of(models, clock=clock) as pool:
            await answer(pool, "a")
            models.faults["a"] = ModelError("no memory")
            models.built["a"].dies = True
            with pytest.raises(ModelUnavailable, match="no memory"):
                await answer(pool, "a")
            assert not pool.is_alive
            del models.faults["a"]
            clock.time += 5
            await eventually(lambda: pool.entries["a"].is_ready)
            assert pool.is_alive

    run(test)


def test_the_memory_of_a_model_that_ended_is_there_for_others() -> None:
    async def test(models: Models) -> None:
        clock = ManualClock()
        async with pool_of(models, budget=SIZE, clock=clock) as pool:
            for _ in range(2):
                await answer(pool, "a")
                models.built["a"].dies = True
            with pytest.raises(ModelUnavailable, match="stopped"):
                await answer(pool, "a")
            assert len(await answer(pool, "b")) == 2
            assert states(pool)["a"] == "ready"

    run(test)


def test_an_idle_model_is_unloaded_when_its_time_is_over() -> None:
    async def test(models: Models) -> None:
        clock = ManualClock()
        async with pool_of(models, clock=clock, idle_s={"a": 60.0}) as pool:
            await answer(pool, "a")
            await answer(pool, "b")
            clock.time += 59
            pool.changes.notify()
            await asyncio.sleep(0.02)
            assert states(pool)["a"] == "loaded"
            clock.time += 1
            pool.changes.notify()
            await eventually(lambda: states(pool)["a"] == "ready")
            assert states(pool)["b"] == "loaded"
            assert pool.entries["b"].expires_at == math.inf

    run(test)


@pytest.mark.parametrize(("keep_s", "state"), [(0, "ready"), (math.inf, "loaded"), (None, "loaded")])
def test_a_request_may_say_how_long_the_model_stays(keep_s: float | None, state: str) -> None:
    async def test(models: Models) -> None:
        clock = ManualClock()
        async with pool_of(models, clock=clock, default_idle_s=60.0) as pool:
            pool.keep("a", keep_s)
            await answer(pool, "a")
            clock.time += 30
            pool.changes.notify()
            await asyncio.sleep(0.05)
            await eventually(lambda: states(pool)["a"] == state)

    run(test)


def test_a_lock_is_its_holders() -> None:
    async def test(models: Models) -> None:
        clock = ManualClock()
        async with pool_of(models, clock=clock) as pool:
            await answer(pool, "a")
            pool.hold("a", Hold("me", "a demo"))
            with pytest.raises(ModelLocked, match="locked by me: a demo"):
                await pool.unload("a")
            with pytest.raises(ModelLocked):
                pool.hold("a", Hold("you"))
            with pytest.raises(ModelLocked):
                pool.release("a", "you")
            pool.hold("a", Hold("me", until=clock.time + 10))
            with pytest.raises(ModelLeased) as caught:
                await pool.unload("a", "you")
            assert (caught.value.status, caught.value.headers["Retry-After"]) == (409, "10")
            clock.time += 10
            assert (await pool.unload("a")).state == "ready"
            pool.release("a", "me")
            assert pool.entries["a"].hold is None

    run(test)


def test_unloading_waits_for_what_runs_and_new_requests_load_it_again() -> None:
    async def test(models: Models) -> None:
        async with pool_of(models) as pool:
            async with busy(pool, "a"):
                unloading = asyncio.ensure_future(pool.unload("a"))
                await eventually(lambda: states(pool)["a"] == "draining")
                waiting = asyncio.ensure_future(answer(pool, "a"))
                await eventually(lambda: pool.entries["a"].num_waiting)
                assert not unloading.done()
            await unloading
            assert len(await waiting) == 2
            assert models.log == ["+a", "-a", "+a"]

    run(test)


def test_what_is_preloaded_is_what_fits() -> None:
    async def test(models: Models) -> None:
        async with pool_of(models, preload=("c", "a", "b")) as pool:
            assert states(pool) == {"a": "loaded", "b": "ready", "c": "loaded"}
            assert models.log == ["+c", "+a"]

    run(test)


def test_a_preload_that_fails_stops_the_start() -> None:
    async def test(models: Models) -> None:
        models.faults["a"] = ModelError("no")
        with pytest.raises(ModelError):
            async with pool_of(models, preload=("a",)):
                pass

    run(test)


def test_what_is_not_here_is_not_found() -> None:
    async def test(models: Models) -> None:
        async with pool_of(models) as pool:
            pool.entry("absent", "hf:a/b")
            for id in ("absent", "other"):
                assert pool.find(id) is None
                with pytest.raises(ModelNotFound):
                    await answer(pool, id)

    run(test)


def test_a_mixed_load_leaves_no_request_without_an_answer() -> None:
    """Many models, little memory, random durations: each request is answered, within the budget."""
    from random import Random

    async def test(models: Models) -> None:
        random = Random(7)
        most = 0
        async with pool_of(models, "abcde", budget=2 * SIZE) as pool:

            async def one() -> int:
                nonlocal most
                async with pool.generate(ask(random.choice("abcde"))) as events:
                    most = max(most, pool.residents.used_bytes)
                    await asyncio.sleep(random.random() / 100)
                    return len([event async for event in events])

            ended = await asyncio.gather(*(one() for _ in range(100)))
            assert ended == [2] * 100
            assert most <= 2 * SIZE
            assert all(not entry.num_users and not entry.num_waiting for entry in pool.entries.values())

    run(test)


def test_entries_know_nothing_of_each_other() -> None:
    assert Entry("a", "a").progress is not Entry("b", "b").progress
    assert isinstance(ask("a"), GenerateRequest)
