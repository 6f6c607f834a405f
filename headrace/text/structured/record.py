"""One alternative of a schema, without any choice left: the requirements for values of each type."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.text.structured.document import Part
from headrace.text.structured.faults import unsupported
from headrace.text.structured.keywords import Schema

KINDS = frozenset({"null", "boolean", "number", "string", "array", "object"})
Term = tuple[int, bool]  # (number of a part, True: must be satisfied, False: must not)
State = tuple[Term, ...]  # terms that hold for one value together
LOWER = ("minLength", "minItems", "minProperties", "minimum", "exclusiveMinimum")
UPPER = ("maxLength", "maxItems", "maxProperties", "maximum", "exclusiveMaximum")


@dataclass(frozen=True, slots=True)
class Shape:
    """The requirements of one schema for an object's members, or for an array's items."""

    named: dict[str, Term] = field(default_factory=dict)
    patterns: dict[str, Term] = field(default_factory=dict)
    prefix: tuple[Term, ...] = ()
    rest: Term | None = None  # of other members, or of items after the prefix; None: unrestricted
    lists: bool = False  # the schema has `properties`, perhaps empty
    rest_if_unevaluated: bool = False  # `rest` comes from unevaluatedProperties
    evaluates: bool = True  # its members count as evaluated (unevaluatedProperties)


@dataclass(frozen=True, slots=True)
class Contained:
    """A `contains` with its minimum and maximum."""

    term: Term
    least: int
    most: int | None


@dataclass(slots=True)
class Record:
    """The requirements for one value."""

    kinds: frozenset[str] = KINDS
    is_integer: bool = False  # only whole numbers
    bounds: dict[str, float] = field(default_factory=dict)  # by the keywords of LOWER and UPPER
    multiples: list[tuple[float, str]] = field(default_factory=list)  # with the path
    patterns: list[tuple[str, str]] = field(default_factory=list)
    expressions: list[str] = field(default_factory=list)  # patterns in llguidance's dialect
    formats: list[tuple[str, str]] = field(default_factory=list)
    values: list[Any] | None = None  # the value is one of these
    excluded: list[Any] = field(default_factory=list)  # the value is none of these
    is_unique: bool = False
    objects: list[Shape] = field(default_factory=list)
    arrays: list[Shape] = field(default_factory=list)
    contained: list[Contained] = field(default_factory=list)
    required: list[str] = field(default_factory=list)
    names: list[Term] = field(default_factory=list)  # of propertyNames
    checks: list[Part] = field(default_factory=list)  # parts that `values` must still be checked against
    rejects: list[Part] = field(default_factory=list)  # parts that none of `values` may satisfy
    seen: set[Term] = field(default_factory=set)
    is_muted: bool = False  # negated parts are being added, which evaluate no members
    is_alone: bool = False  # only one subschema, and what it refers to, was applied
    values_path: str = ""
    path: str = ""  # of the innermost schema with a requirement

    def copy(self) -> Record:
        return replace(
            self,
            bounds=dict(self.bounds),
            multiples=list(self.multiples),
            patterns=list(self.patterns),
            expressions=list(self.expressions),
            formats=list(self.formats),
            excluded=list(self.excluded),
            objects=list(self.objects),
            arrays=list(self.arrays),
            contained=list(self.contained),
            required=list(self.required),
            names=list(self.names),
            checks=list(self.checks),
            rejects=list(self.rejects),
            seen=set(self.seen),
        )

    def tighten(self, words: Schema, path: str) -> None:
        """Add a schema's requirements for the value itself, without those for members and items."""
        if "type" in words:
            self.restrict(words["type"] if isinstance(words["type"], list) else [words["type"]])
        for name in LOWER:
            if name in words:
                self.bounds[name] = max(self.bounds.get(name, -math.inf), words[name])
        for name in UPPER:
            if name in words:
                self.bounds[name] = min(self.bounds.get(name, math.inf), words[name])
        for name, target in (
            ("multipleOf", self.multiples), ("pattern", self.patterns), ("format", self.formats),
        ):  # fmt: skip
            if name in words and all(words[name] != known for known, _ in target):
                target.append((words[name], f"{path}.{name}"))
        for keyword in ("const", "enum"):
            if keyword in words:
                self.limit([words["const"]] if keyword == "const" else words["enum"])
                self.values_path = f"{path}.{keyword}"
        self.is_unique |= words.get("uniqueItems") is True
        self.required += [name for name in words.get("required", ()) if name not in self.required]

    def restrict(self, types: Iterable[str]) -> None:
        kinds = set(types)
        if "integer" in kinds and "number" not in kinds:
            self.is_integer = self.is_integer or "number" in self.kinds
        self.kinds &= {"number" if kind == "integer" else kind for kind in kinds}

    def limit(self, values: Iterable[Any]) -> None:
        """Restrict the value to these."""
        if self.values is None:
            self.values = list({canonical(value): value for value in values}.values())
        else:
            known = {canonical(value) for value in values}
            self.values = [value for value in self.values if canonical(value) in known]

    def is_empty(self) -> bool:
        """Whether it is certain, without solving, that no value satisfies the record."""
        if self.values is not None:
            return not self.values
        return not any(self.has(kind) for kind in self.kinds)

    def has(self, kind: str) -> bool:
        """Whether there may be values of this type."""
        if kind not in self.kinds:
            return False
        bound = self.bounds.get
        if kind == "number":
            low = max(bound("minimum", -math.inf), bound("exclusiveMinimum", -math.inf))
            high = min(bound("maximum", math.inf), bound("exclusiveMaximum", math.inf))
            return low < high or (low == high and low not in (self.exclusive()))
        if kind == "object" and len(self.required) > bound("maxProperties", math.inf):
            return False
        for one, name in (("string", "Length"), ("array", "Items"), ("object", "Properties")):
            if kind == one:
                return bound(f"min{name}", 0) <= bound(f"max{name}", math.inf)
        return True

    def exclusive(self) -> set[float]:
        return {self.bounds[name] for name in ("exclusiveMinimum", "exclusiveMaximum") if name in self.bounds}


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


def once(state: State) -> State:
    """The state without repeated terms."""
    return tuple(dict.fromkeys(state))


def terms_of_member(shapes: Sequence[Shape], name: str) -> Iterator[Term]:
    """The terms that an object's member of this name must satisfy."""
    evaluated = False
    for shape in shapes:
        matched = [term for pattern, term in shape.patterns.items() if found_in(pattern, name)]
        if name in shape.named:
            matched.append(shape.named[name])
        if not matched and shape.rest is not None and not shape.rest_if_unevaluated:
            matched.append(shape.rest)
        evaluated = evaluated or (shape.evaluates and bool(matched))
        yield from matched
    if not evaluated:
        yield from (shape.rest for shape in shapes if shape.rest_if_unevaluated and shape.rest is not None)


def found_in(pattern: str, name: str) -> bool:
    """Whether the pattern matches somewhere in the name, as Python's validators decide it. Raises
    UnsupportedSchema.
    """
    try:
        return re.search(pattern, name) is not None
    except re.error as exc:
        raise unsupported("patternProperties", f"{pattern[:100]!r}: {exc}") from exc
