"""Five hundred requests that arrive at once start a few at a time, so that others do not wait for all of
them.
"""

from __future__ import annotations

import asyncio

import pytest

from headrace.api.middleware import Middleware, Turns
from headrace.api.request import Budget
from headrace.api.sites import Hosts, Sites


def test_so_many_pass_in_a_turn_of_the_loop_and_in_order() -> None:
    async def arrive() -> tuple[list[int], list[int]]:
        turns, passed, seen = Turns(4), list[int](), list[int]()

        async def one(number: int) -> None:
            await turns.wait()
            passed.append(number)

        tasks = [asyncio.ensure_future(one(number)) for number in range(50)]
        while len(passed) < 50:
            before = len(passed)
            await asyncio.sleep(0)
            seen.append(len(passed) - before)
        await asyncio.gather(*tasks)
        return passed, seen

    passed, seen = asyncio.run(arrive())
    assert passed == list(range(50))
    assert max(seen) <= 4
    assert len(seen) <= 20, "no turn is wasted"


def test_those_who_leave_while_they_wait_hold_up_nobody() -> None:
    async def arrive() -> int:
        turns, passed = Turns(1), 0

        async def one() -> None:
            nonlocal passed
            await turns.wait()
            passed += 1

        tasks = [asyncio.ensure_future(one()) for _ in range(30)]
        await asyncio.sleep(0)
        for task in tasks[1::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await turns.wait()
        return passed

    assert asyncio.run(asyncio.wait_for(arrive(), 60)) == 15


@pytest.mark.parametrize("path", ["/health", "/healthz", "/ready"])
def test_probes_pass_whoever_waits(path: str) -> None:
    """One turn of the loop is all that a probe waits for."""

    async def arrive() -> list[str]:
        answered: list[str] = []

        async def app(scope: object, receive: object, send: object) -> None:
            answered.append(scope["path"])  # type: ignore[index]  # a scope

        guard = Middleware(app, sites=Sites(Hosts()), budget=Budget(0))
        headers = [(b"host", b"localhost")]

        async def ask(path: str) -> None:
            scope = {"type": "http", "method": "GET", "path": path, "headers": headers}
            await guard(scope, None, None)  # type: ignore[arg-type]  # not used

        many = [asyncio.ensure_future(ask("/v1/models")) for _ in range(500)]
        await asyncio.sleep(0)
        probe = asyncio.ensure_future(ask(path))
        await asyncio.gather(probe, *many)
        return answered

    assert asyncio.run(arrive()).index(path) < 20
