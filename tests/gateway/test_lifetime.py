from __future__ import annotations

import asyncio

import pytest

from headrace.errors import Overloaded, TimedOut
from headrace.gateway.lifetime import End, Until, interrupt


class Work:
    """Work that takes a minute by default, and records that it has ended."""

    def __init__(self) -> None:
        self.has_ended = False

    async def run(self, takes_s: float = 60) -> str:
        try:
            await asyncio.sleep(takes_s)
            return "done"
        finally:
            self.has_ended = True


def an_end() -> End:
    return asyncio.get_running_loop().create_future()


async def until(end: End, work: Work) -> None:
    async with Until(end):
        await work.run()


def test_work_that_is_not_interrupted_gives_its_result() -> None:
    async def run() -> None:
        async with Until(an_end()):
            assert await Work().run(0) == "done"

    asyncio.run(run())


def test_first_end_ends_the_work_and_is_raised() -> None:
    async def run() -> None:
        end, work = an_end(), Work()
        asyncio.get_running_loop().call_later(0.01, interrupt, end, TimedOut("too long"))
        asyncio.get_running_loop().call_later(0.01, interrupt, end, Overloaded("too late"))
        with pytest.raises(TimedOut):
            async with Until(end):
                await work.run()
        assert work.has_ended

    asyncio.run(run())


def test_who_is_cancelled_ends_the_work() -> None:
    async def run() -> None:
        work = Work()
        waiting = asyncio.ensure_future(until(an_end(), work))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert work.has_ended

    asyncio.run(run())


def test_of_several_ends_the_first_named_is_raised_and_a_cancelled_one_is_none() -> None:
    async def run() -> None:
        first, second, cancelled = an_end(), an_end(), an_end()
        interrupt(second, TimedOut("too long"))
        interrupt(first, Overloaded("enough"))
        cancelled.cancel()
        with pytest.raises(Overloaded):
            async with Until(cancelled, first, second):
                await asyncio.sleep(60)
        async with Until(cancelled):
            await asyncio.sleep(0.01)

    asyncio.run(run())


async def in_two(outer: End, inner: End, ended: list[str]) -> None:
    async with Until(outer):
        try:
            async with Until(inner):
                await asyncio.sleep(60)
        except TimedOut:
            ended.append("inner")
            asyncio.get_running_loop().call_soon(interrupt, outer, Overloaded("enough"))
        await asyncio.sleep(60)


def test_of_nested_ends_each_ends_its_own_body() -> None:
    async def run() -> None:
        outer, inner = an_end(), an_end()
        ended: list[str] = []
        asyncio.get_running_loop().call_later(0.01, interrupt, inner, TimedOut("too long"))
        with pytest.raises(Overloaded):
            await in_two(outer, inner, ended)
        assert ended == ["inner"]
        with pytest.raises(Overloaded):
            await in_two(outer, outer, ended)
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()

    asyncio.run(run())


def test_end_that_comes_as_the_body_ends_cancels_nothing_afterwards() -> None:
    async def run() -> None:
        end = an_end()
        async with Until(end):
            interrupt(end, TimedOut("too long"))  # its callback is scheduled, and has not run
        await asyncio.sleep(0.01)

    asyncio.run(run())


def test_who_is_cancelled_as_an_end_comes_stays_cancelled() -> None:
    """The end must not swallow the cancellation, whose caller waits for the task to end."""

    async def run() -> None:
        end, work = an_end(), Work()
        waiting = asyncio.ensure_future(until(end, work))
        await asyncio.sleep(0.01)
        interrupt(end, Overloaded("enough"))
        await asyncio.sleep(0)  # the end's callback has cancelled the task, which has not run since
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert work.has_ended

    asyncio.run(run())
