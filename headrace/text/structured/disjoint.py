"""Whether no value can satisfy two JSON schemas at once. `oneOf` is enforced only where this can be shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Node = Any  # a JSON schema: an object or a boolean
KINDS = frozenset({"null", "boolean", "number", "string", "array", "object"})
MAX_STEPS = 6  # properties and references followed, one into the other
MAX_COMPARED, MAX_FACTS = 200_000, 20_000  # pairs, schemas: beyond, nothing is shown any more. Under a second


@dataclass(frozen=True, slots=True)
class Facts:
    """What surely holds of every value of a schema."""

    kinds: frozenset[str]
    literals: frozenset[str] | None  # it is one of these, each as canonical JSON
    properties: dict[str, list[Node]]
    required: frozenset[str]
    closed: frozenset[str] | None  # it has no other properties than these


class Disjoint:
    """`resolve` gives the schema that a $ref names."""

    def __init__(self, resolve: Callable[[str], Node], *, lone_refs: bool) -> None:
        self._resolve = resolve
        self._lone_refs = lone_refs  # as up to draft 7: what stands beside a $ref does not count
        self._compared = 0
        self._known: dict[tuple[int, int], Facts] = {}  # by identity and steps; the schema outlives this

    def holds(self, one: Node, other: Node, steps: int = MAX_STEPS) -> bool:
        """False: it may be that they overlap."""
        self._compared += 1
        if steps == 0 or self._compared > MAX_COMPARED:
            return False
        a, b = self._facts(one, steps), self._facts(other, steps)
        common = a.kinds & b.kinds
        if not common:
            return True
        if a.literals is not None and b.literals is not None and not a.literals & b.literals:
            return True
        return common == {"object"} and self._objects(a, b, steps)

    def _objects(self, a: Facts, b: Facts, steps: int) -> bool:
        for key in a.required | b.required:
            if key in a.required and b.closed is not None and key not in b.closed:
                return True
            if key in b.required and a.closed is not None and key not in a.closed:
                return True
            ours, theirs = a.properties.get(key, []), b.properties.get(key, [])
            if any(self.holds(one, other, steps - 1) for one in ours for other in theirs):
                return True
        return False

    def _facts(self, node: Node, steps: int) -> Facts:
        key = id(node), steps
        if key not in self._known:
            if len(self._known) >= MAX_FACTS:
                return Facts(KINDS, None, {}, frozenset(), None)
            self._known[key] = self._gathered(node, steps)
        return self._known[key]

    def _gathered(self, node: Node, steps: int) -> Facts:
        kinds, literals = KINDS, None
        properties: dict[str, list[Node]] = {}
        required: set[str] = set()
        closed: frozenset[str] | None = None
        for part in self._parts(node, steps):
            kinds &= self._kinds(part, steps)
            literals = self._literals(part, steps) if literals is None else literals
            for name, schema in part.get("properties", {}).items():
                properties.setdefault(name, []).append(schema)
            required |= set(names) if isinstance(names := part.get("required"), list) else set()
            if part.get("additionalProperties") is False and "patternProperties" not in part:
                closed = frozenset(part.get("properties", {}))
        return Facts(kinds, literals, properties, frozenset(required), closed)

    def _parts(self, node: Node, steps: int) -> Iterator[dict[str, Any]]:
        """The schemas that all must hold, through allOf and $ref."""
        if node is False:
            yield {"type": []}
        if not isinstance(node, dict) or steps == 0:
            return
        reference = node.get("$ref")
        if reference is not None:
            yield from self._parts(self._resolve(reference), steps - 1)
            if self._lone_refs:
                return
        yield node
        for schema in node.get("allOf", ()):
            yield from self._parts(schema, steps - 1)

    def _kinds(self, part: dict[str, Any], steps: int) -> frozenset[str]:
        kinds = KINDS
        if "type" in part:
            names = part["type"] if isinstance(part["type"], list) else [part["type"]]
            kinds = frozenset("number" if name == "integer" else name for name in names)
        for values in _listed(part):
            kinds &= frozenset(map(_kind, values))
        for options in _options(part):
            kinds &= frozenset().union(*(self._facts(option, steps - 1).kinds for option in options))
        return kinds

    def _literals(self, part: dict[str, Any], steps: int) -> frozenset[str] | None:
        for values in _listed(part):
            return frozenset(map(canonical, values))
        for options in _options(part) if steps > 1 else ():
            sets = [self._facts(option, steps - 1).literals for option in options]
            known = [literals for literals in sets if literals is not None]
            if len(known) == len(sets):
                return frozenset().union(*known)
        return None


def canonical(value: object) -> str:
    """The same text for values that JSON Schema calls equal."""
    return json.dumps(_floats(value), sort_keys=True)


def _floats(value: object) -> object:
    if isinstance(value, list):
        return [_floats(item) for item in value]
    if isinstance(value, dict):
        return {name: _floats(item) for name, item in value.items()}
    exact = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**53
    return float(value) if exact else value  # type: ignore[arg-type]


def _listed(part: dict[str, Any]) -> Iterator[Iterable[object]]:
    if "const" in part:
        yield [part["const"]]
    if "enum" in part:
        yield part["enum"]


def _options(part: dict[str, Any]) -> Iterator[list[Node]]:
    for keyword in ("anyOf", "oneOf"):
        if keyword in part:
            yield part[keyword]


def _kind(value: object) -> str:
    if value is None:
        return "null"
    for type_, name in ((bool, "boolean"), ((int, float), "number"), (str, "string"), (list, "array")):
        if isinstance(value, type_):
            return name
    return "object"
