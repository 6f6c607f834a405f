"""Schemas that no finite text can satisfy: a list node that must have a next node. A matcher would follow
them for ever.
"""

from __future__ import annotations

from typing import Any

Node = Any  # an emitted JSON schema: an object or a boolean
PREFIX = "#/$defs/"


def name_of(node: Node) -> str | None:
    """Of the definition that a node refers to."""
    return node["$ref"].removeprefix(PREFIX) if isinstance(node, dict) and "$ref" in node else None


def cut(definitions: dict[str, Node]) -> dict[str, Node]:
    """The definitions with `false` for each reference to one that cannot end."""
    finite: set[str] = set()
    while True:
        found = {name for name, node in definitions.items() if name in finite or _ends(node, finite)}
        if found == finite:
            break
        finite = found
    if len(finite) == len(definitions):
        return definitions
    return {name: _without(node, finite) if name in finite else False for name, node in definitions.items()}


def _ends(node: Node, finite: set[str]) -> bool:
    """Whether some value satisfies it, if only references to `finite` can be satisfied."""
    if isinstance(node, bool):
        return node
    name = name_of(node)
    if name is not None:
        return name in finite
    if "anyOf" in node:
        return any(_ends(part, finite) for part in node["anyOf"])
    if node.get("type") == "object":
        properties, rest = node.get("properties", {}), node.get("additionalProperties", True)
        return all(_ends(properties.get(name, rest), finite) for name in node.get("required", ()))
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
    name = name_of(node)
    if name is not None:
        return node if name in finite else False
    result = dict(node)
    for keyword, value in node.items():
        if keyword in ("properties", "patternProperties"):
            result[keyword] = {name: _without(part, finite) for name, part in value.items()}
        elif keyword in ("anyOf", "prefixItems"):
            result[keyword] = [_without(part, finite) for part in value]
        elif keyword in ("items", "additionalProperties"):
            result[keyword] = _without(value, finite)
    return result
