"""Routes through the real server: what the caller sees of fallback, and that nothing is left open."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

import openai
import pytest

from headrace.app import create_app
from headrace.backends.fake import FakeBackend
from headrace.backends.ollama import OllamaBackend
from headrace.backends.openai import OpenAIBackend
from headrace.config import Config
from headrace.errors import (
    ConfigError,
    Overloaded,
    ProviderError,
    ProviderLimited,
    ProviderRefused,
    ProviderUnreachable,
    ServerError,
)
from tests.conftest import FakeServer
from tests.gateway.gateways import Fickle
from tests.serving import events, eventually

CHAT = "/v1/chat/completions"
DOWN = ProviderUnreachable("a: down")


def body(stream: bool = False, **members: object) -> dict[str, object]:
    return {"model": "fast", "messages": [{"role": "user", "content": "hi"}], "stream": stream, **members}


def config(*targets: object, **members: object) -> Config:
    route = {"targets": targets or ("a:m", "b:m"), "retries": 0, **members}
    providers = {name: {"kind": "fake"} for name in "ab"}
    return Config.model_validate({"providers": providers, "routes": {"fast": route}})


AS_OPENAI: dict[str, Any] = {"features": OpenAIBackend.features, "unsent": OpenAIBackend.unsent}
AS_OLLAMA: dict[str, Any] = {"features": OllamaBackend.features, "unsent": OllamaBackend.unsent}


def backend(name: str, refusal: ServerError | None = None, **members: object) -> FakeBackend:
    return FakeBackend([name, "!"], id="m", name=name, refusal=refusal, **members)  # type: ignore[arg-type]


@pytest.mark.parametrize("stream", [True, False])
def test_caller_is_answered_by_the_next_and_can_see_it(fake_server: FakeServer, stream: bool) -> None:
    first, second = backend("a", DOWN), backend("b")
    server = fake_server(first, second, config=config())
    response = server.post(CHAT, body(stream))
    assert response.status_code == 200
    assert response.headers["x-headrace-backend"] == "b"
    assert response.headers["x-headrace-attempts"] == "2"
    if stream:
        *chunks, done = events(response)
        assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "b!"
        assert (done, chunks[0]["model"]) == ("[DONE]", "m")
    else:
        assert response.json()["choices"][0]["message"]["content"] == "b!"


@pytest.mark.parametrize("stream", [True, False])
def test_failure_in_mid_answer_is_not_hidden(fake_server: FakeServer, stream: bool) -> None:
    first, second = backend("a"), backend("b")
    first.error = DOWN
    response = fake_server(first, second, config=config()).post(CHAT, body(stream))
    failure = events(response)[-2] if stream else response.json()
    assert failure["error"]["code"] == "provider_unreachable"
    assert not second.requests


@pytest.mark.parametrize("stream", [True, False])
def test_who_answers_decides_what_is_ignored(fake_server: FakeServer, stream: bool) -> None:
    first, second = backend("a", DOWN, **AS_OPENAI), backend("b", **AS_OLLAMA)
    server = fake_server(first, second, config=config())
    request = body(stream, user="me", priority=3, metadata={"a": "b"})
    response = server.post(CHAT, request)
    assert response.headers["x-headrace-backend"] == "b"
    assert response.headers["x-headrace-ignored"] == "metadata, priority, user"
    first.refusal = None
    assert server.post(CHAT, request).headers["x-headrace-ignored"] == "metadata, priority"


def test_strict_refusal_ends_a_route_before_anybody_is_asked(fake_server: FakeServer) -> None:
    first, second = backend("a", **AS_OLLAMA), backend("b")
    server = fake_server(first, second, config=config())
    response = server.post(CHAT, body(priority=3), headers={"X-Headrace-Strict": "true"})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "priority", "unsupported_parameter")
    assert not first.requests
    assert not second.requests


def test_error_tells_how_many_were_asked(fake_server: FakeServer) -> None:
    limited = ProviderLimited("b: slower", headers={"Retry-After": "7"})
    response = fake_server(backend("a", DOWN), backend("b", limited), config=config()).post(CHAT, body())
    assert (response.status_code, response.json()["error"]["message"]) == (429, "b: slower")
    assert (response.headers["retry-after"], response.headers["x-headrace-attempts"]) == ("7", "2")


def test_embeddings_take_the_same_way(fake_server: FakeServer) -> None:
    with fake_server(backend("a"), backend("b"), config=config("b:m", "a:m")).client() as client:
        raw = client.embeddings.with_raw_response.create(model="fast", input="x")
    assert (raw.headers["x-headrace-backend"], raw.parse().model) == ("b", "m")


def test_route_is_listed_and_explained_without_being_taken(fake_server: FakeServer) -> None:
    first, second = backend("a", DOWN), backend("b")
    targets = ({"target": "a:m", "weight": 2}, "b:m")
    server = fake_server(first, second, config=config(*targets, hedge_after_ms=0))
    with server.client() as client:
        assert client.models.retrieve("fast").owned_by == "headrace"
        assert "fast" in [model.id for model in client.models.list()]
    for _ in range(5):
        assert server.post(CHAT, body()).status_code == 200
    num_before = len(first.requests)
    explained = server.get("/v1/models/fast/route").json()
    wait_s = explained["candidates"][0].pop("retry_after_s")
    assert 5 < wait_s <= 10
    assert explained == {
        "object": "route",
        "model": "fast",
        "route": "fast",
        "candidates": [
            {"provider": "a", "model": "m", "weight": 2, "is_served": True, "breaker": "open"},
            {
                "provider": "b",
                "model": "m",
                "weight": None,
                "is_served": True,
                "breaker": "closed",
                "retry_after_s": 0,
            },
        ],
        "fallback_on": ["connection", "408", "429", "5xx", "overloaded"],
        "retries": 0,
        "hedge_after_ms": 0,
    }
    assert len(first.requests) == num_before
    direct = server.get("/b/v1/models/m/route").json()
    assert (direct["route"], direct["candidates"][0]["breaker"]) == (None, None)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("hedge_after_ms", [0, 10])
def test_caller_who_leaves_before_the_first_event_frees_all(
    fake_server: FakeServer, stream: bool, hedge_after_ms: int
) -> None:
    first, second = backend("a", delay_s=60), backend("b", opening_s=60)
    server = fake_server(first, second, config=config(hedge_after_ms=hedge_after_ms))
    with server.begin(CHAT, body(stream)):
        eventually(lambda: (second if hedge_after_ms else first).num_active)
    assert bool(second.requests) == bool(hedge_after_ms)
    eventually(lambda: not first.num_active and not second.num_active)
    eventually(lambda: not server.gateway.num_active)


def test_timeout_of_the_request_ends_a_route(fake_server: FakeServer) -> None:
    first = backend("a", delay_s=60)
    server = fake_server(first, backend("b"), config=config())
    response = server.post(CHAT, body(timeout=0.2))
    assert (response.status_code, response.json()["error"]["code"]) == (504, "request_timeout")
    assert (first.num_active, server.gateway.num_active) == (0, 0)


def test_route_to_nowhere_stops_the_start() -> None:
    async def start() -> None:
        app = create_app(config("a:m", "gone"), [backend("a"), backend("b")])
        async with app.router.lifespan_context(app):
            pass

    with pytest.raises(ConfigError, match=r"routes\.fast\.targets\.1 = 'gone'"):
        asyncio.run(start())


FAULTS = [DOWN, ProviderError("odd"), Overloaded("full"), ProviderLimited("slower"), ProviderRefused("bad")]


def test_many_under_random_faults_end_once_each_and_leave_nothing(fake_server: FakeServer) -> None:
    random = Random(3)
    fakes = [Fickle(name, random, FAULTS) for name in "ab"]
    equal = [{"target": f"{name}:m", "weight": 1} for name in "ab"]
    server = fake_server(*fakes, config=config(*equal, hedge_after_ms=5))
    ends: Counter[str] = Counter()

    async def one(client: openai.AsyncOpenAI, stream: bool) -> None:
        members = {"model": "fast", "messages": [{"role": "user", "content": "hi"}]}
        try:
            if stream:
                chunks = [c async for c in await client.chat.completions.create(**members, stream=True)]  # type: ignore[call-overload]
                reasons = [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason]
                assert reasons == ["stop"]
            else:
                answer = await client.chat.completions.create(**members)  # type: ignore[call-overload]
                assert answer.choices[0].finish_reason == "stop"
            ends["answered"] += 1
        except openai.APITimeoutError:
            ends["left"] += 1
        except openai.APIError:
            ends["failed"] += 1

    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
            hasty = client.with_options(timeout=0.05)
            for _ in range(10):
                kinds = [(hasty if n % 6 == 0 else client, n % 2 == 0) for n in range(30)]
                await asyncio.gather(*(one(*kind) for kind in kinds))

    asyncio.run(run())
    assert sum(ends.values()) == 300
    assert ends["answered"] > 100
    assert ends["failed"] > 10
    eventually(lambda: not any(fake.num_active for fake in fakes))
    eventually(lambda: not server.gateway.num_active)
