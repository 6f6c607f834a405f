import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from headrace.backends.fake import FakeBackend
from headrace.errors import EngineFailed, Overloaded, ProviderLimited, ServerError, TimedOut
from headrace.gateway.gateway import Gateway
from headrace.gateway.metering import Tally
from headrace.types import EmbedRequest, Finished, GenerateRequest, Texts, Usage


def test_an_error_is_told_by_its_status() -> None:
    errors: list[tuple[Exception, Any]] = [
        (ProviderLimited("later"), (429, "rate_limit_exceeded")),
        (KeyError("ours"), (500, None)),
    ]
    for error, told in errors:
        found = Tally("/chat/completions", "m", is_streamed=True)
        found.end(error)
        assert (found.status, found.code) == told
        assert found.first_byte_s is None


class Kept:
    """A meter that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Tally] = []

    def record(self, tally: Tally) -> None:
        self.told.append(tally)


def metered(backend: FakeBackend, use: Callable[[Gateway], Awaitable[None]]) -> Tally:
    """What the one request of `use` is told as. It may raise ServerError."""
    meter = Kept()

    async def run() -> None:
        with contextlib.suppress(ServerError):
            await use(Gateway([backend], meter=meter))

    asyncio.run(run())
    (told,) = meter.told
    return told


ASKED = GenerateRequest("fake", Texts(("a", "b")), n=2)


async def read(gateway: Gateway) -> None:
    generation = await gateway.start(ASKED)
    try:
        async for _ in generation:
            pass
    finally:
        await generation.aclose()


def test_a_generation_is_told_once_with_the_usage_of_all_its_choices() -> None:
    told = metered(FakeBackend(["x", "y"]), read)
    assert (told.work, told.model, told.provider, told.attempts) == ("generate", "fake", "fake", 1)
    assert (told.status, told.code, told.usage) == (200, None, Usage(2, 8))
    assert told.first_byte_s is not None
    assert 0 < told.first_byte_s <= told.took_s


def test_usage_that_the_provider_does_not_tell_is_none() -> None:
    end = Finished(0, "stop", Usage(0, 0, is_known=False))
    assert metered(FakeBackend(["x", end]), read).usage is None


def test_embeddings_are_told() -> None:
    async def embed(gateway: Gateway) -> None:
        await gateway.embed(EmbedRequest("fake", ("abc", "de")))

    told = metered(FakeBackend([]), embed)
    assert (told.work, told.provider, told.status, told.usage) == ("embed", "fake", 200, Usage(5, 0))


async def leave(gateway: Gateway) -> None:
    generation = await gateway.start(ASKED)
    await anext(generation)
    await generation.aclose()


async def leave_before(gateway: Gateway) -> None:
    starting = asyncio.ensure_future(gateway.start(ASKED))
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)


async def interrupt(gateway: Gateway) -> None:
    generation = await gateway.start(ASKED)
    await anext(generation)
    generation.interrupt(TimedOut("too long"))
    await generation.aclose()


async def drained(gateway: Gateway) -> None:
    gateway.is_draining = True
    await gateway.start(ASKED)


async def ask_for_another(gateway: Gateway) -> None:
    await gateway.start(GenerateRequest("none", Texts(("x",))))


ENDS: dict[str, tuple[FakeBackend, Callable[[Gateway], Awaitable[None]], int, str]] = {
    "refused": (FakeBackend([], refusal=Overloaded("full")), read, 503, "server_is_overloaded"),
    "failed": (FakeBackend(["x"], error=EngineFailed("no")), read, 500, "engine_failed"),
    "left": (FakeBackend(["x"]), leave, 499, "client_gone"),
    "left before": (FakeBackend(["x"], opening_s=60), leave_before, 499, "client_gone"),
    "interrupted": (FakeBackend(["x"]), interrupt, 504, "request_timeout"),
    "draining": (FakeBackend(["x"]), drained, 503, "server_is_overloaded"),
    "no such model": (FakeBackend(["x"]), ask_for_another, 404, "model_not_found"),
}


@pytest.mark.parametrize("name", ENDS)
def test_how_it_ended_is_told(name: str) -> None:
    backend, use, status, code = ENDS[name]
    told = metered(backend, use)
    assert (told.status, told.code) == (status, code)
