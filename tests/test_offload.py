from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

from headrace.offload import NUM_THREADS, SMALL, aside

named: contextvars.ContextVar[str] = contextvars.ContextVar("named")


def test_small_work_stays_and_large_work_leaves_the_loops_thread() -> None:
    async def ask(size: int) -> int:
        return await aside(size, threading.get_ident)

    assert asyncio.run(ask(SMALL)) == threading.get_ident()
    assert asyncio.run(ask(SMALL + 1)) != threading.get_ident()


def test_it_has_its_callers_context_and_raises_what_the_work_raises() -> None:
    async def ask() -> str:
        named.set("caller")
        with pytest.raises(ValueError, match="odd"):
            await aside(SMALL + 1, lambda: int("odd"))
        return await aside(SMALL + 1, named.get)

    assert asyncio.run(ask()) == "caller"


def test_work_whose_caller_left_before_it_began_never_begins() -> None:
    hold, results = threading.Event(), []

    async def ask() -> None:
        running = [asyncio.ensure_future(aside(SMALL + 1, hold.wait)) for _ in range(NUM_THREADS)]
        waiting = asyncio.ensure_future(aside(SMALL + 1, lambda: results.append(1)))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        hold.set()
        await asyncio.gather(*running)
        await aside(SMALL + 1, lambda: None)

    asyncio.run(ask())
    assert not results
