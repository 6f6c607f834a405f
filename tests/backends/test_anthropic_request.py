"""What Anthropic is sent for a neutral request, and what is refused because it cannot do it."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from headrace.backends.anthropic import AnthropicBackend
from headrace.backends.anthropic.request import MAX_TOKENS, enforced
from headrace.errors import BadRequest, UnsupportedParameter
from headrace.features import Feature
from headrace.types import (
    Format,
    GenerateRequest,
    Media,
    Message,
    Sampling,
    Thought,
    Tool,
    ToolCall,
    ToolChoice,
)
from tests.backends.anthropic_requests import USER, body_of, neutral
from tests.backends.anthropic_wire import MODEL


def turns(*messages: Message) -> list[Any]:
    """Each turn as its role and its blocks; a block of text alone as its text."""
    return [
        (turn["role"], [block["text"] if block["type"] == "text" else block for block in turn["content"]])
        for turn in body_of(neutral(*messages))["messages"]
    ]


def result(id: str, *content: object) -> dict[str, object]:
    blocks = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    return {"type": "tool_result", "tool_use_id": id, **({"content": blocks} if blocks else {})}


def test_the_least_is_sent_for_the_least() -> None:
    assert body_of(neutral()) == {
        "model": MODEL,
        "max_tokens": MAX_TOKENS,
        "stream": True,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
    }


def test_system_and_developer_messages_are_hoisted() -> None:
    late = Message("developer", "ab", parts=("a", "b"))
    body = body_of(
        neutral(Message("system", "Be brief."), USER, Message("system", " "), late, Message("user", "?"))
    )
    assert [block["text"] for block in body["system"]] == ["Be brief.", "ab"]
    assert [block["text"] for block in body["messages"][0]["content"]] == ["Hello", "?"]
    assert len(body["messages"]) == 1


def test_consecutive_messages_of_a_side_are_one_turn_and_blank_ones_none() -> None:
    assistants = (Message("assistant", "a"), Message("assistant", "b"))
    blank = (Message("assistant", ""), Message("user", " \n"))
    assert turns(Message("assistant", ""), USER, *assistants, *blank, Message("user", "c")) == [
        ("user", ["Hello"]),
        ("assistant", ["a", "b"]),
        ("user", ["c"]),
    ]


def test_results_of_one_turn_come_first_in_one_turn_and_text_stays_beside_calls() -> None:
    calls = (
        ToolCall("call_1", "f", '{"a": [1]}'),
        ToolCall("call_2", "g", ""),
        ToolCall("call.3", "g", " {} "),
    )
    assert turns(
        USER,
        Message("assistant", "Let me see.", tool_calls=calls),
        Message("tool", "one", tool_call_id="call_1"),
        Message("user", "And?"),
        Message("tool", "", tool_call_id="call_2"),
        Message("tool", "xy", tool_call_id="call.3", parts=("x", Media("image", url="https://a/b.png"), "y")),
    )[1:] == [
        (
            "assistant",
            [
                "Let me see.",
                {"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": [1]}},
                {"type": "tool_use", "id": "call_2", "name": "g", "input": {}},
                {"type": "tool_use", "id": "call_3_47d592ed", "name": "g", "input": {}},
            ],
        ),
        (
            "user",
            [
                result("call_1", "one"),
                result("call_2"),
                result(
                    "call_3_47d592ed",
                    "x",
                    {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}},
                    "y",
                ),
                "And?",
            ],
        ),
    ]


def test_thoughts_are_replayed_as_they_were_signed_or_not_at_all() -> None:
    thoughts = (Thought("Hm", "c2ln"), Thought("unsigned"), Thought(redacted="c2Vj"), Thought("", "c2ln"))
    call = ToolCall("call_1", "f", "{}")
    said = Message("assistant", "Yes", reasoning="Hm", thoughts=thoughts, tool_calls=(call,))
    assert turns(USER, said)[1][1][:4] == [
        {"type": "thinking", "thinking": "Hm", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "c2Vj"},
        {"type": "thinking", "thinking": "", "signature": "c2ln"},
        "Yes",
    ]
    assert turns(USER, Message("assistant", "Yes", reasoning="of another provider"))[1] == (
        "assistant",
        ["Yes"],
    )


PNG = base64.b64encode(b"\x89PNG").decode()
NOTE = base64.b64encode("grüezi".encode()).decode()


@pytest.mark.parametrize(
    ("media", "block"),
    [
        (
            Media("image", data=PNG, media_type="image/png"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        ),
        (
            Media("image", url=f"data:image/webp;base64,{PNG}"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": PNG}},
        ),
        (
            Media("image", url="https://a/b.png"),
            {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}},
        ),
        (
            Media("document", data=PNG, media_type="application/pdf", name="a.pdf"),
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": PNG},
                "title": "a.pdf",
            },
        ),
        (
            Media("document", data=NOTE, media_type="text/markdown"),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "grüezi"}},
        ),
        (
            Media("document", url="https://a/b.pdf"),
            {"type": "document", "source": {"type": "url", "url": "https://a/b.pdf"}},
        ),
    ],
)
def test_media_go_where_they_stand(media: Media, block: dict[str, object]) -> None:
    assert turns(Message("user", "ab", parts=("a", media, "b"))) == [("user", ["a", block, "b"])]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (Message("user", "", parts=(Media("image", data=PNG),)), "messages.1.content.0"),
        (
            Message("user", "", parts=("a", Media("document", data="?", media_type="text/plain"))),
            "messages.1.content.1",
        ),
        (Message("system", "", parts=(Media("image", url="https://a"),)), "messages.1.content"),
        (Message("assistant", "", parts=(Media("image", url="https://a"),)), "messages.1.content"),
        (Message("tool", "x"), "messages.1.tool_call_id"),
    ],
)
def test_what_cannot_be_written_is_refused_with_its_path(message: Message, param: str) -> None:
    with pytest.raises(BadRequest) as raised:
        body_of(neutral(USER, message))
    assert raised.value.param == param


SCHEMA = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/A"}},
    "$defs": {"A": {"type": "object", "additionalProperties": True}},
}
F, G, H = Tool("f", "Does f", SCHEMA, strict=True), Tool("g"), Tool("h", parameters={"properties": {}})


def test_tools_keep_their_schemas() -> None:
    body = body_of(neutral(tools=(F, G, H)))
    shut = {**SCHEMA, "additionalProperties": False}
    assert body["tools"] == [
        {"name": "f", "description": "Does f", "input_schema": shut, "strict": True},
        {"name": "g", "input_schema": {"type": "object", "properties": {}}},
        {"name": "h", "input_schema": {"type": "object", "properties": {}}},
    ]
    assert "tool_choice" not in body


ONE = {"disable_parallel_tool_use": True}


@pytest.mark.parametrize(
    ("choice", "written", "offered"),
    [
        (ToolChoice("none"), {"type": "none"}, "fgh"),
        (ToolChoice("required"), {"type": "any"}, "fgh"),
        (ToolChoice("required", ("g",)), {"type": "tool", "name": "g"}, "fgh"),
        (ToolChoice("required", ("g", "h")), {"type": "any"}, "gh"),
        (ToolChoice("auto", ("f", "h")), {"type": "auto"}, "fh"),
    ],
)
def test_the_choice_of_tools_is_written(choice: ToolChoice, written: dict[str, object], offered: str) -> None:
    tools = (F, G, H)
    several = body_of(neutral(tools=tools, tool_choice=choice))
    assert several.get("tool_choice", {"type": "auto"}) == written
    assert "".join(tool["name"] for tool in several["tools"]) == offered
    single = body_of(neutral(tools=tools, tool_choice=choice, parallel_tool_calls=False))
    assert single["tool_choice"] == (written if choice.mode == "none" else {**written, **ONE})


def test_without_tools_there_is_nothing_to_choose() -> None:
    assert not {"tools", "tool_choice"} & body_of(neutral(parallel_tool_calls=False)).keys()


def test_sampling_is_sent_where_it_differs_from_the_default() -> None:
    sampling = Sampling(max_tokens=5, temperature=0.0, top_p=0.5, top_k=7, stop=("a", "b"))
    body = body_of(neutral(sampling=sampling, model="claude-sonnet-4-20250514"))
    names = ("max_tokens", "temperature", "top_p", "top_k", "stop_sequences")
    assert [body[name] for name in names] == [5, 0.0, 0.5, 7, ["a", "b"]]
    default = Sampling(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0)
    assert body_of(neutral(sampling=default)) == body_of(neutral())


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (neutral(continue_final_message=True, add_generation_prompt=False), "continue_final_message"),
        (neutral(format=Format("json_object")), "response_format"),
        (neutral(format=Format("json_schema", True, "guided_json")), "guided_json"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(request_: GenerateRequest, param: str) -> None:
    with pytest.raises(UnsupportedParameter) as raised:
        body_of(request_)
    assert raised.value.param == param
    assert raised.value.message.startswith(param)


def test_what_it_has_nothing_like_is_not_carried() -> None:
    """So that the gateway refuses it, by the caller's own name."""
    assert AnthropicBackend.features.isdisjoint(
        {
            Feature.CHOICE,
            Feature.CHOICES,
            Feature.FREQUENCY_PENALTY,
            Feature.GRAMMAR,
            Feature.IGNORE_EOS,
            Feature.JSON_OBJECT,
            Feature.LOGIT_BIAS,
            Feature.LOGPROBS,
            Feature.MIN_P,
            Feature.MIN_TOKENS,
            Feature.NO_GENERATION_PROMPT,
            Feature.PRESENCE_PENALTY,
            Feature.PROMPT_TRUNCATION,
            Feature.REGEX,
            Feature.REPETITION_PENALTY,
            Feature.SEED,
            Feature.SPECIAL_TOKENS_SHOWN,
            Feature.STOP_TOKEN_IDS,
            Feature.TEMPLATE_VARIABLES,
            Feature.TEXT_COMPLETION,
        }
    )


