"""Writes the alternatives of each state as a schema that llguidance enforces exactly: nodes of one type,
`anyOf` and `$ref`. What it cannot express is narrowed (NARROWINGS in keywords.py), or the schema is refused.
Removes definitions that no finite text satisfies.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from headrace.text.structured.alternative import Alternative, once
from headrace.text.structured.arrays import Arrays
from headrace.text.structured.document import Document, State
from headrace.text.structured.keywords import Node, Schema, UnsupportedSchema, mapped, unsupported
from headrace.text.structured.objects import Objects
from headrace.text.structured.solver import Solver
from headrace.text.structured.values import Strings, number_nodes, one_of

MAX_STATES = 2_000  # definitions: a thousand properties compile in 0.1 s
ANY = "any"
ROOT = "root"

PREFIX = "#/$defs/"


class Emission:
    """The written schema. `definitions`: name → node of each state, ROOT is the whole; `places`: (path, name)
    of each, the innermost first. `apart`: refuse objects in which a listed member matches a
    patternProperties expression. Raises InvalidSchema, UnsupportedSchema.
    """

    def __init__(self, solver: Solver, *, apart: bool = False) -> None:
        self._solver, self._document, self._strings = solver, solver.document, Strings()
        self._arrays = Arrays(solver, self._reference)
        self._objects = Objects(solver, self._reference, self._strings, apart=apart)
        self._names: dict[State, str] = {}
        self._waiting: list[State] = []
        self._written: dict[str, str] = {}  # a node as JSON → its name
        self.places: list[tuple[str, str]] = []
        self.definitions: dict[str, Node] = {}
        self.definitions[ROOT] = self._reference((solver.document.term(self._document.root),))
        while self._waiting:
            state = self._waiting.pop()
            self.places.append((state[0][0].path, self._names[state]))
            self._define(self._names[state], self._node(state))
        self.places.reverse()

    def _define(self, name: str, node: Node) -> None:
        """Add a definition. One that equals another refers to it, so that llguidance compiles it once."""
        known = self._written.setdefault(json.dumps(node), name)
        self.definitions[name] = node if known == name else {"$ref": PREFIX + known}

    def _reference(self, state: State) -> Node:
        """A reference to the node of a state, which is written later if it is new."""
        state = once(state)
        if not state:
            if ANY not in self.definitions:
                self.definitions[ANY] = _anything(self._document)
            return {"$ref": PREFIX + ANY}
        if any(part.words is False for part, _ in state):
            return False
        if state not in self._names:
            if len(self._names) >= MAX_STATES:
                raise unsupported(self._document.param, f"has more than {MAX_STATES} subschemas")
            self._names[state] = str(len(self._names))
            self._waiting.append(state)
        return {"$ref": PREFIX + self._names[state]}

    def _node(self, state: State) -> Node:
        """The schema of the values that a state of the solver accepts. Alternatives that cannot be expressed
        are left out, if there are others.
        """
        nodes: dict[str, Node] = {}
        fault: UnsupportedSchema | None = None
        for one in self._solver.alternatives(state):
            try:
                nodes |= {json.dumps(node): node for node in self._nodes(one)}
            except UnsupportedSchema as exc:
                fault = fault or exc
        if fault is not None and (not nodes or not self._solver.allows("options")):
            raise fault
        return _any_of(list(nodes.values()))

    def _nodes(self, one: Alternative) -> list[Node]:
        if one.values is not None:
            return [one_of(one.values, one.values_path)]
        if not one.parts:
            return [self._reference(())]
        return [node for kind in one.kinds for node in self._of_type(kind, one, one.excluded(kind))]

    def _of_type(self, kind: str, one: Alternative, excluded: list[Node]) -> list[Node]:
        """The nodes for those values of an alternative that have one type."""
        if kind == "null":
            return [] if excluded else [{"type": "null"}]
        if kind == "boolean":
            flags = [flag for flag in (False, True) if flag not in excluded]
            return [{"type": "boolean"}] if len(flags) == 2 else [{"const": flag} for flag in flags]
        if kind == "number":
            return [*number_nodes(one, excluded)]
        if kind == "string":
            return [self._strings.node(one, excluded)]
        if any(excluded):  # arrays or objects other than the empty one
            return []
        if excluded:
            one = one.narrowed({"minItems" if kind == "array" else "minProperties": 1})
        return [*(self._arrays if kind == "array" else self._objects).nodes(one)]


def _any_of(nodes: list[Node]) -> Node:
    if not nodes:
        return False
    return nodes[0] if len(nodes) == 1 else {"anyOf": nodes}


def _anything(document: Document) -> Node:
    """The node of all values."""
    return {
        "anyOf": [
            {"type": ["null", "boolean", "string"]},
            *number_nodes(Alternative(document), []),
            {"type": "array", "items": {"$ref": PREFIX + ANY}},
            {"type": "object", "additionalProperties": {"$ref": PREFIX + ANY}},
        ]
    }


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
        ending = {name for name, node in definitions.items() if name in finite or _ends(node, finite)}
        if ending == finite:
            break
        finite = ending
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
