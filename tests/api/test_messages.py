"""Anthropic's dialect over /v1/messages: scripted answers, read by the official client, and the engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol

import pytest

from docgen.compatibility import kinds
from headrace.app import create_app
from headrace.assembly import build_providers
from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.errors import (
    UnsupportedParameter,
)
from headrace.types import (
    Conversation,
    Event,
    Finished,
    FinishReason,
    Format,
    GenerateRequest,
    Media,
    ReasoningDelta,
    Started,
    TextDelta,
    Thought,
    ToolCallDelta,
    Usage,
)
from tests.api.anthropics import COUNT, MESSAGES, PNG, QUESTION, SMALL, check_order, frames, reading
from tests.conftest import FakeServer
from tests.serving import Served, serving

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS: Any = [
    {"name": "weather", "description": "D", "input_schema": SCHEMA},
    {"name": "time", "input_schema": {"type": "object"}},
]
BERN = '{"city": "Bern \\u2600 ☀"}'
SIGNED, REDACTED = Thought("They want weather.", "sig=="), Thought(redacted="0paque")


def ended(reason: FinishReason = "stop") -> Finished:
    return Finished(0, reason, Usage(11, 7, 2, 3, 4))


CALLING: list[Event] = [
    Started(0, 0.1, 0.2, 11, 2),
    ReasoningDelta(0, "They want "),
    ReasoningDelta(0, "weather.", thought=SIGNED),
    ReasoningDelta(0, "", thought=REDACTED),
    TextDelta(0, "I'll "),
    TextDelta(0, "look."),
    ToolCallDelta(0, 0, id="call_w", name="weather"),
    *(ToolCallDelta(0, 0, piece) for piece in BERN),
    ToolCallDelta(0, 1, id="call_t", name="time"),
    ended("tool_calls"),
]
DIRECT: dict[str, Any] = {"caller": {"type": "direct"}}
CALLED: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "They want weather.", "signature": "sig=="},
    {"type": "redacted_thinking", "data": "0paque"},
    {"type": "text", "text": "I'll look.", "citations": None},
    {"type": "tool_use", "id": "call_w", "name": "weather", "input": {"city": "Bern ☀ ☀"}, **DIRECT},
    {"type": "tool_use", "id": "call_t", "name": "time", "input": {}, **DIRECT},
]


class Fake(Protocol):
    def __call__(self, *script: str | Event, config: Config | None = None, **members: Any) -> Served: ...


@pytest.fixture
def fake(fake_server: FakeServer) -> Fake:
    """Call it with a FakeBackend's script and other members to get a server over it."""

    def start(*script: str | Event, config: Config | None = None, **members: Any) -> Served:
        return fake_server(FakeBackend(script, **members), config=config)

    return start


def last_request(server: Served) -> Any:
    return server.backend.requests[-1]  # type: ignore[attr-defined]  # a FakeBackend


def test_an_answer_is_a_message(fake: Fake) -> None:
    with reading(fake("Hello", " world", ended())) as client:
        answer = client.messages.create(**SMALL)
    assert answer.id.startswith("msg_")
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", "fake")
    (block,) = answer.content
    assert block.to_dict() == {"type": "text", "text": "Hello world", "citations": None}
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    usage = answer.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (5, 2, 7)
    assert usage.cache_creation_input_tokens == 4
    assert usage.output_tokens_details is not None
    assert usage.output_tokens_details.thinking_tokens == 3


@pytest.mark.parametrize(
    ("reason", "stop_reason"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("content_filter", "refusal"),
    ],
)
def test_reasons_are_anthropics(fake: Fake, reason: FinishReason, stop_reason: str) -> None:
    with reading(fake("x", ended(reason))) as client:
        assert client.messages.create(**SMALL).stop_reason == stop_reason
        with client.messages.stream(**SMALL) as stream:
            assert stream.get_final_message().stop_reason == stop_reason


