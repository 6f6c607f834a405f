"""G21: what is written to Anthropic, which refuses more than others, relayed and translated."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.backends.writing import (
    CHAT,
    HI,
    MESSAGES,
    PNG,
    RESPONSES,
    SCHEMA,
    TOOL,
    TOOLS,
    Written,
    anthropic_events,
    calling,
    names,
    shown,
)
from tests.upstream import Answer

# G21: the rest

PREFILL = [*HI, {"role": "assistant", "content": "The answer is \n"}]
WAYS = ["an:claude-opus-4-1", "an-up"]


@pytest.mark.parametrize("model", WAYS)
@pytest.mark.parametrize("blocks", [False, True])
def test_g21_a_prefill_ends_without_white_space(written: Written, model: str, blocks: bool) -> None:
    content: Any = [{"type": "text", "text": "The answer is \n"}] if blocks else "The answer is \n"
    messages = [*HI, {"role": "assistant", "content": content}]
    assert written.ask(MESSAGES, {"model": model, "messages": messages, "max_tokens": 9})[0] == 200
    last = written.last["messages"][-1]["content"]
    assert (last if isinstance(last, str) else last[-1]["text"]) == "The answer is"


def test_g21_a_prefill_of_a_chat_too(written: Written) -> None:
    body = {"model": "an:claude-opus-4-1", "messages": PREFILL, "continue_final_message": True}
    assert written.ask(CHAT, body)[0] == 200
    assert written.last["messages"][-1]["content"][0]["text"] == "The answer is"


@pytest.mark.parametrize("model", WAYS)
@pytest.mark.parametrize("type", ["image/jpg", "IMAGE/JPEG", "image/pjpeg"])
@pytest.mark.parametrize("is_result", [False, True])
def test_g21_a_type_of_image_has_its_right_name(
    written: Written, model: str, type: str, is_result: bool
) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": type, "data": "/9j/4AAQSkZJRg=="}}
    messages = shown(image) if is_result else [{"role": "user", "content": [image]}]
    body = {"model": model, "messages": messages, "max_tokens": 9, "tools": TOOL}
    assert written.ask(MESSAGES, body)[0] == 200
    raw = written.requests[-1].raw
    assert b'"image/jpeg"' in raw
    assert type.encode() not in raw


@pytest.mark.parametrize("model", WAYS)
@pytest.mark.parametrize(
    ("data", "type"), [(PNG, "png"), ("R0lGODlhAQABAAAAACw=", "gif"), ("UklGRg==", "webp")]
)
def test_g21_an_image_has_the_type_that_it_begins_with(
    written: Written, model: str, data: str, type: str
) -> None:
    said = "image/webp" if type == "webp" else "image/jpeg"
    image = {"type": "image", "source": {"type": "base64", "media_type": said, "data": data}}
    body = {"model": model, "messages": [{"role": "user", "content": [image]}], "max_tokens": 9}
    assert written.ask(MESSAGES, body)[0] == 200
    assert written.last["messages"][0]["content"][0]["source"]["media_type"] == f"image/{type}"


# ids of two calls, in one message or in two
IDS = {
    "other signs": ("c.1", "c:1"),
    "one cleaned, one clean": ("c.1", "c_1"),
    "Kimi's": ("functions.f:0", "functions.f:1"),
    "none": ("", "c"),
    "the same": ("call_0", "call_0"),
    "both none": ("", ""),
    "a blank": ("c 1", "c-1"),
}


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("name", IDS)
def test_g21_each_call_has_an_id_of_its_own_that_is_accepted(
    written: Written, name: str, at_once: bool
) -> None:
    first, second = IDS[name]
    results = [
        {"role": "tool", "tool_call_id": id, "content": text} for id, text in ((first, "1"), (second, "2"))
    ]
    calls = [calling(id=first), calling(id=second)]
    messages = [calls[0], results[0], calls[1], results[1]]
    if at_once:
        both = [*calls[0]["tool_calls"], *calls[1]["tool_calls"]]
        messages = [{"role": "assistant", "content": None, "tool_calls": both}, *results]
    assert written.ask(CHAT, {"model": "an:claude-opus-5", "messages": [*HI, *messages]})[0] == 200
    blocks = [block for message in written.last["messages"][1:] for block in message["content"]]
    uses = [block["id"] for block in blocks if block["type"] == "tool_use"]
    answered = {
        block["tool_use_id"]: block["content"][0]["text"] for block in blocks if "tool_use_id" in block
    }
    assert answered == dict(zip(uses, "12", strict=True))
    assert all(re.fullmatch("[a-zA-Z0-9_-]+", id) for id in uses)


def test_g21_a_relayed_history_of_another_providers_calls(written: Written) -> None:
    use = {"type": "tool_use", "id": "functions.f:0", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "functions.f:0", "content": "x"}
    messages = [*HI, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    for model in WAYS:
        body = {"model": model, "messages": messages, "max_tokens": 9, "tools": TOOL}
        assert written.ask(MESSAGES, body)[0] == 200
        sent = [message["content"][0] for message in written.last["messages"][1:]]
        assert sent[0]["id"] == sent[1]["tool_use_id"]
        assert re.fullmatch("[a-zA-Z0-9_-]+", sent[0]["id"])


def test_g12_instructions_alone_are_sent_as_a_message(written: Written) -> None:
    body = {"model": "an:claude-opus-5", "messages": [{"role": "system", "content": "Sum up."}]}
    status, headers, _ = written.ask(CHAT, body)
    assert (status, names(headers)) == (200, ["messages.role"])
    assert written.last["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Sum up."}]}]
    assert "system" not in written.last


def test_g12_later_instructions_that_move_to_the_beginning_are_named(written: Written) -> None:
    messages = [*HI, {"role": "assistant", "content": "x"}, {"role": "system", "content": "s"}, *HI]
    status, headers, _ = written.ask(CHAT, {"model": "an:claude-opus-5", "messages": messages})
    assert (status, names(headers)) == (200, ["messages.role"])


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("name", ["$filter", "größe", "x" * 70, "a b", ""])
def test_g21_names_of_members_that_it_refuses_are_others_on_the_way(
    written: Written, name: str, is_streamed: bool
) -> None:
    part = {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}
    members = {name: {"type": "string"}, "in": {"type": "array", "items": part}}
    schema = {"type": "object", "properties": members}
    tools = [{"type": "function", "function": {"name": "f.g", "parameters": schema}}]
    before = {"role": "tool", "tool_call_id": "c1", "content": "x"}
    messages = [*HI, calling(json.dumps({name: "a", "in": [{name: "b"}]}), "f.g"), before]
    use = {"type": "tool_use", "id": "t", "name": "f_g", "input": {}}
    body = {"model": "an:claude-opus-5", "messages": messages, "tools": tools, "stream": is_streamed}
    written.ask(CHAT, body)  # only to see its name on the way
    sent = written.last
    (other,) = {*sent["tools"][0]["input_schema"]["properties"]} - {"in"}
    assert re.fullmatch("[a-zA-Z0-9_.-]{1,64}", other)
    items = sent["tools"][0]["input_schema"]["properties"]["in"]["items"]
    assert (list(items["properties"]), items["required"]) == ([other], [other])
    assert sent["messages"][1]["content"][0]["input"] == {other: "a", "in": [{other: "b"}]}
    said = json.dumps({other: "c", "in": [{other: "d"}]})
    pieces = [{"type": "input_json_delta", "partial_json": piece} for piece in (said[:9], said[9:])]
    written.play(Answer(pieces=anthropic_events((use, pieces), stop="tool_use")), path="/v1/messages")
    _, _, whole = written.ask(CHAT, body)
    if is_streamed:
        chunks = [json.loads(line[6:]) for line in whole["text"].split("\n\n")[:-2]]
        deltas = [one["delta"] for chunk in chunks for one in chunk["choices"]]
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    else:
        calls = whole["choices"][0]["message"]["tool_calls"]
    assert calls[0]["function"]["name"] == "f.g"
    arguments = "".join(call["function"].get("arguments", "") for call in calls)
    assert json.loads(arguments) == {name: "c", "in": [{name: "d"}]}


@pytest.mark.parametrize("text", ["", " \n"])
def test_g21_an_empty_conversation_is_refused(written: Written, text: str) -> None:
    body = {"model": "an:claude-opus-5", "messages": [{"role": "user", "content": text}]}
    status, _, answer = written.ask(CHAT, body)
    assert (status, answer["error"]["param"]) == (400, "messages")


@pytest.mark.parametrize("type", [["object", "null"], ["object"], "null", None])
def test_g21_the_schema_of_a_tool_is_an_object(written: Written, type: Any) -> None:
    schema = {**SCHEMA, "type": type}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    body = {"model": "an:claude-opus-5", "messages": HI, "tools": tools}
    status, headers, _ = written.ask(CHAT, body)
    assert (status, names(headers)) == (200, ["tools.function.parameters"])
    assert written.last["tools"][0]["input_schema"]["type"] == "object"


def test_g21_an_image_without_a_type_has_that_of_its_data(written: Written) -> None:
    for head in ("data:", "data:application/octet-stream"):
        url = {"url": f"{head};base64,{PNG}"}
        messages = [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]
        assert written.ask(CHAT, {"model": "an:claude-opus-5", "messages": messages})[0] == 200
        assert written.last["messages"][0]["content"][0]["source"]["media_type"] == "image/png"


@pytest.mark.parametrize("type", ["image/bmp", "image/svg+xml", "image/tiff"])
def test_g21_an_image_that_it_does_not_read_is_refused_with_the_reason(written: Written, type: str) -> None:
    num = len(written.requests)
    url = {"url": f"data:{type};base64,{PNG}"}
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]
    status, _, answer = written.ask(CHAT, {"model": "an:claude-opus-5", "messages": messages})
    assert (status, answer["error"]["param"]) == (400, "messages.0.content.0")
    assert "image/webp" in answer["error"]["message"]
    assert len(written.requests) == num


@pytest.mark.parametrize(
    ("model", "is_sent"),
    [
        ("an:claude-opus-4-1", False),
        ("an-up", False),
    ],
)
def test_g21_temperature_and_top_p_together(written: Written, model: str, is_sent: bool) -> None:
    body = {"model": model, "messages": HI, "max_tokens": 9, "temperature": 0.5, "top_p": 0.9}
    status, headers, _ = written.ask(MESSAGES, body)
    assert (status, names(headers)) == (200, [] if is_sent else ["top_p"])
    assert ("top_p" in written.last) is is_sent
    assert written.last["temperature"] == 0.5
    written.ask(MESSAGES, {**body, "temperature": 1})
    assert written.last["top_p"] == 0.9


def test_g21_beside_thinking_no_temperature(written: Written) -> None:
    body = {
        "model": "an:claude-opus-4-1", "messages": HI, "reasoning_effort": "low", "temperature": 0.3,
        "max_tokens": 9000, "top_k": 5,
    }  # fmt: skip
    status, headers, _ = written.ask(CHAT, body)
    assert (status, sorted(names(headers))) == (200, ["temperature", "top_k"])
    assert written.last["thinking"]["type"] == "enabled"


def looped(*thoughts: Any) -> list[Any]:
    """Blocks of Anthropic's dialect: a call after these thoughts, and its result."""
    use = {"type": "tool_use", "id": "t0", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t0", "content": "ok"}
    return [*HI, {"role": "assistant", "content": [*thoughts, use]}, {"role": "user", "content": [result]}]


UNSIGNED = {"type": "thinking", "thinking": "hm", "signature": ""}
SIGNED = {"type": "thinking", "thinking": "hm", "signature": "s=="}


@pytest.mark.parametrize("thoughts", [[], [UNSIGNED]], ids=["none", "unsigned"])
def test_g21_thinking_with_a_history_that_nobody_signed(written: Written, thoughts: list[Any]) -> None:
    body = {
        "model": "an-up", "messages": looped(*thoughts), "max_tokens": 9000, "tools": TOOL,
        "thinking": {"type": "enabled", "budget_tokens": 2000},
    }  # fmt: skip
    status, headers, _ = written.ask(MESSAGES, body)
    assert (status, "thinking" in names(headers)) == (200, True)
    assert "thinking" not in written.last
    assert [block["type"] for block in written.last["messages"][1]["content"]] == ["tool_use"]


def test_g21_with_one_that_is_signed_it_thinks(written: Written) -> None:
    body = {
        "model": "an-up", "messages": looped(SIGNED), "max_tokens": 9000, "tools": TOOL,
        "thinking": {"type": "enabled", "budget_tokens": 2000},
    }  # fmt: skip
    assert names(written.ask(MESSAGES, body)[1]) == []
    assert written.last["thinking"]["budget_tokens"] == 2000
    done = [*looped(), {"role": "assistant", "content": "done"}, *HI]
    written.ask(MESSAGES, {**body, "messages": done})
    assert written.last["thinking"]["budget_tokens"] == 2000, "that turn is over"


def test_g21_a_forced_call_is_not_thought_about(written: Written) -> None:
    body = {
        "model": "an:claude-opus-5", "messages": HI, "tools": TOOLS, "tool_choice": "required",
        "reasoning_effort": "low",
    }  # fmt: skip
    status, headers, _ = written.ask(CHAT, body)
    assert (status, names(headers)) == (200, ["reasoning_effort"])
    assert "thinking" not in written.last


def test_g21_relayed_thoughts_that_nobody_signed_are_left_out(written: Written) -> None:
    text = {"type": "text", "text": "yes"}
    messages = [*HI, {"role": "assistant", "content": [UNSIGNED, SIGNED, text]}, *HI]
    status, headers, _ = written.ask(
        MESSAGES, {"model": "an:claude-opus-5", "messages": messages, "max_tokens": 9}
    )
    assert (status, names(headers)) == (200, ["messages.content.thinking"])
    assert written.last["messages"][1]["content"] == [SIGNED, text]


ORDERED = [
    SIGNED,
    {"type": "text", "text": "first"},
    {"type": "redacted_thinking", "data": "0paque"},
    {"type": "tool_use", "id": "t0", "name": "f", "input": {}},
]


def test_g21_thoughts_are_replayed_in_their_order(written: Written) -> None:
    result = {"type": "tool_result", "tool_use_id": "t0", "content": "ok"}
    messages = [*HI, {"role": "assistant", "content": ORDERED}, {"role": "user", "content": [result]}]
    body = {"model": "an-up", "messages": messages, "max_tokens": 9, "tools": TOOL}
    assert written.ask(MESSAGES, body)[0] == 200
    assert [block["type"] for block in written.last["messages"][1]["content"]] == [
        "thinking", "text", "redacted_thinking", "tool_use",
    ]  # fmt: skip


def test_g21_relayed_thinking_is_switched_off_where_its_beginning_is_missing(written: Written) -> None:
    body = {
        "model": "an:claude-opus-4-1", "messages": looped(UNSIGNED), "max_tokens": 9000, "tools": TOOL,
        "thinking": {"type": "enabled", "budget_tokens": 2000},
    }  # fmt: skip
    status, headers, _ = written.ask(MESSAGES, body)
    assert (status, names(headers)) == (200, ["messages.content.thinking", "thinking"])
    assert written.last["thinking"] == {"type": "disabled"}
    written.ask(MESSAGES, {**body, "messages": looped(SIGNED)})
    assert written.last["thinking"]["budget_tokens"] == 2000
    written.ask(MESSAGES, {**body, "model": "an:claude-opus-5"})
    assert written.last["thinking"]["type"] == "enabled"


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 3, 2, 4], [2, 1, 0, 3], [1, 3, 0, 4]])
def test_g21_kept_thoughts_come_back_in_their_order(written: Written, order: list[int]) -> None:
    blocks: list[Any] = [
        ({"type": "thinking", "thinking": ""}, [
            {"type": "thinking_delta", "thinking": "hm"}, {"type": "signature_delta", "signature": "s1"},
        ]),
        ({"type": "text", "text": ""}, [{"type": "text_delta", "text": "first"}]),
        ({"type": "redacted_thinking", "data": "0paque"}, []),
        ({"type": "tool_use", "id": "t0", "name": "f", "input": {}}, []),
        ({"type": "tool_use", "id": "t1", "name": "f", "input": {}}, []),
    ]  # fmt: skip
    chosen = [blocks[index] for index in order]
    written.play(Answer(pieces=anthropic_events(*chosen, stop="tool_use")), path="/v1/messages")
    tools = [{"type": "function", "name": "f", "parameters": SCHEMA}]
    body = {"model": "an:claude-opus-5", "tools": tools}
    _, _, first = written.ask(RESPONSES, {**body, "input": "hi"})
    ids = [block["id"] for block, _ in chosen if block["type"] == "tool_use"]
    output = [{"type": "function_call_output", "call_id": id, "output": "?"} for id in ids]
    written.ask(RESPONSES, {**body, "input": output, "previous_response_id": first["id"]})
    sent = [block["type"] for block in written.last["messages"][1]["content"]]
    assert sent == [block["type"] for block, _ in chosen]
