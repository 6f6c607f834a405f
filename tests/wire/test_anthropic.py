"""Bodies of Anthropic's dialect in the neutral language, and events in its own."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.collected import Collected
from headrace.errors import BadRequest, ContextTooLong, Overloaded, PayloadTooLarge, UnsupportedMedia
from headrace.types import (
    Conversation,
    Event,
    Finished,
    FinishReason,
    Media,
    Message,
    ModelInfo,
    ReasoningDelta,
    TextDelta,
    Thought,
    ToolCallDelta,
    ToolChoice,
    Usage,
)
from headrace.wire import errors
from headrace.wire.anthropic import answer
from headrace.wire.anthropic import request as wire
from headrace.wire.anthropic.tables import uses_of_messages
from headrace.wire.parameters import parse
from tests.wire.documented import check_documented

INFO = ModelInfo("m", "us", 0, 4096, None)
PNG = base64.b64encode(b"\x89PNG\r\n").decode()
TOOLS = [
    {"name": "f", "input_schema": {"type": "object"}},
    {"type": "custom", "name": "g", "input_schema": {}},
]
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
SEEN = Media("image", data=PNG, media_type="image/png")


def body_of(*messages: dict[str, Any], **members: Any) -> wire.MessagesBody:
    said = messages or ({"role": "user", "content": "hi"},)
    body = {"model": "m", "max_tokens": 5, "messages": said, **members}
    return parse(wire.MessagesBody, json.dumps(body).encode())


def conversation_of(*messages: dict[str, Any], **members: Any) -> Conversation:
    return wire.to_conversation(body_of(*messages, **members))


def user(*blocks: object) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def document(**source: Any) -> dict[str, Any]:
    return {"type": "document", "title": "T", "source": source}


def result(content: object, **members: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "a", "content": content, **members}


def test_system_comes_first_as_text_or_blocks() -> None:
    assert conversation_of(system="S").messages[0] == Message("system", "S")
    assert conversation_of(system=[text("S"), text("T")]).messages[0] == Message("system", "S\n\nT")
    nothings: list[Any] = [None, "", []]
    for nothing in nothings:
        assert conversation_of(system=nothing).messages == (Message("user", "hi"),)


BLOCKS: list[tuple[dict[str, Any], tuple[str | Media, ...]]] = [
    (IMAGE, (SEEN,)),
    (
        {"type": "image", "source": {"type": "url", "url": "https://a.b/c"}},
        (Media("image", url="https://a.b/c"),),
    ),
    (document(type="url", url="https://a.b/c.pdf"), (Media("document", url="https://a.b/c.pdf", name="T"),)),
    (
        document(type="base64", media_type="application/pdf", data=PNG),
        (Media("document", data=PNG, media_type="application/pdf", name="T"),),
    ),
    (document(type="text", media_type="text/plain", data="D"), ("T\n\nD",)),
    (document(type="content", content="D"), ("T", "D")),
    (document(type="content", content=[text("D"), IMAGE]), ("T", "D", SEEN)),
    (
        {"type": "search_result", "title": "T", "source": "S", "content": [text("a"), text("b")]},
        ("T\nS\na\nb",),
    ),
]


@pytest.mark.parametrize(("block", "parts"), BLOCKS)
def test_blocks_become_text_and_media(block: dict[str, Any], parts: tuple[str | Media, ...]) -> None:
    (message,) = conversation_of(user(text("see"), block)).messages
    assert message.text == "\n".join(["see", *(part for part in parts if isinstance(part, str))])
    has_media = any(isinstance(part, Media) for part in parts)
    assert message.parts == (("see", *parts) if has_media else ())


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("messages.0.content.0.source", user({"type": "image", "source": {"type": "file", "file_id": "f"}})),
    ("messages.0.content.0.source", user(document(type="file", file_id="f"))),
    ("messages.0.content.0.source.data", user({"type": "image", "source": {"type": "base64"}})),
    (
        "messages.0.content.0.source.data",
        user({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "?"}}),
    ),
    ("messages.0.content.0.source.url", user({"type": "image", "source": {"type": "url"}})),
    ("messages.0.content.0", user({"type": "tool_use", "id": "a", "name": "f", "input": {}})),
    ("messages.0.content.0", user({"type": "thinking", "thinking": "h", "signature": "s"})),
    ("messages.0.content.1", user(text("a"), {"type": "container_upload", "file_id": "f"})),
    ("messages.0.content.0", {"role": "assistant", "content": [result("x")]}),
    (
        "messages.0.content.0.input",
        {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f"}]},
    ),
    (
        "messages.0.content.0.content.0.source.url",
        user(result([{"type": "image", "source": {"type": "url"}}])),
    ),
]


@pytest.mark.parametrize(("param", "message"), REFUSED)
def test_blocks_that_cannot_be_are_named(param: str, message: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as refused:
        conversation_of(message)
    assert refused.value.param == param
    assert refused.value.message.startswith(param)


def test_results_come_before_what_the_user_says_with_them() -> None:
    messages = conversation_of(
        user(text("So?"), result("x"), result([text("y"), IMAGE], is_error=True), IMAGE)
    ).messages
    assert tuple(replace(message, blocks=()) for message in messages) == (
        Message("tool", "x", tool_call_id="a"),
        Message("tool", "Error:\ny", tool_call_id="a", parts=("Error:", "y", SEEN)),
        Message("user", "So?", parts=("So?", SEEN)),
    )
    assert conversation_of(user(result(None))).messages == (Message("tool", "", tool_call_id="a"),)


def test_a_thought_without_a_signature_is_only_text() -> None:
    blocks = [
        {"type": "thinking", "thinking": "a", "signature": ""},
        {"type": "thinking", "thinking": "b", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
        text("x"),
    ]
    (message,) = conversation_of({"role": "assistant", "content": blocks}).messages
    assert (message.reasoning, message.text) == ("ab", "x")
    assert message.thoughts == (Thought("b", "s"), Thought(redacted="d"))


def test_an_answer_that_has_begun_is_gone_on_with() -> None:
    continued = conversation_of(user(text("a")), {"role": "assistant", "content": "b"})
    assert (continued.continue_final_message, continued.add_generation_prompt) == (True, False)
    called = {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}
    for other in (conversation_of(user(text("a"))), conversation_of(user(text("a")), called)):
        assert (other.continue_final_message, other.add_generation_prompt) == (False, True)


CHOICES: list[tuple[dict[str, Any] | None, ToolChoice]] = [
    (None, ToolChoice("auto")),
    ({"type": "auto"}, ToolChoice("auto")),
    ({"type": "none"}, ToolChoice("none")),
    ({"type": "any"}, ToolChoice("required")),
    ({"type": "tool", "name": "g"}, ToolChoice("required", ("g",))),
]


@pytest.mark.parametrize(("choice", "expected"), CHOICES)
def test_choices_of_tools(choice: dict[str, Any] | None, expected: ToolChoice) -> None:
    conversation = conversation_of(tools=TOOLS, tool_choice=choice)
    assert conversation.tool_choice == expected
    assert [tool.name for tool in conversation.tools] == ["f", "g"]
    assert conversation.parallel_tool_calls
    if choice is not None:
        one = conversation_of(tools=TOOLS, tool_choice={**choice, "disable_parallel_tool_use": True})
        assert not one.parallel_tool_calls


EFFORTS: list[tuple[Any, str | None, str | None]] = [
    (None, None, None),
    (None, "high", None),
    ({"type": "disabled"}, None, "none"),
    ({"type": "enabled", "budget_tokens": 1024}, None, "low"),
    ({"type": "enabled", "budget_tokens": 4096}, "max", "medium"),
    ({"type": "enabled", "budget_tokens": 16384}, None, "high"),
    ({"type": "adaptive"}, None, "medium"),
    ({"type": "adaptive", "display": "summarized"}, "xhigh", "xhigh"),
]


@pytest.mark.parametrize(("thinking", "effort", "expected"), EFFORTS)
def test_a_budget_is_an_effort(thinking: Any, effort: str | None, expected: str | None) -> None:
    members = {"thinking": thinking, "output_config": {"effort": effort}}
    assert conversation_of(**members).reasoning_effort == expected
    is_dropped = effort is not None and expected != effort
    paths = [use.path for use in uses_of_messages(body_of(**members)).members]
    assert ("output_config.effort" in paths) is is_dropped


NAMES = st.sampled_from(["f", "g"])
TEXTS = st.text(min_size=0, max_size=5)
REDACTED = st.builds(Thought, redacted=st.text(min_size=1, max_size=3))
SIGNED = st.builds(Thought, TEXTS, st.text(min_size=1, max_size=3)) | REDACTED


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """Texts, thinking and calls in any order, as a backend may tell them: one signs all that it shows of its
    thinking, or nothing.
    """
    signs = draw(st.booleans())
    events: list[Event] = []
    calls = 0
    for kind in draw(
        st.lists(st.sampled_from(["text", "thought", "call", *([] if signs else ["thinking"])]), max_size=8)
    ):
        if kind == "text":
            events.append(TextDelta(0, draw(TEXTS)))
        elif kind == "thinking":
            events.append(ReasoningDelta(0, draw(TEXTS)))
        elif kind == "thought":
            events += _thought(draw(SIGNED if signs else REDACTED))
        else:
            arguments = json.dumps(draw(st.dictionaries(TEXTS, TEXTS, max_size=2)))
            at = draw(st.integers(0, len(arguments)))
            events.append(ToolCallDelta(0, calls, id=f"c{calls}", name=draw(NAMES)))
            events += [ToolCallDelta(0, calls, arguments[:at]), ToolCallDelta(0, calls, arguments[at:])]
            calls += 1
    reason: FinishReason = draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"]))
    return [*events, Finished(0, reason, Usage(9, 7, 2, 1, 3))]


def _thought(thought: Thought) -> list[Event]:
    said: list[Event] = [ReasoningDelta(0, thought.text)] if thought.text else []
    return [*said, ReasoningDelta(0, "", thought=thought)]


def folded(texts: list[str]) -> dict[str, Any]:
    """A stream put together as its documentation says. Fails when it is out of order."""
    message: dict[str, Any] = {}
    is_open = False
    for text in texts:
        name, data = text.removesuffix("\n\n").split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert bool(message) == (event["type"] != "message_start")
        assert is_open == (event["type"] in ("content_block_delta", "content_block_stop"))
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append({**event["content_block"], "pieces": ""})
                is_open = True
            case "content_block_delta":
                _add(message["content"][event["index"]], event["delta"])
            case "content_block_stop":
                is_open = False
            case "message_delta":
                message |= event["delta"]
                message["usage"] |= event["usage"]
    assert texts[-1].startswith("event: message_stop\n")
    return {**message, "content": list(_finished(message["content"]))}


def _add(block: dict[str, Any], delta: dict[str, Any]) -> None:
    for into, member in (("text", "text"), ("thinking", "thinking"), ("signature", "signature")):
        if member in delta:
            block[into] += delta[member]
    block["pieces"] += delta.get("partial_json", "")


def _finished(blocks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for block in blocks:
        pieces = block.pop("pieces")
        yield {**block, "input": json.loads(pieces)} if pieces else block


def said(blocks: list[dict[str, Any]], member: str) -> str:
    return "".join(block.get(member, "") for block in blocks)


@settings(max_examples=150, deadline=None)
@given(answers())
def test_a_stream_folds_to_the_whole_answer(events: list[Event]) -> None:
    frames = answer.Frames(INFO)
    texts = [*frames.first(), *(one for event in events for one in frames.event(event)), *frames.last()]
    streamed = folded(texts)
    collected = Collected()
    for event in events:
        collected.push(event)
    whole: Any = answer.message(INFO, collected)
    check_documented(whole, answer.AnsweredMessage)
    check_documented(streamed, answer.AnsweredMessage)
    assert {**streamed, "id": "", "content": []} == {**whole, "id": "", "content": []}
    assert whole["usage"]["input_tokens"] == 4
    for member in ("text", "thinking", "signature", "data"):
        assert said(streamed["content"], member) == said(whole["content"], member)
    calls = [
        [block for block in message["content"] if block["type"] == "tool_use"]
        for message in (streamed, whole)
    ]
    assert calls[0] == calls[1]


@pytest.mark.parametrize(
    ("error", "type"),
    [
        (PayloadTooLarge("x"), "request_too_large"),
        (UnsupportedMedia("x"), "invalid_request_error"),
        (Overloaded("x"), "overloaded_error"),
    ],
)
def test_errors_have_types_by_status(error: Any, type: str) -> None:
    body = errors.to_messages_body(error, "req_1")
    assert body == {"type": "error", "error": {"type": type, "message": "x"}, "request_id": "req_1"}
    check_documented(body, errors.MessagesErrorResponse)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ContextTooLong("x"), "prompt is too long: x"),
        (ContextTooLong("prompt is too long, says who"), "prompt is too long, says who"),
        (ContextTooLong.of_tokens(8, 9, 1, param="messages"), "prompt is too long: 10 tokens > 8 maximum"),
    ],
)
def test_l16_an_overflow_is_reported_in_anthropics_words(error: ContextTooLong, message: str) -> None:
    body = errors.to_messages_body(error, "req_1")
    assert body["error"] == {"type": "invalid_request_error", "message": message}