def test_a_temperature_above_its_range_is_refused_not_bent() -> None:
    with pytest.raises(BadRequest, match="0 to 1") as raised:
        body_of(neutral(sampling=Sampling(temperature=1.01)))
    assert (raised.value.param, raised.value.code) == ("temperature", "invalid_value")


def test_the_assistants_last_message_is_continued() -> None:
    last = Message("assistant", "The answer is (")
    body = body_of(neutral(USER, last, continue_final_message=True, add_generation_prompt=False))
    assert body["messages"][-1] == {
        "role": "assistant",
        "content": [{"type": "text", "text": last.text}],
    }


def test_a_schema_is_sent_closed_unless_it_says_otherwise() -> None:
    body = body_of(neutral(format=Format("json_schema", SCHEMA), reasoning_effort="low"))
    closed_schema = {**SCHEMA, "additionalProperties": False}
    assert body["output_config"] == {
        "effort": "low",
        "format": {"type": "json_schema", "schema": closed_schema},
    }


def test_only_schemas_are_closed_not_what_looks_like_one() -> None:
    inner = {"type": "object"}
    shut = {"type": "object", "additionalProperties": False}
    schema = {
        "anyOf": [inner, {"type": "array", "items": inner}],
        "properties": {"properties": inner, "type": {"const": inner, "enum": [inner], "default": inner}},
    }
    assert enforced(schema, "x", []) == {
        "anyOf": [shut, {"type": "array", "items": shut}],
        "properties": {"properties": shut, "type": {"const": inner, "enum": [inner], "default": inner}},
        "additionalProperties": False,
    }
