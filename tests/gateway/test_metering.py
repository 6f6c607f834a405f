import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from headrace.backends.fake import FakeBackend
from headrace.errors import EngineFailed, Overloaded, ProviderLimited, ServerError, TimedOut
from headrace.gateway import lifetime
from headrace.gateway.gateway import Gateway
from headrace.gateway.lifetime import Tally
from headrace.types import EmbedRequest, Finished, GenerateRequest, Texts, Usage


def test_an_error_is_recorded_by_its_status() -> None:
    errors: list[tuple[Exception, Any]] = [
        (ProviderLimited("later"), (429, "rate_limit_exceeded")),
        (KeyError("ours"), (500, None)),
    ]
    for error, expected in errors:
        found = Tally("/chat/completions", "m", is_streamed=True)
        found.end(error)
        assert (found.status, found.code) == expected
        assert found.first_byte_s is None


class RecordingMeter:
    """A meter that keeps the tallies."""

    def __init__(self) -> None:
        self.tallies: list[Tally] = []

    def record(self, tally: Tally) -> None:
        self.tallies.append(tally)


def metered(backend: FakeBackend, use: Callable[[Gateway], Awaitable[None]]) -> Tally:
    """The tally of the one request that `use` makes, which may raise ServerError."""
    meter = RecordingMeter()

    async def run() -> None:
        with contextlib.suppress(ServerError):
            await use(Gateway([backend], meter=meter))

    asyncio.run(run())
    (tally,) = meter.tallies
    return tally


REQUEST = GenerateRequest("fake", Texts(("a", "b")), n=2)


async def read(gateway: Gateway) -> None:
    generation = await gateway.start(REQUEST)
    try:
        async for _ in generation:
            pass
    finally:
        await generation.aclose()


def test_a_generation_is_recorded_once_with_the_usage_of_all_its_choices() -> None:
    tally = metered(FakeBackend(["x", "y"]), read)
    assert (tally.work, tally.model, tally.provider, tally.attempts) == ("generate", "fake", "fake", 1)
    assert (tally.status, tally.code, tally.usage) == (200, None, Usage(2, 8))
    assert tally.first_byte_s is not None
    assert 0 < tally.first_byte_s <= tally.took_s


def test_usage_that_the_provider_does_not_report_is_none() -> None:
    end = Finished(0, "stop", Usage(0, 0, is_known=False))
    assert metered(FakeBackend(["x", end]), read).usage is None


def test_embeddings_are_recorded() -> None:
    async def embed(gateway: Gateway) -> None:
        await gateway.embed(EmbedRequest("fake", ("abc", "de")))

    tally = metered(FakeBackend([]), embed)
    assert (tally.work, tally.provider, tally.status, tally.usage) == ("embed", "fake", 200, Usage(5, 0))


async def leave(gateway: Gateway) -> None:
    generation = await gateway.start(REQUEST)
    await anext(generation)
    await generation.aclose()


async def leave_before(gateway: Gateway) -> None:
    starting = asyncio.ensure_future(gateway.start(REQUEST))
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)


async def interrupt(gateway: Gateway) -> None:
    generation = await gateway.start(REQUEST)
    await anext(generation)
    lifetime.interrupt(generation.interrupted, TimedOut("too long"))
    await generation.aclose()


async def drained(gateway: Gateway) -> None:
    gateway.active.is_draining = True
    await gateway.start(REQUEST)


async def request_unknown_model(gateway: Gateway) -> None:
    await gateway.start(GenerateRequest("none", Texts(("x",))))


ENDS: dict[str, tuple[FakeBackend, Callable[[Gateway], Awaitable[None]], int, str]] = {
    "refused": (FakeBackend([], refusal=Overloaded("full")), read, 503, "server_is_overloaded"),
    "failed": (FakeBackend(["x"], error=EngineFailed("no")), read, 500, "engine_failed"),
    "left": (FakeBackend(["x"]), leave, 499, "client_gone"),
    "left before": (FakeBackend(["x"], opening_s=60), leave_before, 499, "client_gone"),
    "interrupted": (FakeBackend(["x"]), interrupt, 504, "request_timeout"),
    "draining": (FakeBackend(["x"]), drained, 503, "server_is_overloaded"),
    "no such model": (FakeBackend(["x"]), request_unknown_model, 404, "model_not_found"),
}


@pytest.mark.parametrize("name", ENDS)
def test_how_a_request_ended_is_recorded(name: str) -> None:
    backend, use, status, code = ENDS[name]
    tally = metered(backend, use)
    assert (tally.status, tally.code) == (status, code)
