"""What becomes of a generation is told once, and when nothing is held any more."""

from __future__ import annotations

import asyncio

import pytest

from headrace.backends.fake import FakeBackend
from headrace.errors import EngineFailed, Overloaded, ServerError
from headrace.gateway.gateway import Gateway, Generation
from headrace.turns.watch import Outcome, watch
from headrace.types import Conversation, GenerateRequest, Message
from headrace.wire.generation import Collected

REQUEST = GenerateRequest("fake", Conversation((Message("user", "hi"),)))


class Kept:
    """Notes what it is told, and what the backend still held then."""

    def __init__(self, backend: FakeBackend, *, delay_s: float = 0.0) -> None:
        self.backend, self.delay_s = backend, delay_s
        self.told: list[tuple[Outcome, str, int]] = []

    async def __call__(self, collected: Collected, outcome: Outcome) -> None:
        await asyncio.sleep(self.delay_s)
        text = "".join(choice.text for choice in collected.choices.values())
        self.told.append((outcome, text, self.backend.num_active))


async def watched(backend: FakeBackend, keep: Kept) -> Generation:
    generation = await Gateway([backend]).start(REQUEST)
    watch(generation, REQUEST.n, keep)
    return generation


async def read(generation: Generation, count: int | None = None) -> None:
    while count is None or count:
        count = None if count is None else count - 1
        if await anext(generation.events, None) is None:
            return


def test_end_is_kept_before_the_reader_is_told_of_it() -> None:
    async def run() -> None:
        keep = Kept(backend := FakeBackend(["Hello", " world"]))
        generation = await watched(backend, keep)
        await read(generation)
        assert keep.told == [("completed", "Hello world", 1)]
        await generation.aclose()
        assert len(keep.told) == 1

    asyncio.run(run())


@pytest.mark.parametrize(("count", "outcome", "text"), [(0, "left", ""), (1, "left", "Hello")])
def test_reader_that_leaves_frees_the_backend_first(count: int, outcome: Outcome, text: str) -> None:
    async def run() -> None:
        keep = Kept(backend := FakeBackend(["Hello", " world"]))
        generation = await watched(backend, keep)
        await read(generation, count)
        await generation.aclose()
        assert keep.told == [(outcome, text, 0)]

    asyncio.run(run())


def test_reader_that_leaves_after_the_last_event_has_had_all_of_it() -> None:
    async def run() -> None:
        keep = Kept(backend := FakeBackend(["Hello", " world"]))
        generation = await watched(backend, keep)
        await read(generation, 3)
        await generation.aclose()
        assert keep.told == [("completed", "Hello world", 0)]

    asyncio.run(run())


def test_failure_and_interruption_are_told_as_failures() -> None:
    async def run() -> None:
        keep = Kept(backend := FakeBackend(["Hello"], error=EngineFailed("broken")))
        generation = await watched(backend, keep)
        with pytest.raises(ServerError):
            await read(generation)
        await generation.aclose()
        generation = await watched(backend, keep)
        generation.interrupt(Overloaded("enough"))
        await generation.aclose()
        assert [outcome for outcome, _, _ in keep.told] == ["failed", "failed"]

    asyncio.run(run())


def test_keeping_is_not_cancelled_with_its_reader() -> None:
    async def run() -> None:
        keep = Kept(backend := FakeBackend(["Hello"]), delay_s=0.05)
        generation = await watched(backend, keep)
        await read(generation, 2)
        reading = asyncio.ensure_future(read(generation))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert keep.told == []
        await generation.aclose()
        assert keep.told == [("completed", "Hello", 0)]

    asyncio.run(run())
