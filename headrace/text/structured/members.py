"""Writes objects for llguidance."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence

from llguidance import LLMatcher

from headrace.text.structured import patterns
from headrace.text.structured.faults import UnsupportedSchema, unsupported
from headrace.text.structured.keywords import Node, Schema
from headrace.text.structured.literals import MAX_ITEMS, check_values
from headrace.text.structured.record import Record, Shape, State, Term, found_in, once
from headrace.text.structured.solver import Solver
from headrace.text.structured.texts import Texts, other_than

EVERY_NAME = ("", ".*", "^", "^.*", ".*$", "$")  # expressions that match all names


class Members:
    """Writes the objects of one schema. `reference`: state → node; `apart`: refuse listed members that match
    a patternProperties expression.
    """

    def __init__(
        self, solver: Solver, reference: Callable[[State], Node], texts: Texts, *, apart: bool
    ) -> None:
        self._solver, self._reference, self._texts, self._apart = solver, reference, texts, apart

    def schemas(self, record: Record) -> list[Schema]:
        """The alternatives; an empty list: no object satisfies the record. Raises UnsupportedSchema."""
        listed = self._solver.literals(tuple(record.names)) or []
        named = (name for shape in record.objects for name in shape.named)
        names = list(dict.fromkeys([*named, *record.required, *(n for n in listed if isinstance(n, str))]))
        check_values(names, record.path)
        properties = {name: self._member(record, name) for name in names}
        if any(properties[name] is False for name in record.required):
            return []
        keyed, rest = self._others(record, names)
        result: Schema = {"type": "object", "properties": properties, "additionalProperties": rest}
        result |= {"patternProperties": keyed, "required": list(record.required)}
        if not self._count(record, result):
            return []
        if rest is False and not keyed:
            result["properties"] = {name: node for name, node in properties.items() if node is not False}
        result["properties"] = {
            name: True if self._is_repeated(record, name, node, keyed) else node
            for name, node in result["properties"].items()
        }
        return [{name: value for name, value in result.items() if value not in ({}, [])}]

    def _member(self, record: Record, name: str) -> Node:
        if not self._solver.satisfies(name, record.names):
            return False
        return self._reference(self._solver.member(record, name))

    def _is_repeated(self, record: Record, name: str, node: Node, keyed: dict[str, Node]) -> bool:
        """Whether a listed member's node is that of an expression that matches its name, which llguidance
        applies to it anyway.
        """
        keys = (key for shape in record.objects for key in shape.patterns if found_in(key, name))
        return node is not False and any(keyed.get(patterns.translated(key)[0]) == node for key in keys)

    def _others(self, record: Record, names: list[str]) -> tuple[dict[str, Node], Node]:
        """The nodes of members that are not listed: by expression of their names, and the rest."""
        shapes = record.objects
        rest = once(tuple(s.rest for s in shapes if s.rest is not None and not s.rest_if_unevaluated))
        if not any(shape.rest is not None for shape in shapes if not shape.rest_if_unevaluated):
            rest = tuple(shape.rest for shape in shapes if shape.rest is not None)
        keys = list(dict.fromkeys(pattern for shape in shapes for pattern in shape.patterns))
        if self._solver.literals(tuple(record.names)) is not None:
            return {}, False
        if not keys and not record.names:
            return {}, False if self._is_closed(record, rest) else self._reference(rest)
        try:
            return self._keyed(record, names, keys, rest)
        except UnsupportedSchema:
            if not names or not self._solver.allows("member_names"):
                raise
            return {}, False

    def _is_closed(self, record: Record, rest: State) -> bool:
        """Whether others than the listed members are left out (narrowing closed_objects)."""
        is_silent = all(shape.rest is None for shape in record.objects)
        listed = {name for shape in record.objects for name in shape.named} | set(record.required)
        enough = record.bounds.get("minProperties", 0) <= len(listed)
        lists = any(shape.lists for shape in record.objects)
        return not rest and is_silent and lists and enough and self._solver.allows("closed_objects")

    def _keyed(
        self, record: Record, names: list[str], keys: list[str], rest: State
    ) -> tuple[dict[str, Node], Node]:
        """The nodes of members by expressions of their names, and of others."""
        states = {key: once(tuple(_terms_of_key(record.objects, key))) for key in keys}
        whole = [key for key in keys if key in EVERY_NAME]
        if self._apart and any(found_in(key, name) for key in keys for name in names):
            raise unsupported(f"{record.path}.patternProperties", "listed members match")
        if record.names:
            terms = (term for state in states.values() for term in state)
            return self._named(record, once((*terms, *(() if whole else rest))))
        if whole:
            return {}, self._reference(once(tuple(term for key in whole for term in states[key])))
        keyed: dict[str, State] = {}
        for key in keys:
            path = f"{record.path}.patternProperties.{key}"
            (one, *more) = self._texts.translated(key, path)
            if more:
                raise unsupported(path, "look-around in names")
            if _is_used_up(one, [name for name in names if found_in(key, name)], path):
                continue  # llguidance would start such a name and not be able to finish it
            keyed[one] = once((*keyed.get(one, ()), *states[key]))
        reason = _overlap(keyed)
        if reason:
            self._solver.need("member_names", f"{record.path}.patternProperties", reason)
            both = once(tuple(term for state in keyed.values() for term in state))
            keyed = dict.fromkeys(list(keyed)[:1], both)
            rest = (self._solver.term(False),)
        return {one: self._reference(state) for one, state in keyed.items()}, self._reference(rest)

    def _named(self, record: Record, state: State) -> tuple[dict[str, Node], Node]:
        """propertyNames: one expression for the names of members that must satisfy the state."""
        path = f"{record.path}.propertyNames"
        node = self._reference(state)
        alternatives = [
            self._texts.name_pattern(one, path)
            for one in self._solver.records(once(tuple(record.names)))
            if one.values is None and "string" in one.kinds
        ]
        if not alternatives:
            return {}, False
        if "" in alternatives:
            return {}, node
        if len(alternatives) > 1 and not all(one[:1] == "^" and one[-1:] == "$" for one in alternatives):
            raise unsupported(path, "several kinds of names")
        return {"|".join(f"(?:{one})" for one in alternatives): node}, False

    def _count(self, record: Record, result: Schema) -> bool:
        """Apply minProperties and maxProperties. False: no object satisfies them."""
        most = record.bounds.get("maxProperties")
        if most is not None:
            self._limit(int(min(most, MAX_ITEMS)), result, f"{record.path}.maxProperties")
        least = int(record.bounds.get("minProperties", 0))
        required = result["required"]
        optional = [n for n, node in result["properties"].items() if node is not False and n not in required]
        only_listed = result["additionalProperties"] is False and not result["patternProperties"]
        missing = least - len(required)
        if missing <= 0:
            return True
        if only_listed and len(optional) < missing:
            return False
        if least == 1 and (not optional or (only_listed and "maxProperties" not in result)):
            result["minProperties"] = 1
            return True
        path = f"{record.path}.minProperties"
        if len(optional) < missing:
            # llguidance would count a repeated name twice, a reader of the JSON once.
            raise unsupported(path, "more than 1 and more than are listed is not supported")
        self._solver.need("member_count", path, "optional members are not counted")
        required += optional[:missing]
        return True

    def _limit(self, most: int, result: Schema, path: str) -> None:
        properties, required = result["properties"], result["required"]
        possible = [name for name, node in properties.items() if node is not False]
        only_listed = result["additionalProperties"] is False and not result["patternProperties"]
        if only_listed and most >= len(possible):
            return
        if set(possible) == set(required) and not result["patternProperties"]:
            result["maxProperties"] = most
            return
        self._solver.need("member_count", path, "optional members are not counted")
        optional = [name for name in possible if name not in required][: most - len(required)]
        result["properties"] = {n: properties[n] for n in possible if n in required or n in optional}
        result |= {"additionalProperties": False, "patternProperties": {}}


def _terms_of_key(shapes: Sequence[Shape], key: str) -> Iterator[Term]:
    """The terms of members whose names match an expression."""
    for shape in shapes:
        if key in shape.patterns:
            yield shape.patterns[key]
        elif shape.rest is not None and not shape.rest_if_unevaluated:
            yield shape.rest


def _overlap(keyed: Iterable[str]) -> str:
    """Why llguidance cannot distinguish the expressions of names; empty if it can."""
    names = dict.fromkeys(keyed, True)
    if len(names) < 2:
        return ""
    schema = json.dumps({"type": "object", "patternProperties": names})
    return patterns.readable(LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(schema)))


def _is_used_up(expression: str, names: list[str], path: str) -> bool:
    """Whether an expression matches no other names than the listed ones."""
    if not names:
        return False
    others = {"type": "string", "pattern": expression, "allOf": [{"pattern": other_than(names, path)}]}
    return bool(LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(json.dumps(others))))