def test_the_stop_sequence_that_was_met_is_reported(fake: Fake) -> None:
    with reading(fake("x", Finished(0, "stop", Usage(1, 1), stop="END"))) as client:
        with client.messages.stream(**SMALL, stop_sequences=["END", "FIN"]) as stream:
            streamed = stream.get_final_message()
        whole = client.messages.create(**SMALL, stop_sequences=["END", "FIN"])
    for answer in (streamed, whole):
        assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "END")


def test_thinking_text_and_calls_are_blocks(fake: Fake) -> None:
    with reading(fake(*CALLING)) as client:
        answer = client.messages.create(**SMALL, tools=TOOLS)
    assert [block.to_dict() for block in answer.content] == CALLED
    assert answer.stop_reason == "tool_use"


def test_a_stream_adds_up_to_the_same(fake: Fake) -> None:
    with reading(fake(*CALLING)) as client, client.messages.stream(**SMALL, tools=TOOLS) as stream:
        seen = [event.type for event in stream]
        answer = stream.get_final_message()
    assert [block.to_dict() for block in answer.content] == CALLED
    assert answer.stop_reason == "tool_use"
    usage = answer.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (5, 2, 7)
    assert {"thinking", "signature", "text", "input_json", "message_stop"} <= set(seen)


def test_a_stream_is_in_order(fake: Fake) -> None:
    response = fake(*CALLING).post(MESSAGES, {**SMALL, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "[DONE]" not in response.text
    events = frames(response)
    blocks = check_order(events)
    assert [block["type"] for block in blocks] == [block["type"] for block in CALLED]
    assert [block.get("input") for block in blocks[3:]] == [BERN, {}]
    assert response.headers["x-headrace-backend"] == "fake"
    assert events[0][1]["message"]["usage"]["input_tokens"] == 9  # 11 of which 2 are cached
    assert events[-2][1]["usage"]["output_tokens"] == 7


def test_text_after_a_call_gets_a_block_of_its_own(fake: Fake) -> None:
    call = ToolCallDelta(0, 0, "{}", id="c", name="f")
    script: list[str | Event] = ["a", call, "b", ReasoningDelta(0, "h"), ReasoningDelta(0, "m"), "c"]
    blocks = check_order(frames(fake(*script).post(MESSAGES, {**SMALL, "stream": True})))
    assert [block["type"] for block in blocks] == ["text", "tool_use", "text", "thinking", "text"]
    assert blocks[3]["thinking"] == "hm"


def test_thinking_that_is_not_shown_has_its_signature(fake: Fake) -> None:
    script: list[str | Event] = [
        ReasoningDelta(0, "", thought=Thought("", "s1")),
        ReasoningDelta(0, "", thought=Thought("t", "s2")),
    ]
    blocks = check_order(frames(fake(*script, "x").post(MESSAGES, {**SMALL, "stream": True})))
    assert [(block.get("thinking"), block.get("signature")) for block in blocks] == [
        ("", "s1"),
        ("t", "s2"),
        (None, None),
    ]


def test_usage_that_nobody_knows_is_zero(fake: Fake) -> None:
    with reading(fake("x", Finished(0, "stop", Usage(0, 0, is_known=False)))) as client:
        assert client.messages.create(**SMALL).usage.output_tokens == 0
        with client.messages.stream(**SMALL) as stream:
            assert stream.get_final_message().usage.input_tokens == 0


def test_arguments_that_are_cut_off_are_wrapped(fake: Fake) -> None:
    """A caller must not take them for all arguments."""
    script: list[str | Event] = [ToolCallDelta(0, 0, '{"a": 1, "b": [2', id="c", name="f"), ended("length")]
    (block,) = fake(*script).post(MESSAGES, SMALL).json()["content"]
    assert block["input"] == {"arguments": '{"a": 1, "b": [2'}


def test_the_whole_request_reaches_the_backend(fake: Fake) -> None:
    server = fake("x")
    with reading(server) as client:
        client.messages.create(
            model="fake",
            max_tokens=7,
            system=[{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}],
            messages=QUESTION,
            stop_sequences=["END", "FIN"],
            tools=TOOLS,
            tool_choice={"type": "tool", "name": "time", "disable_parallel_tool_use": True},
            thinking={"type": "enabled", "budget_tokens": 5000},
            output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
            extra_body={"temperature": 0, "top_p": 0.5, "top_k": 3},
        )
    request = last_request(server)
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (7, 0, 0.5, 3)
    assert sampling.stop == ("END", "FIN")
    assert request.format == Format("json_schema", SCHEMA, "output_config.format.schema")
    prompt = request.prompt
    assert [(message.role, message.text) for message in prompt.messages] == [
        ("system", "Be\n\nbrief."),
        ("user", QUESTION[0]["content"]),
    ]
    assert (prompt.tool_choice.names, prompt.parallel_tool_calls) == (("time",), False)
    assert prompt.reasoning_effort == "medium"


@pytest.mark.parametrize(
    ("kind", "ignored"),
    [("anthropic", None), ("engine", "messages.1.content.0.signature, messages.1.content.1.data")],
)
def test_an_answer_can_be_sent_back_with_results(fake: Fake, kind: str, ignored: str | None) -> None:
    server = fake(*CALLING, features=kinds()[kind].features)
    with reading(server) as client:
        answer = client.messages.create(**SMALL, tools=TOOLS)
        result: Any = {"type": "tool_result", "tool_use_id": "call_w", "content": "sun"}
        failed: Any = {
            "type": "tool_result",
            "tool_use_id": "call_t",
            "is_error": True,
            "content": [{"type": "text", "text": "no clock"}],
        }
        turn: Any = {"role": "user", "content": [result, failed, {"type": "text", "text": "So?"}]}
        history = [*QUESTION, answer.to_param(), turn]
        again = client.messages.with_raw_response.create(**{**SMALL, "messages": history}, tools=TOOLS)
    assert again.headers.get("x-headrace-ignored") == ignored
    said, *rest = last_request(server).prompt.messages[1:]
    assert (said.text, said.reasoning, said.thoughts) == ("I'll look.", SIGNED.text, (SIGNED, REDACTED))
    assert [json.loads(call.arguments) for call in said.tool_calls] == [{"city": "Bern ☀ ☀"}, {}]
    assert [(one.role, one.text, one.tool_call_id) for one in rest] == [
        ("tool", "sun", "call_w"),
        ("tool", "Error:\nno clock", "call_t"),
        ("user", "So?", None),
    ]


def test_what_is_not_carried_is_named(fake: Fake) -> None:
    server = fake("x")
    body = {
        **SMALL,
        "metadata": {"user_id": "me"},
        "cache_control": {"type": "ephemeral"},
        "novelty": 1,
        "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}, *TOOLS],
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
                    {"type": "text", "text": "b"},
                ],
            },
            *QUESTION,
        ],
        "output_config": {"effort": "high"},
    }
    response = server.post(MESSAGES, body)
    assert response.status_code == 200, response.text
    named = response.headers["x-headrace-ignored"].split(", ")
    assert sorted(named) == ["messages.1.content.0", "metadata", "novelty", "output_config.effort", "tools.0"]
    assert [tool.name for tool in last_request(server).prompt.tools] == ["weather", "time"]
    assert server.post(MESSAGES, body, headers={"X-Headrace-Strict": "true"}).status_code == 400


