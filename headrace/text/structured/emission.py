"""Writes the alternatives of each state as a schema that llguidance enforces exactly: nodes of one type,
`anyOf` and `$ref`. What it cannot express is narrowed (narrowing.py), or the schema is refused.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

from headrace.text.structured.faults import UnsupportedSchema, unsupported
from headrace.text.structured.keywords import Node, Schema
from headrace.text.structured.lists import Lists
from headrace.text.structured.literals import flags, one_of
from headrace.text.structured.members import Members
from headrace.text.structured.numbers import number_schemas
from headrace.text.structured.record import Record, State, kind_of
from headrace.text.structured.solver import Solver
from headrace.text.structured.texts import Texts
from headrace.text.structured.unsatisfiable import PREFIX

MAX_STATES = 2_000  # definitions: a thousand properties compile in 0.1 s
ANY = "any"
ANYTHING: dict[str, Node] = {
    "anyOf": [
        {"type": ["null", "boolean", "string"]},
        *number_schemas(Record()),
        {"type": "array", "items": {"$ref": PREFIX + ANY}},
        {"type": "object", "additionalProperties": {"$ref": PREFIX + ANY}},
    ]
}


class Emission:
    """The written schema. `definitions`: name → node of each state, ROOT is the whole; `places`: (path, name)
    of each, the innermost first. `apart`: refuse objects in which a listed member matches a
    patternProperties expression. Raises InvalidSchema, UnsupportedSchema.
    """

    ROOT = "root"

    def __init__(self, solver: Solver, *, apart: bool = False) -> None:
        self._solver, self._document, self._texts = solver, solver.document, Texts()
        self._lists = Lists(solver, self._reference)
        self._members = Members(solver, self._reference, self._texts, apart=apart)
        self._names: dict[State, str] = {}
        self._waiting: list[State] = []
        self._written: dict[str, str] = {}  # a node as JSON → its name
        self.definitions: dict[str, Node] = {}
        self.places: list[tuple[str, str]] = []
        self.definitions[self.ROOT] = self._reference((solver.term(self._document.root),))
        while self._waiting:
            state = self._waiting.pop()
            self.places.append((solver.part(state[0]).path, self._names[state]))
            self._define(self._names[state], self._alternatives(state))
        self.places.reverse()

    def _define(self, name: str, node: Node) -> None:
        """Add a definition. One that equals another refers to it, so that llguidance compiles it once."""
        known = self._written.setdefault(json.dumps(node), name)
        self.definitions[name] = node if known == name else {"$ref": PREFIX + known}

    def _reference(self, state: State) -> Node:
        """A reference to the node of a state, which is written later if it is new."""
        state = tuple(term for term in state if self._solver.part(term).words is not True or not term[1])
        if not state:
            self.definitions[ANY] = ANYTHING
            return {"$ref": PREFIX + ANY}
        if any(self._solver.part(term).words is False for term in state):
            return False
        if state not in self._names:
            if len(self._names) >= MAX_STATES:
                raise unsupported(self._document.param, f"has more than {MAX_STATES} subschemas")
            self._names[state] = str(len(self._names))
            self._waiting.append(state)
        return {"$ref": PREFIX + self._names[state]}

    def _alternatives(self, state: State) -> Node:
        found: dict[str, Node] = {}
        fault: UnsupportedSchema | None = None
        for record in self._solver.records(state):
            try:
                for node in self._nodes(record):
                    found[json.dumps(node)] = node
            except UnsupportedSchema as exc:
                fault = fault or exc
        nodes = list(found.values())
        if fault is not None and (not nodes or not self._solver.allows("options")):
            raise fault
        if not nodes:
            return False
        return nodes[0] if len(nodes) == 1 else {"anyOf": nodes}

    def _nodes(self, record: Record) -> list[Node]:
        if record.values is not None:
            return [one_of(record.values, record.values_path)] if record.values else []
        kinds = [
            kind for kind in ("null", "boolean", "number", "string", "array", "object") if record.has(kind)
        ]
        if _is_unrestricted(record):
            return [self._reference(())]
        excluded = {kind: [value for value in record.excluded if kind_of(value) == kind] for kind in kinds}
        nodes: list[Node] = []
        for kind in kinds:
            others = excluded[kind]
            if kind == "null":
                nodes += [] if others else [{"type": "null"}]
            elif kind == "boolean":
                nodes += flags(others)
            elif kind == "number":
                nodes += _numbers(record, others)
            elif kind == "string":
                nodes += [self._texts.schema(record, others)]
            elif _exclude_empty(record, others):
                nodes += (self._lists if kind == "array" else self._members).schemas(record)
        return nodes


def _exclude_empty(record: Record, others: list[Any]) -> bool:
    """Exclude empty arrays or objects by a minimum size. False: other values are excluded, which is
    impossible.
    """
    if any(others):
        return False
    if others:
        size = "minItems" if isinstance(others[0], list) else "minProperties"
        record.bounds[size] = max(1, record.bounds.get(size, 0))
    return True


def _is_unrestricted(record: Record) -> bool:
    empty = Record()
    fields: tuple[str, ...] = ("kinds", "is_integer", "bounds", "multiples", "patterns", "expressions")
    fields += ("formats", "excluded", "is_unique", "objects", "arrays", "contained", "required", "names")
    return all(getattr(record, name) == getattr(empty, name) for name in fields)


def _numbers(record: Record, others: list[Any]) -> list[Schema]:
    """The nodes of the intervals between excluded numbers."""
    found: list[Schema] = []
    edges = [None, *sorted(set(others)), None]
    for low, high in itertools.pairwise(edges):
        piece = record.copy()
        if low is not None:
            piece.tighten({"exclusiveMinimum": low}, record.path)
        if high is not None:
            piece.tighten({"exclusiveMaximum": high}, record.path)
        found += number_schemas(piece) if piece.has("number") else []
    return found
