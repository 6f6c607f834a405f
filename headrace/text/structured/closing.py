"""Objects that list their members get no others, though JSON schema allows any: a model that may invent
members goes on doing so until its tokens are used up.

Every instance of the closed schema is one of the schema as it came. That is not so where schemas are
combined: what one option of a `oneOf` forbids, another may then not exclude any more. Such schemas stay as
they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headrace.types import Json

_COMBINING = {
    "allOf", "oneOf", "not", "if", "$dynamicRef", "$recursiveRef", "unevaluatedProperties",
    "dependentSchemas", "dependencies", "contains",
}  # fmt: skip
_MAPS = ("properties", "patternProperties", "$defs", "definitions")  # members whose values are schemas
_PARTS = ("items", "prefixItems", "additionalProperties", "anyOf")  # members that are one, or a list of them


def closed(schema: Json) -> Json:
    """The same, with `additionalProperties: false` wherever members are listed and nothing is said of others.
    Expects a schema that is not nested without bounds.
    """
    return schema if any(_combines(node) for node in _nodes(schema)) else _closed(schema)


def _nodes(schema: object) -> Iterator[Json]:
    """The schema and all in it; also what merely looks like one, in an enum: that makes it careful, not
    wrong.
    """
    if isinstance(schema, dict):
        yield schema
        for value in schema.values():
            yield from _nodes(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _nodes(item)


def _combines(node: Json) -> bool:
    reference = node.get("$ref")
    if isinstance(reference, str):
        into_a_part = not (reference == "#" or reference.startswith(("#/$defs/", "#/definitions/")))
        return into_a_part or not {"properties", "patternProperties", "anyOf"}.isdisjoint(node)
    return not _COMBINING.isdisjoint(node) or ("anyOf" in node and "properties" in node)


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    for key in _MAPS:
        if isinstance(schema.get(key), dict):
            result[key] = {name: _closed(part) for name, part in schema[key].items()}
    for key in _PARTS:
        if key in schema:
            result[key] = _closed(schema[key])
    if _lists_its_members(schema):
        result.setdefault("additionalProperties", False)
    return result


def _lists_its_members(schema: Json) -> bool:
    properties, required = schema.get("properties"), schema.get("required", [])
    return (
        isinstance(properties, dict)
        and bool(properties)
        and {"minProperties", "patternProperties"}.isdisjoint(schema)
        and isinstance(required, list)
        and all(name in list(properties) for name in required)
    )
