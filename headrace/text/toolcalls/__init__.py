"""Tool calls as models write them: instructions, the grammar that enforces a format, and the parser."""

from headrace.text.toolcalls.call_reader import CallArguments, CallBegin, CallEnd, Part, Text
from headrace.text.toolcalls.formats import FORMATS, ToolFormat, call_grammar, detect, own_format
from headrace.text.toolcalls.parser import Parser
from headrace.types import Tool

__all__ = [
    "FORMATS", "CallArguments", "CallBegin", "CallEnd", "Parser", "Part", "Text", "ToolFormat",
    "arguments_schema", "call_grammar", "detect", "own_format",
]  # fmt: skip


def arguments_schema(tool: Tool) -> dict[str, object]:
    """The tool's parameters, restricted to objects; without parameters, only the empty object is valid."""
    schema = dict(tool.parameters or {})
    if not schema:
        schema = {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(schema.get("type"), str):  # missing, or several: arguments are an object
        schema["type"] = "object"
    return schema
