"""One alternative of a schema, without any choice left: subschemas that a value must satisfy together."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.text.structured.document import Document, Part, State, Term
from headrace.text.structured.keywords import Node, Schema, unsupported

KINDS = ("null", "boolean", "number", "string", "array", "object")
SIZES = {"string": "Length", "array": "Items", "object": "Properties"}
# Keywords of schemas that are created here: excluded values, an expression in llguidance's dialect.
EXCLUDED, EXPRESSION = "x-excluded", "x-expression"
RESTRICTING = {  # keywords that restrict a value by themselves
    "type", "enum", "const", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf",
    "minLength", "maxLength", "pattern", "format", "minItems", "maxItems", "uniqueItems", "prefixItems",
    "items",
    "unevaluatedItems", "contains", "minProperties", "maxProperties", "properties", "patternProperties",
    "additionalProperties", "unevaluatedProperties", "propertyNames", "required", EXCLUDED, EXPRESSION,
}  # fmt: skip
NAMING = {"properties", "patternProperties", "additionalProperties", "unevaluatedProperties"}
MEMBERS = "members"  # stands for any of NAMING
Side = tuple[float, bool]  # a bound of numbers, and whether it is excluded


@dataclass(slots=True)
class Alternative:
    """Subschemas that one value must satisfy. Their allOf, anyOf, oneOf, not and $ref are resolved: what is
    below these keywords is a part of its own, if it applies.
    """

    document: Document
    parts: list[Part] = field(default_factory=list)  # those that restrict the value by themselves
    having: dict[str, tuple[Part, ...]] = field(default_factory=dict)  # keyword → parts that have it
    seen: set[Term] = field(default_factory=set)  # terms that were applied
    values: list[Any] | None = None  # the value is one of these
    num_checked: int = 0  # so many parts were checked against `values`
    path: str = ""  # of the last part that was applied
    is_alone: bool = False  # only one subschema, and what it refers to, was applied
    is_muted: bool = False  # negated schemas are being applied, which evaluate no members
    unevaluated: Part | None = None  # its unevaluatedProperties hold for members that no part evaluates

    def copy(self) -> Alternative:
        return replace(self, parts=list(self.parts), having=dict(self.having), seen=set(self.seen))

    def add(self, part: Part) -> None:
        """Add a subschema, unless it was added."""
        keywords = part.words.keys() & RESTRICTING
        if not keywords or any(part.source is known.source for known in self.having.get(min(keywords), ())):
            return
        part = replace(part, is_made=True) if self.is_muted else part
        self.parts.append(part)
        for keyword in (*keywords, MEMBERS) if keywords & NAMING else keywords:
            self.having[keyword] = (*self.having.get(keyword, ()), part)
        if "enum" in keywords:
            self._limit(part.words["enum"])
        if "const" in keywords:
            self._limit([part.words["const"]])

    def narrowed(self, words: Schema) -> Alternative:
        """The alternative for values that satisfy the schema `words`, too."""
        copy = self.copy()
        copy.add(Part(words, words, self.path, self.document.resolver, is_made=True))
        return copy

    def every(self, keyword: str) -> list[Any]:
        """The values of a keyword in all parts."""
        return [part.words[keyword] for part in self.having.get(keyword, ())]

    def located(self, keyword: str) -> list[tuple[Any, str]]:
        """The (value, path) of a keyword in all parts."""
        return [(part.words[keyword], f"{part.path}.{keyword}") for part in self.having.get(keyword, ())]

    def state(self, keyword: str) -> State:
        """The subschemas of a keyword, such as propertyNames."""
        parts = self.having.get(keyword, ())
        return once(self.document.term(part.words[keyword], part) for part in parts)

    @property
    def kinds(self) -> list[str]:
        """The types that values may have; integers are of type number."""
        kinds = set(KINDS)
        for types in self.every("type"):
            named = types if isinstance(types, list) else [types]
            kinds &= {"number" if kind == "integer" else kind for kind in named}
        return [kind for kind in KINDS if kind in kinds and self._has(kind)]

    @property
    def is_integer(self) -> bool:
        """Whether numbers are whole."""
        return any("integer" in types and "number" not in types for types in self.every("type"))

    @property
    def required(self) -> list[str]:
        return list(dict.fromkeys(name for names in self.every("required") for name in names))

    def names_of(self, keyword: str) -> list[str]:
        """The names under `properties`, or the expressions under `patternProperties`."""
        return list(dict.fromkeys(name for names in self.every(keyword) for name in names))

    @property
    def values_path(self) -> str:
        part = next(part for part in reversed(self.parts) if "enum" in part.words or "const" in part.words)
        return f"{part.path}.{'const' if 'const' in part.source else 'enum'}"

    def excluded(self, kind: str) -> list[Any]:
        """The excluded values of a type."""
        return [value for values in self.every(EXCLUDED) for value in values if kind_of(value) == kind]

    def size(self, kind: str) -> tuple[int, float]:
        """The least and the greatest size of strings, arrays or objects."""
        low, high = f"min{SIZES[kind]}", f"max{SIZES[kind]}"
        return int(max(self.every(low), default=0)), min(self.every(high), default=math.inf)

    def interval(self) -> tuple[Side, Side]:
        """The bounds of numbers."""
        lows = [(value, False) for value in self.every("minimum")]
        lows += [(value, True) for value in self.every("exclusiveMinimum")]
        highs = [(-value, False) for value in self.every("maximum")]
        highs += [(-value, True) for value in self.every("exclusiveMaximum")]
        low, high = max(lows, default=(-math.inf, False)), max(highs, default=(-math.inf, False))
        return low, (-high[0], high[1])

    def is_empty(self) -> bool:
        """Whether it is certain, without solving subschemas, that no value satisfies the alternative."""
        return not self.kinds if self.values is None else not self.values

    def member(self, name: str) -> State:
        """The subschemas of an object's member."""
        terms: list[Term] = []
        is_evaluated = False
        for part in self.having.get(MEMBERS, ()):
            nodes = self._nodes(part, name)
            is_evaluated = is_evaluated or (bool(nodes) and not part.is_made)
            terms += [self.document.term(node, part) for node in nodes]
        return once(terms if is_evaluated else [*terms, *self._unevaluated()])

    def matching(self, pattern: str) -> State:
        """The subschemas of members whose names match an expression of patternProperties."""
        terms = []
        for part in self.having.get(MEMBERS, ()):
            node = part.words.get("patternProperties", {}).get(pattern, self.rest(part))
            terms += [] if node is None else [self.document.term(node, part)]
        return once(terms)

    def others(self) -> State:
        """The subschemas that apply to members which no part of the schema names."""
        rests = [(rest, part) for part in self.parts if (rest := self.rest(part)) is not None]
        return once([self.document.term(rest, part) for rest, part in rests] or self._unevaluated())

    def rest(self, part: Part) -> Node | None:
        """The part's schema for members that it does not name; None: it does not restrict them."""
        words = part.words
        # Elsewhere than outermost, it is treated as additionalProperties, which allows fewer members.
        inner = words.get("unevaluatedProperties") if part is not self.unevaluated else None
        return words.get("additionalProperties", inner)

    def item(self, index: int) -> State:
        """The subschemas of the item at an index."""
        terms = []
        for part in self.parts:
            prefix = part.words.get("prefixItems", ())
            # unevaluatedItems are treated as items, which allows fewer arrays if other parts evaluate some.
            rest = part.words.get("items", part.words.get("unevaluatedItems", True))
            terms.append(self.document.term(prefix[index] if index < len(prefix) else rest, part))
        return once(terms)

    def _unevaluated(self) -> list[Term]:
        """The subschema of members that no part evaluates."""
        part = self.unevaluated
        return [] if part is None else [self.document.term(part.words["unevaluatedProperties"], part)]

    def _nodes(self, part: Part, name: str) -> list[Node]:
        """The schemas that one part has for a member."""
        patterns, named = part.words.get("patternProperties", {}), part.words.get("properties", {})
        matching = [node for pattern, node in patterns.items() if found_in(pattern, name)]
        if name in named:
            matching.append(named[name])
        rest = None if matching else self.rest(part)
        return matching if rest is None else [rest]

    def _limit(self, values: list[Any]) -> None:
        known = None if self.values is None else set(map(canonical, self.values))
        unique = {canonical(value): value for value in values}
        self.values = [value for key, value in unique.items() if known is None or key in known]

    def _has(self, kind: str) -> bool:
        """Whether the bounds leave values of this type."""
        if kind == "number":
            (low, is_low_excluded), (high, is_high_excluded) = self.interval()
            return low < high or (low == high and not is_low_excluded and not is_high_excluded)
        if kind not in SIZES:
            return True
        low, high = self.size(kind)
        return low <= high and (kind != "object" or len(self.required) <= high)


def once(terms: Iterable[Term]) -> State:
    """A state without repeated terms, and without `true`."""
    return tuple(dict.fromkeys(term for term in terms if term[0].words is not True))


def canonical(value: object) -> str:
    """A text that is equal for values that are equal in JSON Schema (1 and 1.0)."""
    return json.dumps(_floats(value), sort_keys=True)


def _floats(value: object) -> object:
    if isinstance(value, list):
        return [_floats(item) for item in value]
    if isinstance(value, dict):
        return {name: _floats(item) for name, item in value.items()}
    exact = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**53
    return float(value) if exact else value  # type: ignore[arg-type]


def kind_of(value: object) -> str:
    if value is None:
        return "null"
    for type_, name in ((bool, "boolean"), ((int, float), "number"), (str, "string"), (list, "array")):
        if isinstance(value, type_):
            return name
    return "object"


def found_in(pattern: str, name: str) -> bool:
    """Whether the pattern matches somewhere in the name, as Python's validators decide it. Raises
    UnsupportedSchema.
    """
    try:
        return re.search(pattern, name) is not None
    except re.error as exc:
        raise unsupported("patternProperties", f"{pattern[:100]!r}: {exc}") from exc
