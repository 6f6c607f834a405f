"""Solves states. A state is a list of subschemas that one value must, or must not, satisfy; its solution is a
list of alternatives without any choice (its disjunctive normal form). Each alternative accepts only values of
the state; together they may accept fewer than all of them (`NARROWINGS` in keywords.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headrace.text.structured.alternative import EXCLUDED, EXPRESSION, KINDS, NAMING, Alternative, canonical
from headrace.text.structured.document import Document, Part, State, Term
from headrace.text.structured.keywords import ALL_NARROWINGS, Node, Schema, UnsupportedSchema, unsupported
from headrace.text.structured.patterns import avoiding

MAX_ALTERNATIVES = 64  # of one state
MAX_STEPS = 15_000  # subschemas applied in total: about a second
DEPTH = 3  # of nested properties that `is_empty` examines
REFERENCES = ("$ref", "$recursiveRef", "$dynamicRef")
REFUSED = ("extends", "disallow", "divisibleBy")
ANNOTATIONS = {"$schema", "$id", "id", "$defs", "definitions", "title", "description", "default", "examples"}
NOT_OWN = {"$ref", "allOf", "anyOf", "oneOf", "enum", "const", EXCLUDED, "$comment"} | ANNOTATIONS

# bound → (type of values, the bound that excludes it, difference)
_OPPOSITES = {
    "minimum": ("number", "exclusiveMaximum", 0), "exclusiveMinimum": ("number", "maximum", 0),
    "maximum": ("number", "exclusiveMinimum", 0), "exclusiveMaximum": ("number", "minimum", 0),
    "minLength": ("string", "maxLength", -1), "maxLength": ("string", "minLength", 1),
    "minItems": ("array", "maxItems", -1), "maxItems": ("array", "minItems", 1),
    "minProperties": ("object", "maxProperties", -1), "maxProperties": ("object", "minProperties", 1),
}  # fmt: skip
# Keywords of which some violations are not written.
PARTIAL = {
    "const", "pattern", "format", "multipleOf", "uniqueItems", "items", "unevaluatedItems", "contains",
    "minContains", "maxContains", "patternProperties", "additionalProperties", "unevaluatedProperties",
    "propertyNames", "oneOf",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice that is still to be made between options, each a list of terms."""

    options: Sequence[Sequence[Term]]
    owners: frozenset[Term]  # the term with the choice and those that led to it; options must not lead back
    is_avoiding: bool = False  # the options are ways not to satisfy a schema: one is enough
    avoided: Part | None = None  # that schema


