"""Tool calls as models write them: instructions, the grammar that enforces a format, and the parser."""

from headrace.text.toolcalls.formats import FORMATS, ToolFormat, detect, own_format
from headrace.text.toolcalls.lark import call_grammar
from headrace.text.toolcalls.parser import Parser
from headrace.text.toolcalls.parts import CallArguments, CallBegin, CallEnd, Part, Text
from headrace.text.toolcalls.schemas import arguments_schema

__all__ = [
    "FORMATS",
    "CallArguments",
    "CallBegin",
    "CallEnd",
    "Parser",
    "Part",
    "Text",
    "ToolFormat",
    "arguments_schema",
    "call_grammar",
    "detect",
    "own_format",
]
