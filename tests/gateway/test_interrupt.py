from __future__ import annotations

import asyncio

import pytest

from headrace.errors import Overloaded, TimedOut
from headrace.gateway.interrupt import Interruption


class Work:
    """Takes a minute unless told otherwise, and knows how it ended."""

    def __init__(self) -> None:
        self.has_ended = False

    async def run(self, takes_s: float = 60) -> str:
        try:
            await asyncio.sleep(takes_s)
            return "done"
        finally:
            self.has_ended = True


def test_work_that_is_not_interrupted_gives_its_result() -> None:
    async def run() -> None:
        assert await Interruption().unless(Work().run(0)) == "done"

    asyncio.run(run())


def test_first_interruption_ends_the_work_and_is_raised() -> None:
    async def run() -> None:
        interruption, work = Interruption(), Work()
        asyncio.get_running_loop().call_later(0.01, interruption.interrupt, TimedOut("too long"))
        asyncio.get_running_loop().call_later(0.01, interruption.interrupt, Overloaded("too late"))
        with pytest.raises(TimedOut):
            await interruption.unless(work.run())
        assert work.has_ended

    asyncio.run(run())


def test_who_is_cancelled_ends_the_work() -> None:
    async def run() -> None:
        work = Work()
        waiting = asyncio.ensure_future(Interruption().unless(work.run()))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert work.has_ended

    asyncio.run(run())
