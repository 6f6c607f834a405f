"""Writes objects for llguidance."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable

from llguidance import LLMatcher

from headrace.text.structured import patterns
from headrace.text.structured.alternative import Alternative, found_in, once
from headrace.text.structured.document import State
from headrace.text.structured.keywords import Node, Schema, UnsupportedSchema, unsupported
from headrace.text.structured.lookarounds import translated
from headrace.text.structured.solver import Solver
from headrace.text.structured.values import MAX_SIZES, Strings, check_values, other_than

EVERY_NAME = ("", ".*", "^", "^.*", ".*$", "$")  # expressions that match all names
# They match all names but the empty one and those with line ends, about which JavaScript and Python disagree:
# what may match must satisfy the expression's schema and that of other members.
NEARLY_EVERY_NAME = ("^.*$", ".+", "^.+", ".+$", "^.+$")

MAX_EXPRESSIONS = 100  # of names, in one object; llguidance compares each with each, in seconds for 200


class Objects:
    """Writes the objects of one schema. `reference`: state → node; `apart`: refuse listed members that match
    a patternProperties expression.
    """

    def __init__(
        self, solver: Solver, reference: Callable[[State], Node], strings: Strings, *, apart: bool
    ) -> None:
        self._solver, self._reference, self._strings, self._apart = solver, reference, strings, apart

    def nodes(self, one: Alternative) -> list[Schema]:
        """The nodes of an alternative's objects; an empty list: there are none. Raises UnsupportedSchema."""
        limited = one.state("propertyNames")
        kinds = self._solver.alternatives(limited) if limited else []
        words = [name for kind in kinds for name in kind.values or () if isinstance(name, str)]
        names = list(dict.fromkeys([*one.names_of("properties"), *one.required, *words]))
        check_values(names, one.path)
        listed = {name: self._member(one, name, limited) for name in names}
        if any(listed[name] is False for name in one.required):
            return []
        is_listed = limited and all(kind.values is not None for kind in kinds)
        keyed, rest = ({}, False) if is_listed else self._others(one, listed, limited)
        result: Schema = {"type": "object", "properties": listed, "additionalProperties": rest}
        result |= {"patternProperties": keyed, "required": list(one.required)}
        if not self._count(one, result):
            return []
        properties = result["properties"].items()
        if rest is False and not keyed:
            properties = [(name, node) for name, node in properties if node is not False]
        result["properties"] = {
            name: True if _is_repeated(name, node, one, keyed) else node for name, node in properties
        }
        return [{name: value for name, value in result.items() if value not in ({}, [])}]

    def _member(self, one: Alternative, name: str, limited: State) -> Node:
        if not one.document.satisfies_all(name, limited):
            return False
        return self._reference(one.member(name))

    def _others(
        self, one: Alternative, listed: dict[str, Node], limited: State
    ) -> tuple[dict[str, Node], Node]:
        """The nodes of members that are not listed: by expressions of their names, and the rest."""
        keys = one.names_of("patternProperties")
        rest = one.others()
        if not keys and not limited:
            return {}, False if self._is_closed(one, rest) else self._reference(rest)
        try:
            if limited:
                whole = [key for key in keys if key in EVERY_NAME]
                terms = [term for key in keys for term in one.matching(key)]
                state = once([*terms, *(() if whole else rest)])
                # llguidance would apply the schema of other members to listed ones, too.
                if state and any(node not in (False, self._reference(state)) for node in listed.values()):
                    raise unsupported(f"{one.path}.propertyNames", "listed members match")
                return self._named(one, state)
            return self._keyed(one, list(listed), keys, rest)
        except UnsupportedSchema:
            if not listed or not self._solver.allows("member_names"):
                raise
            return {}, False

    def _is_closed(self, one: Alternative, rest: State) -> bool:
        """Whether others than the listed members are left out (narrowing closed_objects)."""
        is_silent = all(one.rest(part) is None for part in one.parts) and one.unevaluated is None
        lists = any("properties" in part.words and not part.is_made for part in one.parts)
        enough = one.size("object")[0] <= len({*one.names_of("properties"), *one.required})
        return not rest and is_silent and lists and enough and self._solver.allows("closed_objects")

    def _keyed(
        self, one: Alternative, names: list[str], keys: list[str], rest: State
    ) -> tuple[dict[str, Node], Node]:
        """Grammar nodes of an object's members that are not listed: by regular expression of the name, and
        for all other names.
        """
        if len(keys) > MAX_EXPRESSIONS:
            raise unsupported(f"{one.path}.patternProperties", f"more than {MAX_EXPRESSIONS} expressions")
        if self._apart and any(found_in(key, name) for key in keys for name in names):
            raise unsupported(f"{one.path}.patternProperties", "listed members match")
        terms = [term for key in keys for term in one.matching(key)]
        nearly = [term for key in keys if key in NEARLY_EVERY_NAME for term in one.matching(key)]
        if any(key in EVERY_NAME for key in keys) or (nearly and not rest):
            if len(keys) > 1:
                why = "all names satisfy the schemas of all expressions"
                self._solver.need("member_names", f"{one.path}.patternProperties", why)
            return {}, self._reference(once(terms))
        rest = once((*rest, *nearly))
        keyed: dict[str, State] = {}
        for key in keys:
            path = f"{one.path}.patternProperties.{key}"
            (expression, *more) = self._strings.translated(key, path)
            if more:
                raise unsupported(path, "look-around in names")
            # llguidance would start a name that only listed ones match, and not be able to finish it.
            if not _is_used_up(expression, [name for name in names if found_in(key, name)], path):
                keyed[expression] = once((*keyed.get(expression, ()), *one.matching(key)))
        if reason := _overlap(keyed):
            self._solver.need("member_names", f"{one.path}.patternProperties", reason)
            all_terms = once(term for state in keyed.values() for term in state)
            keyed = dict.fromkeys(list(keyed)[:1], all_terms)
            rest = (one.document.term(False),)
        return {key: self._reference(state) for key, state in keyed.items()}, self._reference(rest)

    def _named(self, one: Alternative, state: State) -> tuple[dict[str, Node], Node]:
        """propertyNames: one expression for the names of members that must satisfy the state."""
        path = f"{one.path}.propertyNames"
        alternatives = [
            self._strings.name_pattern(names, path)
            for names in self._solver.alternatives(one.state("propertyNames"))
            if names.values is None and "string" in names.kinds
        ]
        if "" in alternatives:
            return {}, self._reference(state)
        if len(alternatives) > 1 and not all(each[:1] == "^" and each[-1:] == "$" for each in alternatives):
            raise unsupported(path, "several kinds of names")
        expression = "|".join(f"(?:{each})" for each in alternatives)
        return {expression: self._reference(state)} if alternatives else {}, False

    def _count(self, one: Alternative, result: Schema) -> bool:
        """Apply minProperties and maxProperties. False: no object satisfies them."""
        least, most = one.size("object")
        if most < math.inf:
            self._limit(int(min(most, MAX_SIZES["object"])), result, f"{one.path}.maxProperties")
        required, optional = result["required"], _optional(result)
        missing = least - len(required)
        if missing <= 0:
            return True
        is_complete = _is_complete(result)
        if is_complete and len(optional) < missing:
            return False
        if least == 1 and (not optional or (is_complete and "maxProperties" not in result)):
            result["minProperties"] = 1
            return True
        path = f"{one.path}.minProperties"
        if len(optional) < missing:
            # llguidance would count a repeated name twice, a reader of the JSON once.
            raise unsupported(path, "more than 1 and more than are listed is not supported")
        self._solver.need("member_count", path, "optional members are not counted")
        required += optional[:missing]
        return True

    def _limit(self, most: int, result: Schema, path: str) -> None:
        """Apply maxProperties."""
        required, optional = result["required"], _optional(result)
        if _is_complete(result) and most >= len(required) + len(optional):
            return
        if not optional and not result["patternProperties"]:
            result["maxProperties"] = most
            return
        self._solver.need("member_count", path, "optional members are not counted")
        some = {*required, *optional[: most - len(required)]}
        result["properties"] = {name: node for name, node in result["properties"].items() if name in some}
        result |= {"additionalProperties": False, "patternProperties": {}}


def _optional(node: Schema) -> list[str]:
    required = node["required"]
    return [name for name, below in node["properties"].items() if below is not False and name not in required]


def _is_complete(node: Schema) -> bool:
    """Whether there are no other members than the listed ones."""
    return node["additionalProperties"] is False and not node["patternProperties"]


def _is_repeated(name: str, node: Node, one: Alternative, keyed: dict[str, Node]) -> bool:
    """Whether a listed member's node is that of an expression that matches its name, which llguidance
    applies to it anyway.
    """
    keys = one.names_of("patternProperties") if node is not False and keyed else []
    matching = [key for key in keys if found_in(key, name)]
    return any(keyed.get(translated(key)[0]) == node for key in matching)


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