CARRIED: list[tuple[str, list[str]]] = [
    ("engine", ["metadata", "system.0.citations"]),
    ("openai", ["system.0.citations", "system.0.cache_control", "tools.0.cache_control"]),
    ("ollama", ["metadata", "system.0.citations", "tools.1.strict"]),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("kind", "ignored"), CARRIED)
def test_who_answers_decides_what_is_ignored(fake: Fake, kind: str, ignored: list[str], stream: bool) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    body = {
        **SMALL,
        "stream": stream,
        "metadata": {"user_id": "me"},
        "system": [{"type": "text", "text": "Hi", "citations": [{}], **mark}],
        "tools": [{**TOOLS[0], **mark}, {**TOOLS[1], "strict": True}],
    }
    server = fake("x", features=kinds()[kind].features)
    header = server.post(MESSAGES, body).headers["x-headrace-ignored"]
    assert sorted(header.split(", ")) == sorted(ignored)
    assert last_request(server).user == "me"
    strict = server.post(MESSAGES, body, headers={"X-Headrace-Strict": "true"})
    assert strict.status_code == (200 if kind == "engine" else 400)


def test_strict_mode_takes_what_is_known(fake: Fake) -> None:
    body = {**SMALL, "metadata": {"user_id": "me"}, "tools": TOOLS, "service_tier": "auto"}
    assert fake("x").post(MESSAGES, body, headers={"X-Headrace-Strict": "true"}).status_code == 200


