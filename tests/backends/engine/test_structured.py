"""Ways in which clients ask for a form, and tools whose arguments once went on and on: rows L2 to L6."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from headrace.models.catalog import DEFAULT_MODEL
from tests.serving import Served

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES: Any = [{"role": "user", "content": "How many people live in Oslo? Answer in JSON."}]
SCHEMA: Any = {"type": "object", "properties": {"size": {"enum": ["s", "m"]}}, "required": ["size"]}


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[openai.OpenAI]:
    with server.client() as client:
        yield client


def chat(client: openai.OpenAI, **members: Any) -> Any:
    request = {"model": DEFAULT_MODEL, "messages": MESSAGES, "max_tokens": 200, **members}
    return client.chat.completions.create(**request)


def tool(parameters: Any, name: str = "now") -> Any:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {}, "title": "Now", "required": []},
        {"type": "object", "properties": {}, "additionalProperties": False},
        {},
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_l2_a_tool_without_parameters_takes_the_empty_object(
    client: openai.OpenAI, parameters: Any, named: bool
) -> None:
    choice: Any = {"type": "function", "function": {"name": "now"}} if named else "required"
    found = chat(client, tools=[tool(parameters)], tool_choice=choice, parallel_tool_calls=False)
    [call] = found.choices[0].message.tool_calls
    assert call.function.arguments == "{}"


def test_l2_nested_too(client: openai.OpenAI) -> None:
    nested = {
        "type": "object",
        "properties": {"at": {"type": "object", "properties": {}}},
        "required": ["at"],
    }
    found = chat(client, tools=[tool(nested)], tool_choice="required", parallel_tool_calls=False)
    [call] = found.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"at": {}}


@pytest.mark.parametrize("kind", ["integer", "number"])
def test_l3_numbers_end_by_themselves(client: openai.OpenAI, kind: str) -> None:
    schema = {"type": "object", "properties": {"population": {"type": kind}}, "required": ["population"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    choices = chat(client, response_format=form, n=10, max_tokens=60, seed=1).choices
    assert [choice.finish_reason for choice in choices] == ["stop"] * 10
    for choice in choices:
        digits = re.sub(r"\D", "", choice.message.content)
        assert len(digits.strip("0")) <= 17
        assert abs(json.loads(choice.message.content)["population"]) <= 2**53


def test_l3_in_arguments_too(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "number"}}, "required": ["answer"]}
    found = chat(client, tools=[tool(schema)], tool_choice=named_choice("now"), n=6, max_tokens=90, seed=2)
    assert {choice.finish_reason for choice in found.choices} <= {"tool_calls", "stop"}
    for choice in found.choices:
        [call] = choice.message.tool_calls
        assert abs(json.loads(call.function.arguments)["answer"]) <= 2**53


def named_choice(name: str) -> Any:
    return {"type": "function", "function": {"name": name}}


def test_l5_one_tool_may_be_called_several_times_where_calls_are_required(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]}
    members: dict[str, Any] = {"tools": [tool(schema)], "n": 12, "temperature": 1.5, "seed": 3}
    several = chat(client, tool_choice="required", **members).choices
    assert max(len(choice.message.tool_calls) for choice in several) > 1
    single = chat(client, tool_choice="required", parallel_tool_calls=False, **members).choices
    assert {len(choice.message.tool_calls) for choice in single} == {1}
    once = chat(client, tool_choice=named_choice("now"), **members).choices
    assert {len(choice.message.tool_calls) for choice in once} == {1}


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object", "schema": SCHEMA},
        {"type": "json_schema", "schema": SCHEMA},
        {"type": "json_schema", "json_schema": SCHEMA},
        {"type": "json_schema", "json_schema": {"name": "x", **SCHEMA}},
        {"type": "json_object", "json_schema": {"schema": SCHEMA}},
    ],
    ids=["object", "beside", "bare", "named", "both"],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_l6_a_schema_is_honoured_wherever_it_plainly_stands(server: Served, path: str, form: Any) -> None:
    prompt = {"messages": MESSAGES} if path == CHAT else {"prompt": "In JSON: "}
    answer = server.post(path, {"model": DEFAULT_MODEL, "response_format": form, "max_tokens": 40, **prompt})
    assert answer.status_code == 200
    assert "x-headrace-ignored" not in answer.headers
    choice = answer.json()["choices"][0]
    text = choice["text"] if path == COMPLETIONS else choice["message"]["content"]
    assert json.loads(text)["size"] in ("s", "m")


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "response_format.json_schema.schema"),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": None}},
            "response_format.json_schema.schema",
        ),
        ({"type": "json_schema"}, "response_format.json_schema"),
        (
            {"type": "json_schema", "json_schema": {"schema": SCHEMA}, "schema": SCHEMA},
            "response_format.json_schema",
        ),
    ],
)
def test_l6_no_schema_is_no_free_answer(server: Served, form: Any, param: str) -> None:
    request = {"model": DEFAULT_MODEL, "messages": MESSAGES, "response_format": form}
    refused = server.post(CHAT, request)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


STRUCTURED: list[tuple[Any, str]] = [
    ({"json": SCHEMA}, r'\{"size": "[sm]"\}'),
    ({"json": json.dumps(SCHEMA)}, r'\{"size": "[sm]"\}'),
    ({"regex": "[0-9]{3}"}, "[0-9]{3}"),
    ({"choice": ["yes", "no"]}, "yes|no"),
    ({"grammar": 'start: "a" | "b"'}, "a|b"),
    ({"json": SCHEMA, "regex": None, "disable_any_whitespace": True}, r'\{"size": "[sm]"\}'),
]


@pytest.mark.parametrize(("member", "expected"), STRUCTURED, ids=str)
def test_structured_outputs_are_honoured_as_guided_ones_are(
    server: Served, member: Any, expected: str
) -> None:
    members = {"model": DEFAULT_MODEL, "structured_outputs": member}
    chatted = server.post(CHAT, {**members, "messages": MESSAGES, "max_tokens": 40}).json()
    assert re.fullmatch(expected, chatted["choices"][0]["message"]["content"])
    completed = server.post(COMPLETIONS, {**members, "prompt": "It is", "max_tokens": 40}).json()
    assert re.fullmatch(expected, completed["choices"][0]["text"])
    responded = server.post(RESPONSES, {**members, "input": "Is it?", "max_output_tokens": 40}).json()
    assert re.fullmatch(expected, responded["output"][0]["content"][0]["text"])


@pytest.mark.parametrize(
    ("member", "param"),
    [
        ({"structural_tag": "{}"}, "structured_outputs.structural_tag"),
        ({"json": SCHEMA, "whitespace_pattern": " *"}, "structured_outputs.whitespace_pattern"),
        ({"json": SCHEMA, "regex": "a"}, "structured_outputs.regex"),
        ({"regex": "("}, "structured_outputs.regex"),
        ({"choice": []}, "structured_outputs.choice"),
        ({"json": "{"}, "structured_outputs.json"),
        ({"json": {"type": "strnig"}}, "structured_outputs.json.type"),
        ({"json": "null"}, "structured_outputs.json"),
        ({"json": {"schema": SCHEMA}}, "structured_outputs.json"),
        ({}, "structured_outputs"),
        ({"json": None, "regex": None}, "structured_outputs"),
        ({"jsonn": SCHEMA}, "structured_outputs"),
        ({"structural_tag": None, "whitespace_pattern": None}, "structured_outputs"),
        ({"disable_additional_properties": False}, "structured_outputs"),
    ],
)
def test_structured_outputs_that_cannot_be_kept_to_are_refused(
    server: Served, member: Any, param: str
) -> None:
    request = {"model": DEFAULT_MODEL, "messages": MESSAGES, "structured_outputs": member}
    refused = server.post(CHAT, request)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def text(**form: Any) -> dict[str, Any]:
    return {"response_format": {"type": "text", **form}}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"guided_json": " null "}, "guided_json"),
        ({"json_schema": "null"}, "json_schema"),
        ({"guided_json": {"schema": SCHEMA}}, "guided_json"),
        ({"guided_json": {"name": "size", "description": "How large", "value": SCHEMA}}, "guided_json"),
        ({"grammar": {"type": "json", "value": "null"}}, "grammar.value"),
        ({"grammar": {"type": "json_schema", "value": {"schema": SCHEMA}}}, "grammar.value"),
        (text(schema=SCHEMA), "response_format.schema"),
        (text(json_schema={"schema": SCHEMA}), "response_format.json_schema"),
        (text(regex="a+"), "response_format.regex"),
        ({"response_format": {"type": "json_object", "value": SCHEMA}}, "response_format.value"),
        ({"response_format": {"type": "json_object", "properties": {}}}, "response_format.properties"),
        ({"structured_outputs": {}, "response_format": {"type": "json_object"}}, "structured_outputs"),
        ({"format": "json"}, "format"),
        ({"text": {"format": {"type": "json_object"}}}, "text"),
        ({"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}, "output_config"),
        ({"output_format": {"type": "json_schema", "schema": SCHEMA}}, "output_format"),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_form_that_would_prescribe_nothing_is_refused(
    server: Served, path: str, members: Any, param: str
) -> None:
    prompt = {"messages": MESSAGES} if path == CHAT else {"prompt": "It is"}
    refused = server.post(path, {"model": DEFAULT_MODEL, **prompt, **members})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("format", "param"),
    [
        ({"type": "text", "schema": SCHEMA}, "text.format.schema"),
        ({"type": "json_schema", "name": "x", "schema": {"schema": SCHEMA}}, "text.format.schema"),
        ({"type": "json_object", "schema": {"json_schema": SCHEMA}}, "text.format.schema"),
    ],
)
def test_so_is_a_text_format_of_responses(server: Served, format: Any, param: str) -> None:
    refused = server.post(RESPONSES, {"model": DEFAULT_MODEL, "input": "Hi", "text": {"format": format}})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_and_ollamas_format(server: Served) -> None:
    for format in ({"schema": SCHEMA}, {"name": "x", "json_schema": {"schema": SCHEMA}}):
        request = {"model": DEFAULT_MODEL, "messages": MESSAGES, "format": format, "stream": False}
        refused = server.post("/api/chat", request)
        assert refused.status_code == 400
        assert refused.json()["error"].startswith("format: no schema")


def test_an_empty_schema_beside_the_type_is_any_object(server: Served) -> None:
    request = {"model": DEFAULT_MODEL, "messages": MESSAGES, "max_tokens": 100}
    form = {"response_format": {"type": "json_object", "schema": {}}}
    chatted = server.post(CHAT, {**request, **form}).json()
    assert chatted["choices"][0]["message"]["content"].startswith("{")


def test_an_empty_expression_in_tgis_form_is_the_empty_text(server: Served) -> None:
    request = {"model": DEFAULT_MODEL, "messages": MESSAGES, "grammar": {"type": "regex", "value": ""}}
    assert server.post(CHAT, request).json()["choices"][0]["message"]["content"] == ""


def test_the_older_name_of_anthropics_output_format_is_honoured(server: Served) -> None:
    form = {"type": "json_schema", "schema": SCHEMA}
    request = {"model": DEFAULT_MODEL, "messages": MESSAGES, "max_tokens": 40, "output_format": form}
    said = server.post("/v1/messages", request).json()["content"][0]["text"]
    assert re.fullmatch(r'\{"size": "[sm]"\}', said)
    other = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    refused = server.post("/v1/messages", {**request, "output_config": other})
    assert refused.status_code == 400
    assert "output_format" in refused.json()["error"]["message"]


def test_narrowing_is_switched_by_request(server: Served) -> None:
    form = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"oneOf": [{"minimum": 1}, SCHEMA]}},
    }
    request = {"model": DEFAULT_MODEL, "messages": MESSAGES, "response_format": form, "max_tokens": 30}
    assert server.post(CHAT, request).status_code == 200
    refused = server.post(CHAT, {**request, "schema_narrowing": ["closed_objects"]}).json()["error"]
    assert "'one_of'" in refused["message"]
    unknown = server.post(CHAT, {**request, "schema_narrowing": ["open"]}).json()["error"]
    assert unknown["param"] == "schema_narrowing"


@pytest.mark.parametrize("form", ["path", "password", "binary", "no-such"])
def test_l23_formats_that_are_annotations_are_named_as_not_enforced(server: Served, form: str) -> None:
    texts = {
        "a": {"type": "string", "format": form, "maxLength": 3},
        "b": {"type": "string", "format": "date"},
    }
    schema = {"type": "object", "properties": texts, "required": ["a", "b"]}
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    request = {"model": DEFAULT_MODEL, "messages": MESSAGES, "max_tokens": 40}
    answer = server.post(CHAT, {**request, "response_format": response_format})
    assert answer.status_code == 200
    path = "response_format.json_schema.schema.properties.a.format"
    assert answer.headers["x-headrace-ignored"].split(", ") == [path]
    called = server.post(CHAT, {**request, "tools": [tool(schema)], "tool_choice": "required"})
    assert called.headers["x-headrace-ignored"] == "tools.0.function.parameters.properties.a.format"
