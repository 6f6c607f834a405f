"""What is closed, and what has to stay open."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from headrace.text.structured.closing import closed

CLOSED = {"additionalProperties": False}
POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


def test_objects_are_closed_wherever_they_are() -> None:
    """As pydantic writes models within models."""
    schema = {
        "$defs": {"Point": POINT},
        "type": "object",
        "properties": {
            "one": {"$ref": "#/$defs/Point"},
            "maybe": {"anyOf": [{"$ref": "#/$defs/Point"}, POINT, {"type": "null"}]},
            "many": {"type": "array", "prefixItems": [POINT], "items": POINT},
            "named": {"type": "object", "additionalProperties": POINT},
        },
    }
    within = POINT | CLOSED
    assert closed(schema) == CLOSED | {
        "$defs": {"Point": within},
        "type": "object",
        "properties": {
            "one": {"$ref": "#/$defs/Point"},
            "maybe": {"anyOf": [{"$ref": "#/$defs/Point"}, within, {"type": "null"}]},
            "many": {"type": "array", "prefixItems": [within], "items": within},
            "named": {"type": "object", "additionalProperties": within},
        },
    }
    assert "additionalProperties" not in POINT


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"properties": {"a": {}}, "additionalProperties": True},
        {"properties": {"a": {}}, "required": ["b"]},
        {"properties": {"a": {}}, "minProperties": 3},
        {"properties": {"a": {}}, "patternProperties": {"^x": {}}},
        {"properties": {"a": {}}, "allOf": [{"properties": {"b": {}}}]},
        {"oneOf": [POINT, {"properties": {"y": {}}}]},
        {"not": POINT},
        {"$defs": {"p": POINT}, "$ref": "#/$defs/p", "properties": {"b": {}}},
        {"properties": {"a": POINT, "b": {"$ref": "#/properties/a"}}},
        {"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}}, {}]},
        {"properties": 3},
        {"properties": {"a": 1}, "required": [{}, 2]},
    ],
    ids=str,
)
def test_what_combines_or_means_more_stays_as_it_is(schema: dict[str, Any]) -> None:
    assert closed(schema) == schema


def test_one_of_would_not_exclude_any_more() -> None:
    """Why: closed, the first option alone would take this; as they came, both do."""
    options: list[dict[str, Any]] = [POINT, {"properties": {"y": {}}}]
    strict = [option | CLOSED for option in options]
    assert not jsonschema.Draft202012Validator({"oneOf": options}).is_valid({"x": 1})
    assert jsonschema.Draft202012Validator({"oneOf": strict}).is_valid({"x": 1})
