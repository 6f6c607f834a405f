"""Solves states. A state is a list of subschemas that one value must, or must not, satisfy; its solution is a
list of alternatives (records) without any choice. Each alternative accepts only values of the state; together
they may accept fewer than all of them (see narrowing.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from headrace.text.structured.choices import Applied, Choice, dependent
from headrace.text.structured.document import Document, Part
from headrace.text.structured.faults import UnsupportedSchema, unsupported
from headrace.text.structured.keywords import Node, Schema
from headrace.text.structured.narrowing import ALL
from headrace.text.structured.negation import EXCLUDED, EXPRESSION, opposites
from headrace.text.structured.record import Contained, Record, Shape, State, Term, canonical, once
from headrace.text.structured.record import terms_of_member as terms_of

MAX_RECORDS = 64  # alternatives of one state
MAX_STEPS = 15_000  # subschemas applied in total: about a second
DEPTH = 3  # of nested properties that `is_empty` examines
SHAPES = ("properties", "patternProperties", "additionalProperties")
ITEMS = ("prefixItems", "items", "unevaluatedItems")
NOT_OWN = {
    "$ref", "allOf", "anyOf", "oneOf", "enum", "const", EXCLUDED, "$schema", "$id", "id", "$defs",
    "definitions", "title", "description", "default", "examples", "$comment",
}  # fmt: skip
REFERENCES = ("$ref", "$recursiveRef", "$dynamicRef")
NO_OWNERS: frozenset[Term] = frozenset()
REFUSED = ("extends", "disallow", "divisibleBy")


class Solver:
    """Solves the states of one document. `allowed`: names of narrowings. Methods raise InvalidSchema,
    UnsupportedSchema.
    """

    def __init__(self, document: Document, allowed: frozenset[str] = ALL) -> None:
        self.document, self._allowed = document, allowed
        self._parts: list[Part] = []
        self._numbers: dict[object, int] = {}
        self._known: dict[State, list[Record]] = {}
        self._solving: set[State] = set()
        self._opposites: dict[int, list[list[Term]]] = {}
        self._own: dict[int, Part | None] = {}
        self._steps = 0

    def term(self, node: Node, near: Part | None = None, *, positive: bool = True) -> Term:
        while isinstance(node, dict) and len(node) == 1 and "not" in node:
            near = self.document.part(node, near)
            node, positive = node["not"], not positive
        if isinstance(node, bool):
            node, positive = node == positive, True
        key: object = node if isinstance(node, bool) else id(node)
        if key not in self._numbers:
            self._numbers[key] = len(self._parts)
            self._parts.append(self.document.part(node, near))
        return self._numbers[key], positive

    def part(self, term: Term) -> Part:
        return self._parts[term[0]]

    def need(self, name: str, path: str, why: str) -> None:
        """Raise UnsupportedSchema unless the narrowing is allowed."""
        if name not in self._allowed:
            raise unsupported(path, f"{why} (narrowing {name!r} is not allowed)")

    def allows(self, name: str) -> bool:
        return name in self._allowed

    def satisfies(self, value: object, state: Iterable[Term]) -> bool:
        """Whether the value satisfies a state. Formats are checked in terms that must hold, and ignored in
        terms that must not.
        """
        return all(
            self.document.satisfies(value, self.part(term), formats=term[1]) == term[1] for term in state
        )

    def records(self, state: State) -> list[Record]:
        """The alternatives of a state; an empty list: no value satisfies it."""
        if state not in self._known:
            self._solving.add(state)
            try:
                self._known[state] = list(
                    self._solved(Record(is_alone=len(state) == 1), state, [], NO_OWNERS)
                )
            finally:
                self._solving.discard(state)
        return self._known[state]

    def is_empty(self, state: State, depth: int = DEPTH) -> bool:
        """Whether no value satisfies the state, as far as `depth` levels of required members show."""
        return state not in self._solving and all(
            self._lacks(record, depth) for record in self.records(state)
        )

    def _step(self, count: int) -> None:
        self._steps += count
        if self._steps > MAX_STEPS:
            raise unsupported(self.document.param, "too many combinations of subschemas")

    def _lacks(self, record: Record, depth: int) -> bool:
        if depth == 0 or record.values is not None or record.kinds != {"object"}:
            return False
        return any(self.is_empty(self.member(record, name), depth - 1) for name in record.required)

    def member(self, record: Record, name: str) -> State:
        """The state of an object's member of this name."""
        self._step(len(record.objects) // 8)
        return once(tuple(terms_of(record.objects, name)))

    def literals(self, state: State) -> list[Any] | None:
        """All values of a state, if they are enumerated; else None."""
        if not state:
            return None
        found: list[object] = []
        for one in self.records(once(state)):
            if one.values is None:
                return None
            found += [value for value in one.values if value not in found]
        return found

    def _solved(
        self, record: Record, terms: Sequence[Term], choices: list[Choice], owners: frozenset[Term]
    ) -> Iterator[Record]:
        """Yield the alternatives in which the terms hold, and one option of each choice."""
        made = Applied(choices, [])
        if not all(self._apply(term, record, made, owners) for term in terms):
            return
        for term, led in made.negatives:
            if term not in record.seen:
                record.seen.add(term)
                made.choices.append(self._avoiding(term, led))
        self._filter(record)
        if record.is_empty():
            return
        left = self._settled(record, made.choices)
        if not left:
            yield record
        elif left[0].is_avoiding:
            yield from self._avoided(record, left)
        else:
            yield from self._chosen(record, left)

    def _chosen(self, record: Record, choices: list[Choice]) -> Iterator[Record]:
        """Yield alternatives of the first choice's options in turn, so that the limit omits no option."""
        first, rest = choices[0], choices[1:]
        turns = [self._solved(record.copy(), option, list(rest), first.owners) for option in first.options]
        found = 0
        while turns:
            for turn in list(turns):
                alternative = next(turn, None)
                if alternative is None:
                    turns.remove(turn)
                    continue
                if found == MAX_RECORDS:
                    self.need("combinations", record.path or self.document.param, "too many combinations")
                    return
                found += 1
                yield alternative

    def _avoided(self, record: Record, choices: list[Choice]) -> Iterator[Record]:
        first, rest = choices[0], choices[1:]
        found, record = 0, replace(record, is_muted=True)
        for option in [*first.options, *self._with_another_member(record, first.avoided)]:
            for alternative in self._solved(record.copy(), option, list(rest), first.owners):
                found += 1
                yield alternative
            if (found and rest) or found >= MAX_RECORDS:
                self.need("one_of", record.path or self.document.param, "many ways to avoid a schema")
                return

    def _with_another_member(self, record: Record, avoided: Term | None) -> Iterator[list[Term]]:
        """Yield ways to avoid a closed object: requiring a member of the record that the object does not
        list.
        """
        part = self.part(avoided) if avoided else None
        words = part.words if part is not None and isinstance(part.words, dict) else {}
        if part is None or words.get("additionalProperties") is not False or words.get("patternProperties"):
            return
        for name in dict.fromkeys(name for shape in record.objects for name in shape.named):
            if name not in words.get("properties", {}):
                yield [self._made({"type": "object", "required": [name]}, part, "another", name)]

    def _settled(self, record: Record, choices: list[Choice]) -> list[Choice]:
        """The choices that remain, those between subschemas first. Enumerated values are checked directly
        instead.
        """
        if record.values is not None:
            record.rejects += [self.part(choice.avoided) for choice in choices if choice.avoided]
            choices = [choice for choice in choices if not choice.avoided]
            self._filter(record)
        return sorted(choices, key=lambda choice: choice.is_avoiding)

    def _filter(self, record: Record) -> None:
        if record.values is None:
            return
        satisfies = self.document.satisfies
        excluded = set(map(canonical, record.excluded))
        record.values = [
            value
            for value in record.values
            if canonical(value) not in excluded
            and all(satisfies(value, part, formats=True) for part in record.checks)
            and not any(satisfies(value, part, formats=False) for part in record.rejects)
        ]
        record.checks, record.rejects = [], []

    def _avoiding(self, term: Term, owners: frozenset[Term]) -> Choice:
        part = self.part(term)
        if term[0] not in self._opposites:
            found = [] if isinstance(part.words, bool) else opposites(part.words, self.document.draft)
            self._opposites[term[0]] = [[self.term(one, part)] for one in found]
            self._opposites[term[0]] += [[(number, False)] for number, _ in self._referred(part)]
        options = self._opposites[term[0]]
        # A single option may lead back to its owner: then the schema is avoided already.
        return Choice(options, owners | {term} if len(options) > 1 else owners, True, term)

    def _apply(self, term: Term, record: Record, made: Applied, owners: frozenset[Term]) -> bool:
        """Add a subschema's requirements to the record. False: no value satisfies them."""
        self._step(1)
        if term in owners:
            return False  # its solution would depend on itself
        if not term[1]:
            made.negatives.append((term, owners))
            return True
        part = self.part(term)
        if isinstance(part.words, bool) or term in record.seen:
            return part.words is not False
        record.seen.add(term)
        return self._apply_words(part, record, made, owners | {term})

    def _apply_words(self, part: Part, record: Record, made: Applied, owners: frozenset[Term]) -> bool:
        words = part.words
        for name in REFUSED:
            if name in words:
                raise unsupported(f"{part.path}.{name}", f"the keyword {name!r} is not supported")
        record.path = part.path
        is_outermost = record.is_alone
        record.is_alone &= not words.keys() - {
            "$ref",
            "$schema",
            "title",
            "description",
            "$defs",
            "definitions",
        }
        record.tighten(words, part.path)
        if part.is_made:
            record.excluded += words.get(EXCLUDED, [])
            record.expressions += [words[EXPRESSION]] if EXPRESSION in words else []
        self._check_later(part, record)
        for name in words:
            for below in self._in_place(name, words, part):
                if not self._apply(below, record, made, owners):
                    return False
            self._note(name, words, part, record, is_outermost=is_outermost)
        made.choices += self._choices(words, part, owners)
        return not record.is_empty()

    def _check_later(self, part: Part, record: Record) -> None:
        """Record a check of enumerated values against the schema's own keywords; subschemas that apply to the
        same value are checked when they are applied.
        """
        if part.words.keys() == {"$ref"}:
            return
        if id(part.source) not in self._own:
            own = {name: value for name, value in part.source.items() if name not in NOT_OWN}
            self._own[id(part.source)] = Part(own, own, part.path, part.base) if own else None
        check = self._own[id(part.source)]
        if check is not None:
            record.checks.append(check)

    def _in_place(self, name: str, words: Schema, part: Part) -> Iterator[Term]:
        """The terms of subschemas that apply to the same value unconditionally."""
        if name in REFERENCES:
            yield self.term(self.document.target(name, part).source, part)
        elif name == "allOf":
            yield from (self.term(one, part) for one in words["allOf"])
        elif name == "not" and not (excluded := self.term(words["not"], part, positive=False))[1]:
            yield excluded

    def _referred(self, part: Part) -> Iterator[Term]:
        for name in REFERENCES:
            if isinstance(part.words, dict) and name in part.words:
                yield self.term(self.document.target(name, part).source, part)

    def _note(self, name: str, words: Schema, part: Part, record: Record, *, is_outermost: bool) -> None:
        """Add a keyword's requirements for members and items. A shape is added at its first keyword, so that
        members keep the order of the source.
        """
        if name in SHAPES and name == next(one for one in words if one in SHAPES):
            shape = self._object(words, part)
            record.objects.append(replace(shape, evaluates=shape.evaluates and not record.is_muted))
        elif name == "unevaluatedProperties":
            other = self.term(words[name], part)
            if is_outermost:
                record.objects.append(Shape(rest=other, rest_if_unevaluated=True))
            else:  # without members that outer schemas evaluate: treated as additionalProperties
                record.objects.append(replace(self._object(words, part), rest=other))
        elif name in ITEMS and name == next(one for one in words if one in ITEMS):
            prefix = tuple(self.term(one, part) for one in words.get("prefixItems", ()))
            # unevaluatedItems is treated as items, which allows fewer arrays if other schemas evaluate some.
            rest = words.get("items", words.get("unevaluatedItems"))
            rest_items = None if rest is None else self.term(rest, part)
            record.arrays.append(Shape(prefix=prefix, rest=rest_items))
        elif name == "contains":
            least, most = int(words.get("minContains", 1)), words.get("maxContains")
            record.contained.append(Contained(self.term(words[name], part), least, most))
        elif name == "propertyNames":
            record.names.append(self.term(words[name], part))

    def _object(self, words: Schema, part: Part) -> Shape:
        named, patterns = (
            {name: self.term(one, part) for name, one in words.get(keyword, {}).items()}
            for keyword in ("properties", "patternProperties")
        )
        rest = words.get("additionalProperties")
        other = None if rest is None else self.term(rest, part)
        lists = "properties" in words and not part.is_made
        return Shape(named, patterns, rest=other, lists=lists, evaluates=not part.is_made)

    def _choices(self, words: Schema, part: Part, owners: frozenset[Term]) -> Iterator[Choice]:
        if "anyOf" in words:
            yield Choice([[self.term(one, part)] for one in words["anyOf"]], owners)
        if "not" in words and (excluded := self.term(words["not"], part, positive=False))[1]:
            yield Choice([[excluded]], owners, is_avoiding=True)  # not not
        if "oneOf" in words:
            yield Choice(self._exclusive([self.term(one, part) for one in words["oneOf"]], part), owners)
        if "if" in words and ("then" in words or "else" in words):
            condition = words["if"]
            yield Choice(
                [
                    [self.term(condition, part), self.term(words.get("then", True), part)],
                    [self.term(condition, part, positive=False), self.term(words.get("else", True), part)],
                ],
                owners,
            )
        for name, demanded in dependent(words):
            present = self._made({"required": [name], "allOf": [demanded]}, part, "present", name)
            absent = self._made({"properties": {name: False}}, part, "absent", name)
            yield Choice([[present], [absent]], owners)

    def _made(self, node: Schema, part: Part, *key: str) -> Term:
        """The term of a schema that is created here, the same for each part and key."""
        known = (id(part.source), *key)
        if known not in self._numbers:
            self._numbers[known] = self.term(node, part)[0]
        return self._numbers[known], True

    def _exclusive(self, options: list[Term], part: Part) -> list[list[Term]]:
        """Each option of a oneOf, with those others that it must avoid and does not already exclude."""
        literals = [self._literals(term) for term in options]
        found = []
        for i, one in enumerate(options):
            avoided = []
            for j, other in enumerate(options):
                if i == j:
                    continue
                mine, theirs = literals[i], literals[j]
                if mine is not None and theirs is not None and not mine & theirs:
                    continue
                if one == other or not self._excludes(one, other):
                    avoided.append((other[0], not other[1]))
            if avoided and (literals[i] is None):
                self.need("one_of", f"{part.path}.oneOf", f"a value may satisfy option {i} and another one")
            found.append([one, *avoided])
        return found

    def _excludes(self, one: Term, other: Term) -> bool:
        try:
            return self.is_empty((one, other))
        except UnsupportedSchema:
            return False

    def _literals(self, term: Term) -> set[str] | None:
        words = self.part(term).words
        if not term[1] or isinstance(words, bool) or not {"const", "enum"} & words.keys():
            return None
        return set(map(canonical, [words["const"]] if "const" in words else words["enum"]))
