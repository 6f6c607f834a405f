"""Five hundred requests that arrive at once start a few at a time, so that others do not wait for all of
them.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping

import pytest
from starlette.types import Send

from headrace.api.middleware import PIECE, Middleware, Turns
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


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 3 * PIECE, 20 * PIECE + 7])
@pytest.mark.parametrize("has_more", [False, True])
def test_a_long_answer_is_written_in_pieces_and_others_run_between(size: int, *, has_more: bool) -> None:
    whole = bytes(range(256)) * (size // 256 + 1)

    async def answer() -> tuple[list[dict[str, object]], int]:
        sent, turns = list[dict[str, object]](), 0

        async def app(scope: object, receive: object, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": whole[:size], "more_body": has_more})

        async def send(message: MutableMapping[str, object]) -> None:
            sent.append(dict(message))

        guard = Middleware(app, sites=Sites(Hosts()), budget=Budget(0))
        scope = {"type": "http", "method": "GET", "path": "/health", "headers": [(b"host", b"localhost")]}
        task = asyncio.ensure_future(guard(scope, None, send))  # type: ignore[arg-type]  # nothing is read
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        await task
        return sent, turns

    (_, *pieces), turns = asyncio.run(answer())
    bodies = [piece["body"] for piece in pieces]
    assert b"".join(bodies) == whole[:size]  # type: ignore[arg-type]  # each is bytes
    assert all(len(body) <= PIECE for body in bodies)  # type: ignore[arg-type]
    assert [piece["more_body"] for piece in pieces] == [True] * (len(pieces) - 1) + [has_more]
    assert turns >= len(pieces)