class Thoughtless(FakeBackend):
    """One whose model knows no efforts."""

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        assert isinstance(request.prompt, Conversation)
        if request.prompt.reasoning_effort is not None:
            raise UnsupportedParameter("no efforts here", param="reasoning_effort")
        async with super().generate(request) as events:
            yield events


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_is_dropped_where_no_model_thinks(stream: bool) -> None:
    app = create_app(Config(), [Thoughtless(["x"])])
    body = {**SMALL, "thinking": {"type": "adaptive"}, "metadata": {}, "stream": stream}
    with serving(app) as server:
        response = server.post(MESSAGES, body)
        assert response.status_code == 200
        assert response.headers["x-headrace-ignored"] == "thinking, metadata"
        assert server.post(MESSAGES, body, headers={"X-Headrace-Strict": "1"}).status_code == 400


@contextmanager
def chained(upstream: Served) -> Iterator[Served]:
    """A server whose provider `up` is another one, asked in Anthropic's dialect."""
    providers = {"up": {"kind": "anthropic", "base_url": upstream.url, "api_key": "k"}}
    config = Config.model_validate({"providers": providers})
    app = create_app(config, build_providers(config))
    with serving(app) as served:
        yield served


def test_through_a_chain_the_answer_is_the_same(fake: Fake) -> None:
    upstream = fake(*CALLING)
    members: Any = {**SMALL, "tools": TOOLS, "stop_sequences": ["END"]}
    with reading(upstream) as client:
        direct = client.messages.create(**members)
    with chained(upstream) as server, reading(server) as client:
        members["model"] = "up:fake"
        whole = client.messages.create(**members)
        with client.messages.stream(**members) as stream:
            streamed = stream.get_final_message()
    first, *others = upstream.backend.requests  # type: ignore[attr-defined]  # a FakeBackend
    assert [other.prompt for other in others] == [first.prompt] * 2
    for answer in (whole, streamed):
        assert [block.to_dict() for block in answer.content] == CALLED
        assert answer.stop_reason == "tool_use"
        assert answer.usage == direct.usage


def test_a_path_names_a_provider(fake: Fake) -> None:
    server = fake("x")
    for path in (MESSAGES, COUNT):
        assert server.post(f"/fake{path}", SMALL).status_code == 200
        missing = server.post(f"/nope{path}", SMALL)
        assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")


def test_tokens_are_counted(fake: Fake) -> None:
    with reading(fake("x")) as client:
        counted = client.messages.count_tokens(model="fake", messages=QUESTION, system="Hi", tools=TOOLS)
    assert counted.input_tokens == len("Hi\n" + QUESTION[0]["content"])


def test_media_reach_the_backend(fake: Fake) -> None:
    server = fake("x")
    source: Any = {"type": "base64", "media_type": "image/png", "data": PNG}
    content: Any = [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]
    with reading(server) as client:
        client.messages.create(**{**SMALL, "messages": [{"role": "user", "content": content}]})
    (message,) = last_request(server).prompt.messages
    assert message.parts == (Media("image", data=PNG, media_type="image/png"), "What is it?")
