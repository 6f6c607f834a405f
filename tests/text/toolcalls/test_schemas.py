from __future__ import annotations

import pytest

from headrace.text.toolcalls import arguments_schema
from headrace.types import Json, Tool


def test_arguments_are_an_object_and_a_tool_without_parameters_takes_the_empty_one() -> None:
    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    assert arguments_schema(Tool("f")) == arguments_schema(Tool("f", parameters={})) == nothing
    tool = Tool("f", parameters={"type": ["object", "null"], "properties": {"a": {}}})
    assert arguments_schema(tool) == {"type": "object", "properties": {"a": {}}}
    assert arguments_schema(Tool("f", parameters={"required": ["a"]}))["type"] == "object"


@pytest.mark.parametrize("parameters", [{"properties": 3}, {"properties": {"a": 1}, "required": [{}, 2]}])
def test_schema_that_is_none_is_left_to_be_refused(parameters: Json) -> None:
    assert arguments_schema(Tool("f", parameters=parameters))["properties"] == parameters["properties"]
