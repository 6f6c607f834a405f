"""A tool's parameters as the schema that its arguments are generated from, and how they are laid out."""

from __future__ import annotations

import json

from headrace.types import Json, Tool

# Small models fill every place where a space is allowed with spaces: so there is none but these.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_COMBINING = {
    "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "$ref", "$dynamicRef", "patternProperties",
    "propertyNames", "minProperties", "maxProperties", "dependentSchemas", "dependentRequired",
    "dependencies", "unevaluatedProperties",
}  # fmt: skip


def arguments_schema(tool: Tool) -> dict[str, object]:
    """Every object that this describes is one of the tool's own schema. A tool without parameters takes the
    empty object.
    """
    schema = dict(tool.parameters or {})
    if not schema:
        schema = {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(schema.get("type"), str):  # missing, or several: arguments are an object
        schema["type"] = "object"
    # A reference from elsewhere to a part of this could combine it with what we forbid.
    if '"$ref": "#/properties' not in json.dumps(schema):
        schema = _closed(schema)
    return schema


def schema_source(tool: Tool) -> str:
    """What follows %json in a grammar. What the schema says is left to llguidance."""
    return json.dumps({**arguments_schema(tool), "x-guidance": _LAYOUT})


def _closed(schema: Json) -> dict[str, object]:
    """Objects whose members are listed get no others, though JSON schema allows any: a model that may invent
    members goes on doing so until its tokens are used up.
    """
    closed = dict(schema)
    if not _COMBINING.isdisjoint(schema):
        return closed
    properties, required = schema.get("properties"), schema.get("required", [])
    if isinstance(properties, dict) and properties:
        closed["properties"] = {name: _closed_part(part) for name, part in properties.items()}
        if isinstance(required, list) and all(name in list(properties) for name in required):
            closed.setdefault("additionalProperties", False)
    if "items" in schema:
        closed["items"] = _closed_part(schema["items"])
    return closed


def _closed_part(schema: object) -> object:
    return _closed(schema) if isinstance(schema, dict) else schema
