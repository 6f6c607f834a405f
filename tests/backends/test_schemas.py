"""Schemas as they are written to providers, each of which accepts another part of JSON Schema."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.backends.anthropic.request import enforced, with_plain_top
from tests.backends.writing import CHAT, HI, RESPONSES, STRICT, Written, names

TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
AB = {"a": TEXT, "b": TEXT}
TOPS: dict[str, tuple[Any, Any]] = {
    "G21 anyOf": (
        {"type": "object", "anyOf": [
            {"properties": {"a": TEXT}, "required": ["a"]}, {"properties": {"b": TEXT}, "required": ["b"]},
        ]},
        {"type": "object", "properties": AB},
    ),
    "G21 oneOf beside properties": (
        {"type": "object", "properties": AB, "required": ["a"], "oneOf": [
            {"required": ["b", "c"]}, {"required": ["c"]},
        ]},
        {"type": "object", "properties": AB, "required": ["a", "c"]},
    ),
    "G21 allOf of references": (
        {"allOf": [{"$ref": "#/$defs/A"}, {"properties": {"b": TEXT}, "required": ["b"]}], "$defs": {
            "A": {"properties": {"a": TEXT}, "required": ["a"]},
        }},
        {"properties": AB, "required": ["a", "b"], "$defs": {
            "A": {"properties": {"a": TEXT}, "required": ["a"]},
        }},
    ),
    "G21 a circle": (
        {"allOf": [{"$ref": "#"}], "properties": {"a": TEXT}}, {"properties": {"a": TEXT}},
    ),
    "G21 unions within unions": (
        {"anyOf": [{"oneOf": [{"properties": {"a": TEXT}}, {"properties": {"b": TEXT}}]}, True]},
        {"properties": AB},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("schema", "plain"), TOPS.values(), ids=TOPS)
def test_a_tools_schema_has_no_union_at_its_top(written: Written, schema: Any, plain: Any) -> None:
    assert with_plain_top(schema) == plain
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    status, headers, _ = written.ask(CHAT, {"model": "an:claude-opus-5", "messages": HI, "tools": tools})
    assert (status, names(headers)) == (200, ["tools.function.parameters"])
    assert written.last["tools"][0]["input_schema"] == {"type": "object", **plain}


def test_unions_within_a_tools_schema_stay() -> None:
    schema = {"type": "object", "properties": {"a": {"anyOf": [TEXT, NUMBER]}}}
    assert with_plain_top(schema) is schema


LIMITED = {
    "type": "object",
    "properties": {
        "a": {**NUMBER, "minimum": 0, "multipleOf": 5},
        "b": {**TEXT, "description": "A name.", "maxLength": 9, "pattern": "^x"},
        "c": {"type": "array", "items": TEXT, "minItems": 3},
        "d": {"type": "array", "items": {"oneOf": [TEXT, NUMBER]}, "minItems": 1},
    },
    "additionalProperties": True,
}
IN_WORDS = {
    "type": "object",
    "properties": {
        "a": {**NUMBER, "description": "(minimum: 0, multipleOf: 5)"},
        "b": {**TEXT, "description": "A name.\n(maxLength: 9)", "pattern": "^x"},
        "c": {"type": "array", "items": TEXT, "description": "(minItems: 3)"},
        "d": {"type": "array", "items": {"anyOf": [TEXT, NUMBER]}, "minItems": 1},
    },
    "additionalProperties": False,
}


def test_g21_what_anthropic_cannot_enforce_is_described_and_named(written: Written) -> None:
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": LIMITED}}
    body = {"model": "an:claude-opus-5", "messages": HI, "response_format": format}
    status, headers, _ = written.ask(CHAT, body)
    assert (status, names(headers)) == (200, ["response_format"])
    assert written.last["output_config"]["format"]["schema"] == IN_WORDS
    tool = {"type": "function", "function": {"name": "f", "parameters": LIMITED, "strict": True}}
    status, headers, _ = written.ask(CHAT, {"model": "an:claude-opus-5", "messages": HI, "tools": [tool]})
    assert (status, names(headers)) == (200, ["tools.function.parameters"])
    assert written.last["tools"][0]["input_schema"] == IN_WORDS


def test_g21_a_tool_that_is_not_strict_keeps_its_limits(written: Written) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": LIMITED}}
    status, headers, _ = written.ask(CHAT, {"model": "an:claude-opus-5", "messages": HI, "tools": [tool]})
    assert (status, names(headers)) == (200, [])
    assert written.last["tools"][0]["input_schema"] == LIMITED


def test_an_open_map_stays_open() -> None:
    ignored: list[str] = []
    schema = {"type": "object", "additionalProperties": TEXT}
    assert enforced(schema, "x", ignored) == schema
    assert not ignored


@pytest.mark.parametrize("stop", [["\n\n"], [" ", "x"], "\t"])
def test_g21_a_stop_of_white_space_is_refused_with_the_reason(written: Written, stop: Any) -> None:
    body = {"model": "an:claude-opus-5", "messages": HI, "stop": stop}
    status, _, answer = written.ask(CHAT, body)
    assert (status, answer["error"]["param"]) == (400, "stop")
    assert written.ask(CHAT, {**body, "model": "up:m"})[0] == 200


CLOSED = {"type": "object", "properties": {"a": TEXT}, "required": ["a"], "additionalProperties": False}
SCHEMAS: dict[str, tuple[Any, bool | None, bool | None]] = {
    "closed": (CLOSED, None, True),
    "closed, and not strict": (CLOSED, False, False),
    "open": ({"type": "object", "properties": {"a": TEXT}}, None, None),
    "open, and strict": ({"type": "object", "properties": {"a": TEXT}}, True, True),
    "oneOf": ({**CLOSED, "properties": {"a": {"oneOf": [TEXT, NUMBER]}}}, None, None),
    "uniqueItems": (
        {**CLOSED, "properties": {"a": {"type": "array", "items": TEXT, "uniqueItems": True}}}, None, None
    ),
    "a member called allOf": (
        {**CLOSED, "properties": {"allOf": TEXT}, "required": ["allOf"]}, None, True
    ),
}  # fmt: skip


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize(("schema", "said", "sent"), SCHEMAS.values(), ids=SCHEMAS)
def test_strict_is_sent_as_the_caller_says_else_where_openai_takes_it(
    written: Written, path: str, schema: Any, said: bool | None, sent: bool | None
) -> None:
    form = {"name": "x", "schema": schema, **({} if said is None else {"strict": said})}
    body: dict[str, Any] = {"model": "up:m", "messages": HI}
    body["response_format"] = {"type": "json_schema", "json_schema": form}
    if path == RESPONSES:
        body = {"model": "up:m", "input": "hi", "text": {"format": {"type": "json_schema", **form}}}
    assert written.ask(path, body, **STRICT)[0] == 200
    assert written.last["response_format"]["json_schema"].get("strict") == sent


def test_a_union_of_references_to_itself_is_read_once() -> None:
    part: dict[str, object] = {
        "anyOf": [{"$ref": "#/$defs/a"} for _ in range(50)] + [{"$ref": "#/$defs/b"}] * 50
    }
    schema = {**part, "$defs": {"a": dict(part), "b": {**part, "properties": {"x": {}}}}}
    assert with_plain_top(schema)["properties"] == {"x": {}}


def test_odd_lists_of_required_members_are_no_failure() -> None:
    odds: list[object] = [True, 5, [{}], [["a"]], "ab"]
    for odd in odds:
        plain = with_plain_top({"anyOf": [{"required": odd}], "required": odd})
        assert plain == {"properties": {}}
