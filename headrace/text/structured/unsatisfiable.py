"""Removes definitions that no finite text satisfies, such as a list node that requires a next node. A matcher
would generate them without end.
"""

from __future__ import annotations

from collections.abc import Callable

from headrace.text.structured.keywords import Node, Schema, mapped

PREFIX = "#/$defs/"


def name_of(node: Node) -> str | None:
    """The name of the definition that a node refers to; None: it is not a reference."""
    return node["$ref"].removeprefix(PREFIX) if isinstance(node, dict) and "$ref" in node else None


def cut(definitions: dict[str, Node]) -> dict[str, Node]:
    """Replace each definition that has no finite value, and each reference to one, by `false`.

    The definitions with finite values are the least fixed point: first those that need no other, then those
    that need only such, and so on.
    """
    finite: set[str] = set()
    while True:
        found = {name for name, node in definitions.items() if name in finite or _ends(node, finite)}
        if found == finite:
            break
        finite = found
    if len(finite) == len(definitions):
        return definitions

    def ref_or_false(name: str) -> Node:
        return {"$ref": PREFIX + name} if name in finite else False

    return {
        name: with_references(node, ref_or_false) if name in finite else False
        for name, node in definitions.items()
    }


def _ends(node: Node, finite: set[str]) -> bool:
    """Whether a value satisfies the node, if only references to `finite` can be satisfied."""
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
        return all(_ends(part, finite) for part in _required_items(node))
    return True


def _required_items(node: Schema) -> list[Node]:
    least: int = node.get("minItems", 0)
    prefix: list[Node] = node.get("prefixItems", [])
    return prefix[:least] + ([node.get("items", True)] if least > len(prefix) else [])


def with_references(node: Node, replace: Callable[[str], Node]) -> Node:
    """A copy of the node with each reference replaced by `replace(name of its definition)`."""
    if not isinstance(node, dict):
        return node
    name = name_of(node)
    if name is not None:
        return replace(name)
    return mapped(node, lambda part: with_references(part, replace))
