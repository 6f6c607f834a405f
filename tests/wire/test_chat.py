"""What a chat body asks for, in the neutral language."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from headrace.errors import BadRequest
from headrace.types import Format, GenerateRequest, Message, Tool, ToolCall, ToolChoice
from headrace.wire import chat
from headrace.wire.parameters import parse

USER = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "a.b", "description": "D", "parameters": SCHEMA, "strict": True},
    },
    {"type": "function", "function": {"name": "c-d_1"}},
]
FUNCTIONS = [{"name": "f", "parameters": SCHEMA}, {"name": "g"}]


def request_of(*history: dict[str, Any], **members: Any) -> GenerateRequest:
    body: dict[str, Any] = {"model": "m", "messages": [USER, *history], **members}
    return chat.to_request(parse(chat.ChatBody, json.dumps(body).encode()))


def conversation(*history: dict[str, Any], **members: Any) -> Any:
    return request_of(*history, **members).prompt


def test_tools_are_read() -> None:
    assert conversation(tools=TOOLS).tools == (Tool("a.b", "D", SCHEMA, True), Tool("c-d_1"))
    assert conversation(tools=[]).tools == conversation().tools == ()


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    ("body", "choice"),
    [
        (None, ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("auto", ToolChoice("auto")),
        ("required", ToolChoice("required")),
        (named("c-d_1"), ToolChoice("required", ("c-d_1",))),
        ({"type": "function", "name": "a.b"}, ToolChoice("required", ("a.b",))),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named("a.b")]}},
            ToolChoice("auto", ("a.b",)),
        ),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [named("c-d_1"), named("a.b"), named("a.b")]},
            },
            ToolChoice("required", ("c-d_1", "a.b")),
        ),
    ],
)
def test_tool_choice_is_read(body: object, choice: ToolChoice) -> None:
    assert conversation(tools=TOOLS, tool_choice=body).tool_choice == choice


@pytest.mark.parametrize(
    ("body", "choice"),
    [
        (None, ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("auto", ToolChoice("auto")),
        ({"name": "g"}, ToolChoice("required", ("g",))),
    ],
)
def test_functions_are_tools_of_which_one_is_called(body: object, choice: ToolChoice) -> None:
    prompt = conversation(functions=FUNCTIONS, function_call=body)
    assert prompt.tools == (Tool("f", None, SCHEMA), Tool("g"))
    assert prompt.tool_choice == choice
    assert prompt.parallel_tool_calls is False


def test_older_members_with_values_that_say_nothing_go_with_tools() -> None:
    prompt = conversation(tools=TOOLS, tool_choice="required", functions=[], function_call="auto")
    assert (len(prompt.tools), prompt.tool_choice.mode) == (2, "required")


@pytest.mark.parametrize(("body", "parallel"), [(None, True), (True, True), (False, False)])
def test_parallel_calls_are_the_default(body: bool | None, parallel: bool) -> None:
    assert conversation(tools=TOOLS, parallel_tool_calls=body).parallel_tool_calls is parallel


def test_calls_of_the_history_are_kept() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "content": [{"type": "text", "text": "42"}], "tool_call_id": "call_1"}
    assert conversation(said, result).messages[1:] == (
        Message("assistant", "", tool_calls=(ToolCall("call_1", "f", '{"a": 1}'),)),
        Message("tool", "42", tool_call_id="call_1"),
    )


def test_function_calls_of_the_history_become_tool_calls() -> None:
    def said(arguments: str) -> dict[str, Any]:
        call = {"name": "f", "arguments": arguments}
        return {"role": "assistant", "content": None, "function_call": call}

    result = {"role": "function", "name": "f", "content": "1"}
    messages = conversation(said("{}"), result, said('{"a":2}'), {**result, "content": None}).messages
    assert [message.role for message in messages] == ["user", "assistant", "tool", "assistant", "tool"]
    assert [message.tool_calls for message in messages if message.tool_calls] == [
        (ToolCall("call_1", "f", "{}"),),
        (ToolCall("call_3", "f", '{"a":2}'),),
    ]
    assert messages[2] == Message("tool", "1", "f", tool_call_id="call_1")
    assert messages[4] == Message("tool", "", "f", tool_call_id="call_3")


def test_result_that_answers_no_call_is_accepted() -> None:
    tool, function = {"role": "tool", "content": "x"}, {"role": "function", "content": "y"}
    assert conversation(tool, function).messages[1:] == (Message("tool", "x"), Message("tool", "y"))


@pytest.mark.parametrize(
    "members",
    [{"reasoning_content": "hm"}, {"reasoning": "hm"}, {"reasoning_content": "hm", "reasoning": "hm"}],
)
def test_reasoning_of_the_history_is_kept(members: dict[str, Any]) -> None:
    said = {"role": "assistant", "content": "yes", **members}
    assert conversation(said).messages[1] == Message("assistant", "yes", reasoning="hm")


def test_refusal_of_the_history_is_text() -> None:
    parts = [{"type": "text", "text": "No, "}, {"type": "refusal", "refusal": "I cannot."}]
    assert conversation({"role": "assistant", "content": parts}).messages[1].text == "No, \nI cannot."


@pytest.mark.parametrize(
    ("members", "prompted", "goes_on"),
    [
        ({}, True, False),
        ({"add_generation_prompt": False}, False, False),
        ({"add_generation_prompt": True, "continue_final_message": False}, True, False),
        ({"continue_final_message": True}, False, True),
        ({"continue_final_message": True, "add_generation_prompt": False}, False, True),
        ({"continue_final_message": None, "add_generation_prompt": None}, True, False),
    ],
)
def test_end_of_the_prompt_is_chosen(members: dict[str, Any], prompted: bool, goes_on: bool) -> None:
    prompt = conversation(**members)
    assert (prompt.add_generation_prompt, prompt.continue_final_message) == (prompted, goes_on)


def test_template_gets_its_variables() -> None:
    prompt = conversation(reasoning_effort="low", chat_template_kwargs={"enable_thinking": False})
    assert (prompt.reasoning_effort, prompt.template_kwargs) == ("low", {"enable_thinking": False})
    assert (conversation().reasoning_effort, conversation().template_kwargs) == (None, {})


@pytest.mark.parametrize(
    "members",
    [
        {"messages": [1] * 1000},
        {"messages": [{"role": "user", "content": [1] * 1000}]},
        {"messages": [{"role": "assistant", "tool_calls": [1] * 1000}]},
        {"tools": [1] * 1000},
        {"functions": [1] * 1000},
        {"stop": [1] * 1000},
        {"stop_token_ids": [-1] * 1000},
        {"guided_choice": [1] * 1000},
    ],
)
def test_a_thousand_faults_are_not_a_thousand_complaints(members: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as raised:
        request_of(**members)
    assert isinstance(raised.value.__cause__, ValidationError)
    assert raised.value.__cause__.error_count() < 10


@pytest.mark.parametrize(
    ("members", "count"),
    [
        ({}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_logprobs_are_counted(members: dict[str, Any], count: int | None) -> None:
    assert request_of(**members).sampling.logprobs == count


def test_members_about_the_whole_request_reach_it() -> None:
    request = request_of(priority=-3, timeout=1.5, response_format={"type": "json_object"}, n=2)
    assert (request.priority, request.timeout_s, request.n) == (-3, 1.5, 2)
    assert request.format == Format("json_object")
    plain = request_of(priority=None, timeout=None, response_format={"type": "text"})
    assert (plain.priority, plain.timeout_s, plain.format) == (0, None, None)


@pytest.mark.parametrize(
    ("members", "format"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            Format("json_schema", SCHEMA, "response_format.json_schema.schema", "x"),
        ),
        ({"guided_json": SCHEMA}, Format("json_schema", SCHEMA, "guided_json")),
        ({"guided_json": json.dumps(SCHEMA)}, Format("json_schema", SCHEMA, "guided_json")),
        ({"guided_regex": "a+"}, Format("regex", "a+", "guided_regex")),
        ({"guided_choice": ["yes", "no"]}, Format("choice", ("yes", "no"), "guided_choice")),
        ({"guided_grammar": 'start: "a"'}, Format("grammar", 'start: "a"', "guided_grammar")),
    ],
)
def test_format_is_read_and_goes_with_tools(members: dict[str, Any], format: Format) -> None:
    request = request_of(tools=TOOLS, **members)
    assert request.format == format


FULL: dict[str, Any] = {
    "model": "m",
    "messages": [
        USER,
        {"role": "user", "content": [{"type": "text", "text": "a"}], "name": "n"},
        {
            "role": "assistant",
            "content": [{"type": "refusal", "refusal": "b"}],
            "reasoning": "c",
            "tool_calls": [{"id": "d", "type": "function", "function": {"name": "e", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "f", "tool_call_id": "d"},
        {"role": "assistant", "function_call": {"name": "g", "arguments": "{}"}},
        {"role": "function", "name": "g", "content": None},
    ],
    "tools": TOOLS,
    "tool_choice": {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [named("a.b"), {"name": "c-d_1"}]},
    },
    "functions": [],
    "function_call": "auto",
    "logprobs": True,
    "top_logprobs": 3,
    "logit_bias": {"5": 1},
    "chat_template_kwargs": {"a": [1]},
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    "stream": True,
    "stream_options": {"include_usage": True},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "name", "function", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    steps = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for step in steps:
        yield (*path, step)
        yield from nodes(value[step], (*path, step))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(list(nodes(FULL))), JSON)
def test_any_value_anywhere_is_read_or_refused_by_name(path: tuple[Any, ...], value: Any) -> None:
    body = json.loads(json.dumps(FULL))
    at = body
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    try:
        chat.to_request(parse(chat.ChatBody, json.dumps(body).encode()))
    except BadRequest as refused:
        named = (refused.param or "").split(".")
        assert named[0] in FULL
        assert named[0] == path[0] or named[0] in (
            "tool_choice",
            "top_logprobs",
            "functions",
            "stream_options",
        )


def test_full_body_is_read() -> None:
    assert len(conversation(**FULL).messages) == 6
