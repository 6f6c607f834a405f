from __future__ import annotations

import asyncio

import pytest

from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.errors import EngineFailed, ModelNotFound, Overloaded
from headrace.gateway.gateway import Gateway
from headrace.types import (
    Conversation,
    Embeddings,
    EmbedRequest,
    Finished,
    GenerateRequest,
    Message,
    Texts,
    TokenizeRequest,
)
from tests.conftest import FakeServer
from tests.serving import events, eventually

REQUEST = GenerateRequest("fake", Conversation((Message("user", "hi"),)))
HI = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
CHAT = "/v1/chat/completions"


FULL = Overloaded("all places are taken", retry_after_s=7)


def test_request_goes_to_the_backend_that_has_its_model() -> None:
    async def run() -> None:
        first, second = FakeBackend(["a"], id="one"), FakeBackend(["b"], id="two")
        gateway = Gateway([first, second])
        generation = await gateway.start(GenerateRequest("two", Texts(("x",))))
        finished = [event async for event in generation if isinstance(event, Finished)]
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
    asyncio.run(asyncio.wait_for(Gateway([FakeBackend([])]).drain(3600), 60))


@pytest.mark.parametrize("stream", [True, False])
def test_interrupted_caller_gets_an_error(fake_server: FakeServer, stream: bool) -> None:
    server = fake_server(FakeBackend(["tick"] * 1000, delay_s=0.01))

    async def drain_once_busy() -> None:
        while not server.gateway.num_active:  # noqa: ASYNC110  # it is plain state
            await asyncio.sleep(0.01)
        await server.gateway.drain(0.1)

    draining = asyncio.run_coroutine_threadsafe(drain_once_busy(), server.loop)
    response = server.post(CHAT, {**HI, "stream": stream})
    draining.result(60)
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


@pytest.mark.parametrize("stream", [True, False])
def test_error_before_the_first_event_has_its_own_status(fake_server: FakeServer, stream: bool) -> None:
    server = fake_server(FakeBackend([], error=EngineFailed("no")))
    response = server.post(CHAT, {**HI, "stream": stream})
    assert (response.status_code, response.json()["error"]["code"]) == (500, "engine_failed")
    assert server.gateway.num_active == 0


def test_error_after_the_first_event_is_in_the_stream(fake_server: FakeServer) -> None:
    response = fake_server(FakeBackend(["a"], error=EngineFailed("no"))).post(CHAT, {**HI, "stream": True})
    *_, failure, done = events(response)
    assert (response.status_code, failure["error"]["code"], done) == (200, "engine_failed", "[DONE]")


class Sleeper(FakeBackend):
    """Its embeddings take a minute."""

    async def embed(self, request: EmbedRequest) -> Embeddings:
        self.num_active += 1
        try:
            await asyncio.sleep(60)
            return await super().embed(request)
        finally:
            self.num_active -= 1


EMBEDDINGS = "/v1/embeddings"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("server_s", "own_s", "param"),
    [(0.2, None, None), (0, 0.2, "timeout"), (60, 0.2, "timeout"), (0.2, 60, None)],
)
def test_shorter_timeout_ends_a_generation_that_has_not_begun(
    fake_server: FakeServer, stream: bool, server_s: float, own_s: float | None, param: str | None
) -> None:
    backend = FakeBackend(["tick"], delay_s=60)
    server = fake_server(backend, config=limited(server_s))
    response = server.post(CHAT, {**HI, "stream": stream, "timeout": own_s})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (504, "request_timeout", param)
    assert response.headers["x-should-retry"] == "false"
    assert (backend.num_active, server.gateway.num_active) == (0, 0)


@pytest.mark.parametrize("opening_s", [0.0, 60.0])
def test_timeout_holds_while_a_backend_opens_and_while_a_stream_runs(
    fake_server: FakeServer, opening_s: float
) -> None:
    backend = FakeBackend(["tick "] * 1000, delay_s=0.02, opening_s=opening_s)
    server = fake_server(backend)
    response = server.post(CHAT, {**HI, "stream": True, "timeout": 1})
    if opening_s:
        assert response.status_code == 504
    else:
        *chunks, failure, done = events(response)
        assert len(chunks) > 2
        assert (failure["error"]["code"], done) == ("request_timeout", "[DONE]")
    eventually(lambda: not backend.num_active)
    assert server.gateway.num_active == 0


def test_what_ends_in_time_is_left_alone(fake_server: FakeServer) -> None:
    server = fake_server(config=limited(30))
    assert server.post(CHAT, {**HI, "timeout": 20}).status_code == 200
    assert server.gateway.num_active == 0


@pytest.mark.parametrize(("server_s", "own_s"), [(0.2, None), (0, 0.2)])
def test_timeout_ends_an_embedding(fake_server: FakeServer, server_s: float, own_s: float | None) -> None:
    backend = Sleeper([])
    server = fake_server(backend, config=limited(server_s))
    response = server.post(EMBEDDINGS, {"model": "fake", "input": "x", "timeout": own_s})
    assert (response.status_code, response.json()["error"]["code"]) == (504, "request_timeout")
    assert (backend.num_active, server.gateway.num_active) == (0, 0)


def test_draining_interrupts_an_embedding_and_refuses_tokens() -> None:
    async def run() -> None:
        backend = Sleeper([])
        gateway = Gateway([backend])
        embedding = asyncio.ensure_future(gateway.embed(EmbedRequest("fake", ("x",))))
        await asyncio.sleep(0)
        assert gateway.num_active == 1
        await gateway.drain(0.01)
        with pytest.raises(Overloaded):
            await embedding
        assert (backend.num_active, gateway.num_active) == (0, 0)
        for refused in (
            gateway.embed(EmbedRequest("fake", ("x",))),
            gateway.tokenize(TokenizeRequest("fake", "x")),
            gateway.detokenize("fake", [1]),
            gateway.tokenizer_info("fake"),
        ):
            with pytest.raises(Overloaded):
                await refused

    asyncio.run(run())


def limited(timeout_s: float) -> Config:
    return Config.model_validate({"server": {"request_timeout_s": timeout_s}})
