"""Several answers of llama.cpp's as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from headrace.backends.concurrency import Places
from headrace.backends.llamacpp.choices import ChoiceGroup, Open, run_choices
from headrace.types import Conversation, Event, GenerateRequest, Message, TextDelta

REQUEST = GenerateRequest("m", Conversation((Message("user", "hi"),)))


def taken(seats: int = 4) -> Places[ChoiceGroup]:
    """Places, one of which is taken for the request to come."""
    places = Places[ChoiceGroup](seats, 4, ChoiceGroup.begin)
    places.take()
    return places


def test_whatever_one_fails_with_ends_all() -> None:
    has_left = asyncio.Event()

    @asynccontextmanager
    async def open(request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        if request.priority:
            raise KeyError("nobody foresaw this")
        try:
            yield stalled()
        finally:
            has_left.set()

    async def stalled() -> AsyncIterator[Event]:
        yield TextDelta(0, "a")
        await asyncio.Event().wait()

    async def run() -> None:
        failing = GenerateRequest("m", REQUEST.prompt, priority=1)
        async with asyncio.timeout(60), run_choices([REQUEST, failing], open, taken()) as events:
            async for _ in events:
                pass

    with pytest.raises(KeyError):
        asyncio.run(run())
    assert has_left.is_set()


class Gate:
    """Choices that run until they are let go, one at a time, oldest first."""

    def __init__(self) -> None:
        self.running: list[tuple[int, asyncio.Event]] = []  # (priority of the request, what it waits for)

    @asynccontextmanager
    async def open(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        entry = (request.priority, asyncio.Event())
        self.running.append(entry)
        try:
            yield self._events(entry[1])
        finally:
            self.running.remove(entry)

    async def _events(self, is_free: asyncio.Event) -> AsyncIterator[Event]:
        await is_free.wait()
        yield TextDelta(0, "a")

    def of(self, caller: int) -> int:
        return sum(priority == caller for priority, _ in self.running)

    async def release(self) -> None:
        """Let the oldest go, and wait until others have had their turn."""
        self.running[0][1].set()
        await settled()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def read(requests: list[GenerateRequest], open: Open, places: Places[ChoiceGroup]) -> list[int]:
    """The numbers of the choices, in the order in which they end."""
    async with run_choices(requests, open, places) as events:
        return [event.index async for event in events]


def test_l10_one_caller_never_takes_every_place() -> None:
    """A request of many choices uses all places while it is alone, and one while others need theirs."""

    async def run() -> None:
        gate, places = Gate(), Places[ChoiceGroup](4, 4, ChoiceGroup.begin)
        alone = places_of = 5  # the seats and one to come
        places.take()
        large = asyncio.create_task(read([GenerateRequest("m", REQUEST.prompt)] * 50, gate.open, places))
        await settled()
        assert gate.of(0) == alone
        others = []
        for caller in (1, 2, 3):
            places.take()
            own = GenerateRequest("m", REQUEST.prompt, priority=caller)
            others.append(asyncio.create_task(read([own] * 2, gate.open, places)))
        await settled()
        assert [gate.of(caller) for caller in (1, 2, 3)] == [1, 1, 1]
        for _ in range(places_of):
            await gate.release()
        assert gate.of(0) < alone
        while gate.running:
            await gate.release()
        assert sorted(await large) == list(range(50))
        assert [sorted(await other) for other in others] == [[0, 1]] * 3
        assert places.num_taken == 0

    asyncio.run(run())


def test_places_are_free_again_after_a_failure_and_when_the_reader_leaves() -> None:
    async def run() -> None:
        gate, places = Gate(), taken()
        async with AsyncExitStack() as exits:
            await exits.enter_async_context(run_choices([REQUEST] * 50, gate.open, places))
            await settled()
            assert gate.of(0) == 5
        assert (gate.running, places.num_taken) == ([], 0)

    asyncio.run(run())
