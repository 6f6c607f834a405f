from __future__ import annotations

import asyncio
import time

import pytest

from headrace.backends.fake import FakeBackend
from headrace.errors import EngineFailed, ModelNotFound, Overloaded
from headrace.gateway.gateway import Gateway
from headrace.types import Conversation, Finished, GenerateRequest, Message, Texts
from tests.conftest import FakeServer
from tests.serving import events

REQUEST = GenerateRequest("fake", Conversation((Message("user", "hi"),)))
HI = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
CHAT = "/v1/chat/completions"


FULL = Overloaded("all places are taken", retry_after_s=7)


def test_request_goes_to_the_backend_that_has_its_model() -> None:
    async def run() -> None:
        first, second = FakeBackend(["a"], id="one"), FakeBackend(["b"], id="two")
        gateway = Gateway([first, second])
        generation = await gateway.start(GenerateRequest("two", Texts(("x",))))
        finished = [event async for event in generation.events if isinstance(event, Finished)]
        await generation.aclose()
        assert (len(finished), len(first.requests), len(second.requests)) == (1, 0, 1)
        assert generation.info.id == "two"

    asyncio.run(run())


def test_refusals_leave_nothing_behind() -> None:
    async def run() -> None:
        gateway = Gateway([FakeBackend([], refusal=FULL)])
        with pytest.raises(Overloaded):
            await gateway.start(REQUEST)
        with pytest.raises(ModelNotFound):
            await gateway.start(GenerateRequest("none", Texts(("x",))))
        assert gateway.num_active == 0

    asyncio.run(run())


def test_closing_twice_frees_once() -> None:
    async def run() -> None:
        backend = FakeBackend(["a"])
        gateway = Gateway([backend])
        generation = await gateway.start(REQUEST)
        await generation.aclose()
        await generation.aclose()
        assert (gateway.num_active, backend.num_active) == (0, 0)

    asyncio.run(run())


def test_draining_waits_for_what_runs_and_refuses_what_comes() -> None:
    async def run() -> None:
        gateway = Gateway([FakeBackend(["a"])])
        generation = await gateway.start(REQUEST)
        draining = asyncio.ensure_future(gateway.drain(5))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await gateway.start(REQUEST)
        assert not draining.done()
        await generation.aclose()
        await draining
        assert not generation.interrupted.done()

    asyncio.run(run())


def test_draining_interrupts_what_runs_too_long() -> None:
    async def run() -> None:
        gateway = Gateway([FakeBackend(["a"])])
        generation = await gateway.start(REQUEST)
        draining = asyncio.ensure_future(gateway.drain(0.01))
        error = await generation.interrupted
        assert (error.status, error.code) == (503, "server_is_overloaded")
        await generation.aclose()
        await draining

    asyncio.run(run())


def test_draining_an_idle_gateway_is_done_at_once() -> None:
    started = time.monotonic()
    asyncio.run(Gateway([FakeBackend([])]).drain(30))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("stream", [True, False])
def test_interrupted_caller_gets_an_error(fake_server: FakeServer, stream: bool) -> None:
    server = fake_server(FakeBackend(["tick"] * 1000, delay_s=0.01))

    async def drain_once_busy() -> None:
        while not server.gateway.num_active:  # noqa: ASYNC110  # it is plain state
            await asyncio.sleep(0.01)
        await server.gateway.drain(0.1)

    draining = asyncio.run_coroutine_threadsafe(drain_once_busy(), server.loop)
    response = server.post(CHAT, {**HI, "stream": stream})
    draining.result(10)
    if stream:
        *_, failure, done = events(response)
        assert (failure["error"]["code"], done) == ("server_is_overloaded", "[DONE]")
    else:
        assert (response.status_code, response.json()["error"]["code"]) == (503, "server_is_overloaded")


def test_overload_is_503_with_retry_after(fake_server: FakeServer) -> None:
    server = fake_server(FakeBackend([], refusal=FULL))
    for stream in (True, False):
        response = server.post(CHAT, {**HI, "stream": stream})
        assert (response.status_code, response.headers["retry-after"]) == (503, "7")
        assert response.json()["error"]["type"] == "server_error"
    assert server.gateway.num_active == 0


def test_error_before_the_first_event_is_in_the_stream(fake_server: FakeServer) -> None:
    response = fake_server(FakeBackend([], error=EngineFailed("no"))).post(CHAT, {**HI, "stream": True})
    role, failure, done = events(response)
    assert role["choices"][0]["delta"]["role"] == "assistant"
    assert (failure["error"]["code"], done) == ("engine_failed", "[DONE]")
