"""Finds the `format` keywords in a request's schemas that no backend enforces."""

from __future__ import annotations

from collections.abc import Iterator

from headrace.text.structured.formats import KNOWN_FORMATS
from headrace.text.structured.keywords import Node, everywhere
from headrace.types import Conversation, GenerateRequest

MAX_NAMED = 20


def unenforced(request: GenerateRequest) -> list[str]:
    """Return the paths of up to MAX_NAMED of them, for X-Headrace-Ignored. The schemas must be valid."""
    schemas: list[tuple[str, Node]] = []
    if request.format is not None and request.format.kind == "json_schema":
        schemas.append((request.format.param, request.format.value))
    if isinstance(request.prompt, Conversation):
        tools = enumerate(request.prompt.tools)
        schemas += [(f"tools.{index}.function.parameters", tool.parameters) for index, tool in tools]
    found = (path for param, schema in schemas for path in _formats(schema, param))
    return [path for _, path in zip(range(MAX_NAMED), found, strict=False)]


def _formats(schema: Node, param: str) -> Iterator[str]:
    for path, node in everywhere(schema, param):
        kinds = node.get("type", "string")
        if "format" in node and node["format"] not in KNOWN_FORMATS and "string" in kinds:
            yield f"{path}.format"