class Solver:
    """Solves the states of one document. `allowed`: names of narrowings. Methods raise InvalidSchema,
    UnsupportedSchema.
    """

    def __init__(self, document: Document, allowed: frozenset[str] = ALL_NARROWINGS) -> None:
        self.document, self._allowed = document, allowed
        self._known: dict[State, list[Alternative]] = {}
        self._solving: list[State] = []  # those that are being solved, the innermost last
        self._partial: set[State] = set()  # those of which an alternative may be missing
        self._opposites: dict[Part, list[list[Term]]] = {}
        self._own: dict[int, Part] = {}
        self._requiring: dict[str, Node] = {}
        self._steps = 0

    def allows(self, narrowing: str) -> bool:
        return narrowing in self._allowed

    def need(self, narrowing: str, path: str, why: str) -> None:
        """Raise UnsupportedSchema unless the narrowing is allowed."""
        if narrowing not in self._allowed:
            raise unsupported(path, f"{why} (narrowing {narrowing!r} is not allowed)")

    def alternatives(self, state: State) -> list[Alternative]:
        """The alternatives of a state; an empty list: no value satisfies it."""
        if state not in self._known:
            self._solving.append(state)
            try:
                start = Alternative(self.document, is_alone=len(state) == 1)
                self._known[state] = list(self._expanded(start, state, [], frozenset()))
            finally:
                self._solving.pop()
        return self._known[state]

    def is_empty(self, state: State, depth: int = DEPTH) -> bool:
        """Whether certainly no value satisfies the state, as far as `depth` levels of required members
        show.
        """
        if state in self._solving:
            return False
        lack = all(self._lacks_a_member(one, depth) for one in self.alternatives(state))
        return lack and state not in self._partial

    def values(self, state: State) -> list[Any] | None:
        """All values of a state, if they are enumerated; else None."""
        values: list[Any] = []
        for one in self.alternatives(state):
            if one.values is None:
                return None
            values += [value for value in one.values if value not in values]
        return values

    def _lacks_a_member(self, one: Alternative, depth: int) -> bool:
        """Whether a required member has no value."""
        if depth == 0 or one.values is not None or one.kinds != ["object"]:
            return False
        self._step(len(one.parts) // 8)
        # Treated as additionalProperties, unevaluatedProperties may exclude too many of the other members.
        narrowed = one.having.get("unevaluatedProperties", ())
        names = [
            name
            for name in one.required
            if all(name in part.words.get("properties", ()) for part in narrowed)
        ]
        return any(self.is_empty(one.member(name), depth - 1) for name in names)

    def _step(self, count: int = 1) -> None:
        self._steps += count
        if self._steps > MAX_STEPS:
            raise unsupported(self.document.param, "too many combinations of subschemas")

    def _expanded(
        self, one: Alternative, terms: Sequence[Term], choices: list[Choice], owners: frozenset[Term]
    ) -> Iterator[Alternative]:
        """Yield the alternatives in which the terms hold too, and an option of each choice. Changes `one`."""
        choices = list(choices)
        if not all(self._apply(term, one, choices, owners) for term in terms):
            return
        if one.values is not None:
            choices = self._checked(one, choices)
        if one.is_empty():
            return
        if not choices:
            yield one
            return
        first, *rest = sorted(choices, key=lambda choice: choice.is_avoiding)
        yield from self._avoided(one, first, rest) if first.is_avoiding else self._chosen(one, first, rest)

    def _chosen(self, one: Alternative, choice: Choice, rest: list[Choice]) -> Iterator[Alternative]:
        """Yield alternatives of the options in turn, so that the limit omits no option."""
        turns = [self._expanded(one.copy(), option, rest, choice.owners) for option in choice.options]
        count = 0
        while turns:
            for turn in list(turns):
                alternative = next(turn, None)
                if alternative is None:
                    turns.remove(turn)
                    continue
                if count == MAX_ALTERNATIVES:
                    self.need("combinations", one.path or self.document.param, "too many combinations")
                    return
                count += 1
                yield alternative

    def _avoided(self, one: Alternative, choice: Choice, rest: list[Choice]) -> Iterator[Alternative]:
        """Yield alternatives of the first option that has one; of all options if no choice is left."""
        count, one = 0, replace(one, is_muted=True)
        for option in [*choice.options, *self._with_another_member(one, choice.avoided)]:
            for alternative in self._expanded(one.copy(), option, rest, choice.owners):
                count += 1
                yield alternative
            if (count and rest) or count >= MAX_ALTERNATIVES:
                self.need("one_of", one.path or self.document.param, "many ways to avoid a schema")
                return
        if not count and choice.avoided and choice.avoided.words.keys() & PARTIAL:
            self._partial.add(self._solving[-1])

    def _with_another_member(self, one: Alternative, avoided: Part | None) -> Iterator[list[Term]]:
        """Yield ways to avoid a closed object: requiring a member that it does not list."""
        words = avoided.words if avoided is not None else {}
        if words.get("additionalProperties") is False and not words.get("patternProperties"):
            for name in one.names_of("properties"):
                if name not in words.get("properties", {}):
                    node = self._requiring.setdefault(name, {"type": "object", "required": [name]})
                    yield [self.document.term(node, avoided)]

    def _checked(self, one: Alternative, choices: list[Choice]) -> list[Choice]:
        """Drop enumerated values that its parts exclude, or that schemas to avoid accept. Returns the other
        choices.
        """
        satisfies = self.document.satisfies
        excluded = {canonical(value) for values in one.every(EXCLUDED) for value in values}
        unchecked = [self._own_keywords(part) for part in one.parts[one.num_checked :]]
        rejects = [choice.avoided for choice in choices if choice.avoided]
        one.num_checked = len(one.parts)
        one.values = [
            value
            for value in one.values or ()
            if canonical(value) not in excluded
            and all(satisfies(value, part, formats=True) for part in unchecked)
            and not any(satisfies(value, part, formats=False) for part in rejects)
        ]
        return [choice for choice in choices if not choice.avoided]

    def _own_keywords(self, part: Part) -> Part:
        """The part without subschemas for the same value, which are parts themselves."""
        if id(part.source) not in self._own:
            own = {name: value for name, value in part.source.items() if name not in NOT_OWN}
            self._own[id(part.source)] = Part(own, own, part.path, part.resolver)
        return self._own[id(part.source)]

    def _apply(self, term: Term, one: Alternative, choices: list[Choice], owners: frozenset[Term]) -> bool:
        """Add a subschema to the alternative, and its choices to the list. False: no value satisfies it."""
        self._step()
        part, holds = term
        if term in owners:
            return False  # its solution would depend on itself
        if isinstance(part.words, bool):
            return part.words == holds
        if term in one.seen:
            return True
        one.seen.add(term)
        if holds:
            return self._apply_words(part, one, choices, owners | {term})
        choices.append(self._avoiding(part, owners))
        return True

    def _apply_words(
        self, part: Part, one: Alternative, choices: list[Choice], owners: frozenset[Term]
    ) -> bool:
        self._refuse(part)
        if one.is_alone and "unevaluatedProperties" in part.words:
            one.unevaluated = part
        one.is_alone = one.is_alone and not part.words.keys() - {"$ref"} - ANNOTATIONS
        one.path = part.path
        for name in part.words:
            if name in NAMING:
                one.add(part)  # here, so that members keep the order of the source
            if not all(self._apply(below, one, choices, owners) for below in self._below(name, part)):
                return False
        one.add(part)
        choices += self._choices(part, owners)
        return True

    def _refuse(self, part: Part) -> None:
        for name in REFUSED:
            if name in part.words:
                raise unsupported(f"{part.path}.{name}", f"the keyword {name!r} is not supported")

    def _below(self, name: str, part: Part) -> Iterator[Term]:
        """The subschemas of a keyword that apply to the same value unconditionally."""
        if name in REFERENCES:
            yield self.document.term(self.document.target(name, part).source, part)
        elif name == "allOf":
            yield from (self.document.term(node, part) for node in part.words["allOf"])
        elif name == "not" and not (excluded := self.document.term(part.words["not"], part, holds=False))[1]:
            yield excluded

    def _choices(self, part: Part, owners: frozenset[Term]) -> Iterator[Choice]:
        words = part.words
        if "anyOf" in words:
            yield Choice([[self.document.term(node, part)] for node in words["anyOf"]], owners)
        if "not" in words and (doubly := self.document.term(words["not"], part, holds=False))[1]:
            yield Choice([[doubly]], owners, is_avoiding=True)
        if "oneOf" in words:
            yield Choice(self._exclusive(part), owners)

    def _avoiding(self, part: Part, owners: frozenset[Term]) -> Choice:
        """The ways not to satisfy a schema."""
        term = self.document.term
        if part not in self._opposites:
            targets = [self.document.target(name, part) for name in REFERENCES if name in part.words]
            terms = [term(node, part) for node in opposites(part.words)]
            terms += [term(target.source, part, holds=False) for target in targets]
            self._opposites[part] = [[one] for one in terms]
        options = self._opposites[part]
        # A single option may lead back to its owner: then the schema is avoided already.
        return Choice(options, owners | {(part, False)} if len(options) > 1 else owners, True, part)

    def _exclusive(self, part: Part) -> list[list[Term]]:
        """Each option of a oneOf, with those others that it must avoid and does not already exclude."""
        options = [self.document.term(node, part) for node in part.words["oneOf"]]
        literals = [_literals(term) for term in options]
        states = []
        for i, one in enumerate(options):
            avoided = []
            for j, (other, holds) in enumerate(options):
                mine, theirs = literals[i], literals[j]
                is_disjoint = mine is not None and theirs is not None and not mine & theirs
                if i != j and not is_disjoint and not self._excludes(one, (other, holds)):
                    avoided.append((other, not holds))
            if avoided and literals[i] is None:
                self.need("one_of", f"{part.path}.oneOf", f"a value may satisfy option {i} and another one")
            states.append([one, *avoided])
        return states

    def _excludes(self, one: Term, other: Term) -> bool:
        try:
            return one != other and self.is_empty((one, other))
        except UnsupportedSchema:
            if self._steps > MAX_STEPS:  # of the whole schema: the next pair would end here, too
                raise
            return False


def _literals(term: Term) -> set[str] | None:
    part, holds = term
    has_values = holds and isinstance(part.words, dict) and "enum" in part.words
    return set(map(canonical, part.words["enum"])) if has_values else None


def opposites(words: Schema) -> Iterator[Schema]:
    """Yield the alternatives to a schema of `keywords.modern`, the simplest first; `{"not": S}` in them is S
    negated.
    """
    for name in words.get("required", ()):
        yield {"type": "object", "properties": {name: False}}
    yield from _other_values(words)
    yield from _with_a_wrong_part(words)
    for part in words.get("allOf", ()):
        yield {"not": part}
    for keyword in ("anyOf", "oneOf"):
        if keyword in words:
            yield {"allOf": [{"not": part} for part in words[keyword]]}
    if "not" in words:
        yield {"allOf": [words["not"]]}


def _other_values(words: Schema) -> Iterator[Schema]:
    named = words.get("type", list(KINDS))
    others = [kind for kind in KINDS if kind not in named and not (kind == "number" and "integer" in named)]
    if others:
        yield {"type": others}
    if "enum" in words:
        yield {EXCLUDED: words["enum"]}
    for name, (kind, opposite, step) in _OPPOSITES.items():
        if name in words and not (opposite.startswith("max") and step and words[name] + step < 0):
            yield {"type": kind, opposite: words[name] + step}
    expression = avoiding(words["pattern"]) if "pattern" in words else None
    if expression is not None:
        yield {"type": "string", EXPRESSION: expression}


def _with_a_wrong_part(words: Schema) -> Iterator[Schema]:
    for name, part in words.get("properties", {}).items():
        yield {"type": "object", "required": [name], "properties": {name: {"not": part}}}
    parts: list[Node] = [*words.get("prefixItems", ()), *([words["items"]] if "items" in words else [])]
    for index, part in enumerate(parts):
        yield {"type": "array", "minItems": index + 1, "prefixItems": [*[True] * index, {"not": part}]}
    if "contains" in words and words.get("minContains", 1) > 0:
        yield {"type": "array", "items": {"not": words["contains"]}}
