from __future__ import annotations

from typing import Any

import pytest

from headrace.text.toolcalls import arguments_schema
from headrace.types import Tool


def test_schema_of_the_arguments_is_part_of_the_tools_own() -> None:
    assert arguments_schema(Tool("f")) == {"type": "object", "properties": {}, "additionalProperties": False}
    assert arguments_schema(Tool("f", parameters={})) == arguments_schema(Tool("f"))
    inner = {"type": "object", "properties": {"x": {"type": "object"}}, "required": ["x"]}
    tool = Tool("f", parameters={"type": ["object", "null"], "properties": {"list": {"items": inner}}})
    closed = arguments_schema(tool)
    assert closed["type"] == "object"
    assert closed["additionalProperties"] is False
    assert closed["properties"] == {"list": {"items": {**inner, "additionalProperties": False}}}
    assert "additionalProperties" not in inner


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"a": {}}, "required": ["b"]},
        {"type": "object", "properties": {"a": {}}, "allOf": [{"required": ["b"]}]},
        {"type": "object", "properties": {"a": {}}, "patternProperties": {"^x": {}}},
        {"type": "object", "properties": {"a": {}, "b": {"$ref": "#/properties/a"}}},
    ],
)
def test_schema_that_means_further_members_stays_open(schema: dict[str, Any]) -> None:
    assert arguments_schema(Tool("f", parameters=schema)) == schema


@pytest.mark.parametrize("parameters", [{"properties": 3}, {"properties": {"a": 1}, "required": [{}, 2]}])
def test_schema_that_is_none_is_left_to_be_refused(parameters: dict[str, Any]) -> None:
    assert arguments_schema(Tool("f", parameters=parameters))["properties"] == parameters["properties"]
