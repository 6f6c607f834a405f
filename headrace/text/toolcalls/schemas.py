"""A tool's parameters as the schema that its arguments are generated from."""

from __future__ import annotations

from headrace.types import Tool


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
