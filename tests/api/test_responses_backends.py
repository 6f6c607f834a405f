"""/v1/responses over every kind of provider: two turns, the first of which calls a tool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from headrace.app import create_app
from headrace.backend_types import Backend
from headrace.backends.openai import OpenAIBackend
from headrace.config import Config, ProviderConfig
from tests.api.responses_client import WEATHER, streamed, strict
from tests.backends import anthropic_wire as anthropic
from tests.backends import test_ollama as ollama
from tests.backends import two_ways as openai_wire
from tests.serving import eventually, serving
from tests.upstream import Answer, Upstream, answer, scripted, sse

QUESTION = "How is Bern?"


def _openai_backend(upstream: Upstream) -> Backend:
    upstream.always("/v1/models", answer({"object": "list", "data": [{"id": "m"}]}))
    config = ProviderConfig(kind="openai", base_url=upstream.url + "/v1", models=("m",))
    return OpenAIBackend("p", config, "sk-0123456789")


def _openai_said(body: Any) -> list[tuple[str, Any]]:
    return [
        (message["role"], message.get("content") or message["tool_calls"][0]["function"]["arguments"])
        for message in body["messages"]
    ]


def _openai_calls() -> Answer:
    function = {"name": "weather", "arguments": '{"city": "Bern"}'}
    call = {"index": 0, "id": "call_1", "type": "function", "function": function}
    last = openai_wire.chunk(reason="tool_calls")
    return Answer(pieces=sse(openai_wire.chunk({"tool_calls": [call]}), last, openai_wire.COUNTED, "[DONE]"))


def _openai_says() -> Answer:
    return Answer(pieces=sse(*openai_wire.TEXT, *openai_wire.END))


def _anthropic_backend(upstream: Upstream) -> Backend:
    upstream.always("/v1/models", answer({"data": [{"id": "m"}], "has_more": False}))
    return anthropic.backend_of(upstream, models=["m"])


def _anthropic_said(body: Any) -> list[tuple[str, Any]]:
    return [
        (message["role"], _of_block(block))
        for message in body["messages"]
        for block in ([message["content"]] if isinstance(message["content"], str) else message["content"])
    ]


def _of_block(block: Any) -> Any:
    if isinstance(block, str):
        return block
    members = ("text", "signature", "content", "input")
    value = next(block[name] for name in members if name in block)
    return value[0]["text"] if isinstance(value, list) else value


def _anthropic_calls() -> Answer:
    return Answer(
        pieces=sse(
            anthropic.start(),
            *anthropic.thinking(0, "Hm", signature="c2ln"),
            *anthropic.tool_use(1, "call_1", "weather", '{"city": "Bern"}'),
            *anthropic.end("tool_use"),
        )
    )


def _anthropic_says() -> Answer:
    return Answer(pieces=sse(anthropic.start(), *anthropic.text(0, "Grüße", " 🌊"), *anthropic.end()))


def _ollama_backend(upstream: Upstream) -> Backend:
    model = {"name": "m", "digest": "d", "modified_at": "2025-05-04T17:37:44.706015396-07:00"}
    upstream.always(ollama.TAGS, answer({"models": [model]}))
    upstream.always(ollama.SHOW, answer({"model_info": {"general.size": 1, "llama.context_length": 16384}}))
    return ollama.backend(upstream)


def _ollama_said(body: Any) -> list[tuple[str, Any]]:
    return [
        (message["role"], message["content"] or message["tool_calls"][0]["function"]["arguments"])
        for message in body["messages"]
    ]


def _ollama_calls() -> Answer:
    return ollama.lines(
        ollama.line(content="", tool_calls=[ollama.call("weather", city="Bern")]), ollama.end()
    )


def _ollama_says() -> Answer:
    return ollama.lines(ollama.line(content="Grüße"), ollama.line(content=" 🌊"), ollama.end())


CALLED = {"city": "Bern"}
KINDS = {
    "openai": (
        _openai_backend, "/v1/chat/completions", _openai_calls, _openai_says, _openai_said,
        [("user", QUESTION), ("assistant", '{"city": "Bern"}'), ("tool", "20 °C")],
    ),
    "anthropic": (
        _anthropic_backend, "/v1/messages", _anthropic_calls, _anthropic_says, _anthropic_said,
        [("user", QUESTION), ("assistant", "c2ln"), ("assistant", CALLED), ("user", "20 °C")],
    ),
    "ollama": (
        _ollama_backend, ollama.CHAT, _ollama_calls, _ollama_says, _ollama_said,
        [("user", QUESTION), ("assistant", CALLED), ("tool", "20 °C")],
    ),
}  # fmt: skip


@contextmanager
def world(make: Callable[[Upstream], Backend]) -> Iterator[tuple[Upstream, Any]]:
    with scripted() as upstream, serving(create_app(Config(), [make(upstream)])) as server:
        eventually(server.gateway.router.models)  # its list is fetched in the background
        yield upstream, server


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_tool_turn(kind: str, stream: bool) -> None:
    make, path, calls, says, said, expected = KINDS[kind]
    with world(make) as (upstream, server), strict(server) as client:
        upstream.play(calls(), says(), path=path)
        first = {"model": "m", "input": QUESTION, "tools": [WEATHER]}
        first_response = streamed(server, first)[-1]["response"] if stream else _made(client, first)
        call = first_response["output"][-1]
        assert (call["type"], call["name"]) == ("function_call", "weather")
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "20 °C"}
        second = {
            "model": "m",
            "input": [result],
            "tools": [WEATHER],
            "previous_response_id": first_response["id"],
        }
        second_response = streamed(server, second, 1)[-1]["response"] if stream else _made(client, second)
        assert second_response["output"][-1]["content"][0]["text"].startswith("Grüße")
        assert second_response["usage"]["output_tokens"]
        assert second_response["status"] == "completed"
        assert said(upstream.posts[-1].body) == expected


def _made(client: Any, body: dict[str, Any]) -> Any:
    return client.responses.create(**body).to_dict()


def test_path_may_name_the_provider() -> None:
    with world(_openai_backend) as (upstream, server):
        upstream.play(_openai_says(), path="/v1/chat/completions")
        response = server.post("/p/v1/responses", {"model": "m", "input": QUESTION})
        assert response.json()["status"] == "completed"
        assert response.headers["x-headrace-backend"] == "p"
        counted = server.post("/p/v1/responses/input_tokens", {"model": "m", "input": QUESTION})
        assert counted.status_code == 400
        assert "tokens" in counted.json()["error"]["message"]
