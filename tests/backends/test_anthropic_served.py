"""The whole way: an OpenAI client asks our server, which asks Anthropic, scripted."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionFunctionToolParam

from headrace.api import messages
from headrace.app import create_app
from headrace.config import Config
from tests.backends.anthropic_wire import (
    MODEL,
    PLAIN,
    STREAMS,
    backend_of,
    block,
    end,
    failed,
    sdk,
    start,
    text,
    theirs,
    thinking,
    tool_use,
)
from tests.serving import Served, eventually, serving
from tests.upstream import Answer, Upstream, answer, scripted, sse


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with scripted() as upstream:
        upstream.always("/v1/models", answer({"data": [{"id": MODEL}], "has_more": False}))
        yield upstream


@pytest.fixture(scope="module")
def server(upstream: Upstream) -> Iterator[Served]:
    app = create_app(Config(), [backend_of(upstream, models=[MODEL])])
    app.include_router(messages.router)
    with serving(app) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[openai.OpenAI]:
    with server.client() as client:
        yield client


WEATHER: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}},
}
PNG = base64.b64encode(b"\x89PNG").decode()
THOUGHT = {"type": "thinking", "thinking": "Hm", "signature": "c2ln"}
SECRET = {"type": "redacted_thinking", "data": "c2Vj"}
REDACTED = block(1, SECRET)
CALLS = [
    start(cache_creation_input_tokens=100, cache_read_input_tokens=1000),
    *thinking(0, "Two", " cities.", signature="c2ln"),
    *text(1, "Let me see."),
    *tool_use(2, "toolu_1", "weather", "", '{"city"', ': "Bern"}'),
    *tool_use(3, "toolu_2", "weather", '{"city": "Genf"}'),
    *end("tool_use", output_tokens=50),
]


def text_block(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def test_an_openai_client_gets_calls_reasoning_and_usage(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.play(Answer(pieces=sse(*CALLS)))
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Weather?"}],
        tools=[WEATHER],
        reasoning_effort="medium",
        max_completion_tokens=5000,
    )
    choice, usage = answer.choices[0], answer.usage
    assert choice.message.content == "Let me see."
    assert choice.message.to_dict()["reasoning_content"] == "Two cities."
    calls = choice.message.tool_calls or []
    found = [(c.id, c.function.name, json.loads(c.function.arguments)) for c in calls if c.type == "function"]
    assert found == [("toolu_1", "weather", {"city": "Bern"}), ("toolu_2", "weather", {"city": "Genf"})]
    assert choice.finish_reason == "tool_calls"
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (1111, 50, 1161)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 1000
    body = upstream.posts[-1].body
    assert (body["model"], body["max_tokens"]) == (MODEL, 5000)
    assert body["system"] == [text_block("Be brief.")]
    assert body["tools"][0]["input_schema"] == WEATHER["function"]["parameters"]


def test_thoughts_calls_and_images_go_back_as_they_came(client: openai.OpenAI, upstream: Upstream) -> None:
    thoughts = [*thinking(0, "Hm", signature="c2ln"), *REDACTED]
    call = tool_use(2, "toolu_1", "weather", '{"city": "Bern"}')
    upstream.play(Answer(pieces=sse(start(), *thoughts, *call, *end("tool_use"))), Answer(pieces=sse(*PLAIN)))
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    messages: list[Any] = [{"role": "user", "content": [text_block("Where?"), image]}]
    first = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    messages.append(first.choices[0].message.to_dict())
    messages.append({"role": "tool", "tool_call_id": "toolu_1", "content": "Sun"})
    again = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    assert again.choices[0].message.content == "Hello"
    answer, called, answered = upstream.posts[-1].body["messages"]
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    assert answer["content"] == [text_block("Where?"), {"type": "image", "source": source}]
    assert called["content"] == [
        THOUGHT,
        SECRET,
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Bern"}},
    ]
    assert answered["content"][0]["tool_use_id"] == "toolu_1"


def test_a_stream_says_the_same(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.play(Answer(pieces=sse(*CALLS)))
    with client.chat.completions.stream(
        model=MODEL,
        messages=[{"role": "user", "content": "Weather?"}],
        tools=[WEATHER],
        stream_options={"include_usage": True},
    ) as stream:
        whole = stream.get_final_completion()
    message = whole.choices[0].message
    assert message.content == "Let me see."
    assert message.to_dict()["reasoning_content"] == "Two cities."
    calls = [(call.id, call.function.arguments) for call in message.tool_calls or []]
    assert calls == [("toolu_1", '{"city": "Bern"}'), ("toolu_2", '{"city": "Genf"}')]
    assert whole.choices[0].finish_reason == "tool_calls"
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (1111, 50)


@pytest.mark.parametrize("name", STREAMS)
def test_anthropics_sdk_reads_the_same_through_us(server: Served, upstream: Upstream, name: str) -> None:
    played = Answer(pieces=sse(*STREAMS[name]))
    upstream.play(played, played)
    assert theirs(server.url) == theirs(upstream.url)


def test_anthropics_sdk_asks_the_same_through_us(server: Served, upstream: Upstream) -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Bern"}}
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    note = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PNG}}
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text_block("Sun"), picture]},
        text_block("So?"),
    ]
    body: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 500,
        "system": [text_block("Be brief.")],
        "messages": [
            {"role": "user", "content": [text_block("Where?"), picture, note]},
            {"role": "assistant", "content": [THOUGHT, SECRET, text_block("Let me see."), use]},
            {"role": "user", "content": results},
        ],
        "tools": [{"name": "weather", "description": "Of a city", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "thinking": {"type": "adaptive", "display": "summarized"},
        "output_config": {"effort": "high"},
        "stop_sequences": ["END"],
    }
    upstream.play(*[Answer(pieces=sse(*PLAIN))] * 2)
    for url in (upstream.url, server.url):
        with sdk(url) as client, client.messages.stream(**body) as stream:
            assert stream.get_final_text() == "Hello"
    direct, through = (seen.body for seen in upstream.posts[-2:])
    assert through == direct


@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_their_status_also_as_the_first_event(
    server: Served, upstream: Upstream, stream: bool
) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": stream}
    found = []
    for played in (
        answer(failed("rate_limit_error"), status=429, headers={"retry-after": "9"}),
        answer(failed("authentication_error"), status=401),
        Answer(pieces=sse(("error", failed("overloaded_error")))),
    ):
        upstream.play(played)
        response = server.post("/v1/chat/completions", body)
        found.append(
            (response.status_code, response.json()["error"]["code"], response.headers.get("retry-after"))
        )
        assert "sk-secret" not in response.text
    assert found == [
        (429, "rate_limit_exceeded", "9"),
        (502, "provider_authentication_error", None),
        (503, "provider_unreachable", "1"),
    ]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("sent", [None, 0, 1, 3])  # None: not even a status line
def test_anthropic_sees_a_hang_up(server: Served, upstream: Upstream, stream: bool, sent: int | None) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": stream}
    pieces = sse(*PLAIN[: sent or 0])
    upstream.play(Answer(0 if sent is None else 200, pieces=pieces, stall=True))
    before = len(upstream.posts)
    with server.begin("/v1/chat/completions", body):
        eventually(lambda: len(upstream.posts) > before)
    seen = upstream.posts[-1]
    eventually(lambda: seen.closed_at is not None)
    eventually(lambda: not server.gateway.num_active)
