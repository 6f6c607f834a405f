"""The schema of a tool's arguments."""

from __future__ import annotations

from headrace.types import Tool


def arguments_schema(tool: Tool) -> dict[str, object]:
    """The tool's parameters, restricted to objects; without parameters, only the empty object is valid."""
    schema = dict(tool.parameters or {})
    if not schema:
        schema = {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(schema.get("type"), str):  # missing, or several: arguments are an object
        schema["type"] = "object"
    return schema
