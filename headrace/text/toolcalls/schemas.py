"""A tool's parameters as the schema that its arguments are generated from, and how they are laid out."""

from __future__ import annotations

import json

from headrace.types import Tool

# Small models fill every place where a space is allowed with spaces: so there is none but these.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def arguments_schema(tool: Tool) -> dict[str, object]:
    """Every object that this describes is one of the tool's own schema. A tool without parameters takes the
    empty object.
    """
    schema = dict(tool.parameters or {})
    if not schema:
        schema = {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(schema.get("type"), str):  # missing, or several: arguments are an object
        schema["type"] = "object"
    return schema


def schema_source(tool: Tool) -> str:
    """What follows %json in a grammar. What the schema says is left to llguidance."""
    return json.dumps({**arguments_schema(tool), "x-guidance": _LAYOUT})
