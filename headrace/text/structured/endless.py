"""Schemas that no finite text can satisfy: a list node that must have a next node. A matcher would follow
them for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Node = Any  # a translated JSON schema: an object or a boolean
PREFIX = "#/$defs/"


def subschemas(node: Node) -> Iterator[Node]:
    """The schemas directly inside one, in order."""
    if not isinstance(node, dict):
        return
    for keyword, value in node.items():
        if keyword in ("properties", "patternProperties"):
            yield from value.values()
        elif keyword in ("allOf", "anyOf", "prefixItems"):
            yield from value
        elif keyword in ("items", "additionalProperties"):
            yield value


def cut(definitions: dict[str, Node]) -> dict[str, Node]:
    """The definitions with `false` for each reference to one that cannot end."""
    finite: set[str] = set()
    while True:
        found = {name for name, node in definitions.items() if _ends(node, finite)}
        if found == finite:
            break
        finite = found
    if len(finite) == len(definitions):
        return definitions
    return {name: _without(node, finite) for name, node in definitions.items()}


def _ends(node: Node, finite: set[str]) -> bool:
    """Whether some value satisfies it, if only those references can be satisfied."""
    if isinstance(node, bool):
        return node
    if "$ref" in node and node["$ref"].removeprefix(PREFIX) not in finite:
        return False
    if not all(_ends(part, finite) for part in node.get("allOf", ())):
        return False
    if "anyOf" in node and not any(_ends(part, finite) for part in node["anyOf"]):
        return False
    if node.get("type") == "object":
        properties = node.get("properties", {})
        return all(_ends(properties.get(name, True), finite) for name in node.get("required", ()))
    if node.get("type") == "array":
        return all(_ends(part, finite) for part in _must_have(node))
    return True


def _must_have(node: dict[str, Any]) -> list[Node]:
    least: int = node.get("minItems", 0)
    prefix: list[Node] = node.get("prefixItems", [])
    return prefix[:least] + ([node.get("items", True)] if least > len(prefix) else [])


def _without(node: Node, finite: set[str]) -> Node:
    if not isinstance(node, dict):
        return node
    if "$ref" in node and node["$ref"].removeprefix(PREFIX) not in finite:
        return False
    result = dict(node)
    for keyword, value in node.items():
        if keyword in ("properties", "patternProperties"):
            result[keyword] = {name: _without(part, finite) for name, part in value.items()}
        elif keyword in ("allOf", "anyOf", "prefixItems"):
            result[keyword] = [_without(part, finite) for part in value]
        elif keyword in ("items", "additionalProperties"):
            result[keyword] = _without(value, finite)
    return result
