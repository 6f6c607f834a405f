"""A generation is one stream: its first event can be awaited; observers hear each event before the reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from headrace.backends.fake import FakeBackend
from headrace.errors import EngineFailed, Overloaded, ServerError
from headrace.gateway.gateway import Gateway
from headrace.gateway.generation import Generation, Outcome
from headrace.gateway.lifetime import interrupt
from headrace.types import Conversation, Event, Finished, GenerateRequest, Message, TextDelta, Usage

REQUEST = GenerateRequest("fake", Conversation((Message("user", "hi"),)))


class Recorder:
    """An observer that records the text, the outcome, and the number of generations that still run."""

    def __init__(self, backend: FakeBackend, until: asyncio.Event | None = None) -> None:
        self.backend, self.until = backend, until
        self.text = ""
        self.ends: list[tuple[Outcome, str, int]] = []

    def on_event(self, event: Event) -> None:
        self.text += event.text if isinstance(event, TextDelta) else ""

    async def ended(self, outcome: Outcome, error: Exception | None) -> None:
        if self.until is not None:
            await self.until.wait()
        assert (error is None) == (outcome == "completed")
        self.ends.append((outcome, self.text, self.backend.num_active))


async def observed(backend: FakeBackend, recorder: Recorder) -> Generation:
    generation = await Gateway([backend]).start(REQUEST)
    generation.observe(recorder)
    return generation


async def read(generation: Generation, count: int | None = None) -> None:
    while count is None or count:
        count = None if count is None else count - 1
        if await anext(generation, None) is None:
            return


def test_end_is_kept_before_the_reader_sees_it() -> None:
    async def run() -> None:
        recorder = Recorder(backend := FakeBackend(["Hello", " world"]))
        generation = await observed(backend, recorder)
        await read(generation)
        assert recorder.ends == [("completed", "Hello world", 1)]
        await generation.aclose()
        assert len(recorder.ends) == 1

    asyncio.run(run())


@pytest.mark.parametrize(("count", "outcome", "text"), [(0, "left", ""), (1, "left", "Hello")])
def test_reader_that_leaves_frees_the_backend_first(count: int, outcome: Outcome, text: str) -> None:
    async def run() -> None:
        recorder = Recorder(backend := FakeBackend(["Hello", " world"]))
        generation = await observed(backend, recorder)
        await read(generation, count)
        await generation.aclose()
        assert recorder.ends == [(outcome, text, 0)]

    asyncio.run(run())


def test_reader_that_leaves_after_the_last_event_has_had_all_of_it() -> None:
    async def run() -> None:
        recorder = Recorder(backend := FakeBackend(["Hello", " world"]))
        generation = await observed(backend, recorder)
        await read(generation, 3)
        await generation.aclose()
        assert recorder.ends == [("completed", "Hello world", 0)]

    asyncio.run(run())


def test_failure_and_interruption_are_reported_as_failures() -> None:
    async def run() -> None:
        recorder = Recorder(backend := FakeBackend(["Hello"], error=EngineFailed("broken")))
        generation = await observed(backend, recorder)
        with pytest.raises(ServerError):
            await read(generation)
        await generation.aclose()
        generation = await observed(backend, recorder)
        interrupt(generation.interrupted, Overloaded("enough"))
        await generation.aclose()
        assert [outcome for outcome, _, _ in recorder.ends] == ["failed", "failed"]

    asyncio.run(run())


def test_keeping_is_not_cancelled_with_its_reader() -> None:
    async def run() -> None:
        recorder = Recorder(backend := FakeBackend(["Hello"]), asyncio.Event())
        generation = await observed(backend, recorder)
        await read(generation, 2)
        reading = asyncio.ensure_future(read(generation))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert recorder.ends == []
        assert recorder.until is not None
        recorder.until.set()
        await generation.aclose()
        assert recorder.ends == [("completed", "Hello", 0)]

    asyncio.run(run())


def test_first_event_is_still_the_first_of_the_events() -> None:
    async def run() -> None:
        backend = FakeBackend(["Hello", " world"])
        generation = await observed(backend, recorder := Recorder(backend))
        assert await generation.first() == TextDelta(0, "Hello")
        assert await generation.first() == TextDelta(0, "Hello")
        assert recorder.text == "Hello"
        assert [type(event) async for event in generation] == [TextDelta, TextDelta, Finished]
        await generation.aclose()

    asyncio.run(run())


def test_first_event_that_does_not_come_in_time_is_none_and_comes_later() -> None:
    async def run() -> None:
        backend = FakeBackend(["Hello"], delay_s=0.5)
        generation = await observed(backend, Recorder(backend))
        assert await generation.first(0.001) is None
        assert [type(event) async for event in generation] == [TextDelta, Finished]
        await generation.aclose()
        generation = await observed(backend, recorder := Recorder(backend))
        assert await generation.first(0.001) is None
        await generation.aclose()  # while it is being fetched
        assert recorder.ends == [("left", "", 0)]

    asyncio.run(run())


def test_error_before_the_first_event_is_raised_by_first() -> None:
    async def run() -> None:
        backend = FakeBackend([], error=EngineFailed("broken"))
        generation = await observed(backend, recorder := Recorder(backend))
        with pytest.raises(EngineFailed):
            await generation.first()
        await generation.aclose()
        assert recorder.ends == [("failed", "", 0)]

    asyncio.run(run())


def test_events_that_end_without_the_end_of_each_choice_are_a_failure() -> None:
    async def run() -> None:
        request = GenerateRequest("fake", Conversation((Message("user", "hi"),)), n=2)
        backend = _OneEnd(["x"])
        generation = await Gateway([backend]).start(request)
        generation.observe(recorder := Recorder(backend))
        with pytest.raises(ServerError, match="broke off"):
            await read(generation)
        await generation.aclose()
        assert [outcome for outcome, _, _ in recorder.ends] == ["failed"]

    asyncio.run(run())


class _OneEnd(FakeBackend):
    """Ends its first choice only."""

    async def _events(self, num_choices: int) -> AsyncIterator[Event]:
        yield Finished(0, "stop", Usage(1, 1))


def test_observer_that_fails_costs_neither_the_reader_nor_other_observers_anything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Recorder):
        async def ended(self, outcome: Outcome, error: Exception | None) -> None:
            raise KeyError("broken")

    async def run() -> None:
        backend = FakeBackend(["Hello"])
        generation = await observed(backend, Broken(backend))
        generation.observe(recorder := Recorder(backend))
        await read(generation)
        await generation.aclose()
        assert recorder.ends == [("completed", "Hello", 1)]

    asyncio.run(run())
    assert "an observer of a generation failed" in caplog.text
