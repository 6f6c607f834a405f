"""From the alternatives of each state to a schema that the library enforces to the letter: plain nodes of one
type, `anyOf` and `$ref`. Where the library has no way to say something, less is generated (narrowing.py) or the
schema is refused.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from llguidance import LLMatcher

from headrace.text.structured import patterns
from headrace.text.structured.faults import UnsupportedSchema, unsupported
from headrace.text.structured.formats import FORMATS, LIBRARY_FORMATS
from headrace.text.structured.keywords import Node, Schema
from headrace.text.structured.numbers import MAX_EXACT, number_schemas
from headrace.text.structured.record import Record, Shape, State, Term, kind_of
from headrace.text.structured.solver import Solver, found_in
from headrace.text.structured.unsatisfiable import PREFIX

MAX_STATES = 2_000  # definitions: a thousand properties compile in 0.1 s
MAX_ITEMS, MAX_LENGTH = 1_000, 1_000_000  # an upper bound beyond is lowered to this, a lower one refused
MAX_PATTERN, MAX_PATTERNS = 4_000, 50_000  # characters of one, and of all: the library takes the square of it
MAX_ORDERED, MAX_BLOCKS = 4, 8  # values of which all orders are written, places for more of them
EVERY_NAME = ("", ".*", "^", "^.*", ".*$", "$")  # expressions that are found in all names
ANY = "any"
_CONTROL = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
ANYTHING: dict[str, Node] = {
    "anyOf": [
        {"type": ["null", "boolean", "string"]},
        *number_schemas(Record()),
        {"type": "array", "items": {"$ref": PREFIX + ANY}},
        {"type": "object", "additionalProperties": {"$ref": PREFIX + ANY}},
    ]
}


class Emission:
    """`definitions` has a node for each state by name, ROOT for the whole; `places` the path of each, the
    innermost first; `unenforced` the paths of formats that are only annotations. `apart`: no listed member
    is in the reach of an expression for names. Raises InvalidSchema, UnsupportedSchema.
    """

    ROOT = "root"

    def __init__(self, solver: Solver, *, apart: bool = False) -> None:
        self._solver, self._document, self._apart = solver, solver.document, apart
        self._names: dict[State, str] = {}
        self._waiting: list[State] = []
        self._pattern_text = 0  # characters
        self.definitions: dict[str, Node] = {}
        self.places: list[tuple[str, str]] = []
        self.unenforced: dict[str, None] = {}
        self.definitions[self.ROOT] = self._reference((solver.term(self._document.root),))
        while self._waiting:
            state = self._waiting.pop()
            self.places.append((solver.part(state[0]).path, self._names[state]))
            self.definitions[self._names[state]] = self._alternatives(state)
        self.places.reverse()

    def _reference(self, state: State) -> Node:
        """The node for what must satisfy all of a state."""
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
            return [_values(record.values, record.values_path)] if record.values else []
        kinds = [kind for kind in ("null", "boolean", "number", "string", "array", "object") if record.has(kind)]
        if _says_nothing(record):
            return [self._reference(())]
        excluded = {kind: [value for value in record.excluded if kind_of(value) == kind] for kind in kinds}
        nodes: list[Node] = []
        for kind in kinds:
            others = excluded[kind]
            if kind == "null":
                nodes += [] if others else [{"type": "null"}]
            elif kind == "boolean":
                nodes += _flags(others)
            elif kind == "number":
                nodes += self._numbers_of(record, others)
            elif kind == "string":
                nodes += self._strings(record, others)
            elif not others or (others := self._relevant(record, others)) is not None:
                nodes += self._arrays(record) if kind == "array" else self._objects(record)
        return nodes

    def _relevant(self, record: Record, others: list[Any]) -> list[Any] | None:
        """Excluded arrays and objects cannot be avoided, but for empty ones."""
        if any(value for value in others):
            return None
        size = "minItems" if isinstance(others[0], list) else "minProperties"
        record.bounds[size] = max(1, record.bounds.get(size, 0))
        return []

    def _numbers_of(self, record: Record, others: list[Any]) -> list[Schema]:
        """The numbers between those that are excluded."""
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

    def _strings(self, record: Record, others: list[str]) -> list[Schema]:
        result: Schema = {"type": "string", **_bounds(record, "minLength", "maxLength", MAX_LENGTH)}
        found = list(record.expressions)
        for pattern, path in record.patterns:
            found += self._translated(pattern, path)
        for name, path in record.formats:
            if name in FORMATS:
                found += FORMATS[name]
            elif name in LIBRARY_FORMATS:
                own = LIBRARY_FORMATS[name]
                if result.setdefault("format", own) != own:
                    raise unsupported(path, f"both {own!r} and {result['format']!r}")
            else:
                self.unenforced[path] = None
        if others:
            found.append(_other_than(others, record.path))
        if found:
            result["pattern"] = found[0]
        if len(found) > 1:
            result["allOf"] = [{"pattern": pattern} for pattern in found[1:]]
        return [result]

    def _translated(self, pattern: str, path: str) -> list[str]:
        self._pattern_text += len(pattern)
        if len(pattern) > MAX_PATTERN or self._pattern_text > MAX_PATTERNS:
            limits = f"{MAX_PATTERN} characters, or {MAX_PATTERNS} together with others"
            raise unsupported(path, f"an expression longer than {limits}")
        try:
            found = patterns.translated(pattern)
        except patterns.Untranslatable as exc:
            raise unsupported(path, f"{pattern[:100]!r}: {exc}") from exc
        for one in found:
            reason = patterns.problem(one)
            if reason:
                raise unsupported(path, f"{pattern[:100]!r}: {reason}")
        return found

    def _arrays(self, record: Record) -> list[Schema]:
        result: Schema = {"type": "array", **_bounds(record, "minItems", "maxItems", MAX_ITEMS)}
        places: list[State | None] = []  # what must be contained at each of the first places
        for contained in record.contained:
            places += [(contained.term,)] * contained.least
            if contained.least or contained.most is not None:
                self._solver.need("contains_first", record.path, "'contains' is enforced at the first places")
        if len(places) > MAX_ITEMS:
            raise unsupported(f"{record.path}.minContains", f"more than {MAX_ITEMS} is not supported")
        absent = [(c.term[0], not c.term[1]) for c in record.contained if c.most is not None]
        if absent and len(record.contained) > 1:
            raise unsupported(f"{record.path}.maxContains", "not beside another 'contains'")
        if any(contained.most is not None and contained.most < contained.least for contained in record.contained):
            return []
        count = max([len(places), *(len(shape.prefix) for shape in record.arrays)])
        states = [_item(record.arrays, index) for index in range(count)]
        states = [
            (*state, *(places[index] if index < len(places) else absent)) for index, state in enumerate(states)
        ]
        rest = (*_item(record.arrays, count), *absent)
        if places:
            result["minItems"] = max(len(places), result.get("minItems", 0))
        if result.get("maxItems", MAX_ITEMS) < result.get("minItems", 0):
            return []
        if record.is_unique and result.get("maxItems", 2) > 1:
            return self._unique(record, result, states, rest)
        if states:
            result["prefixItems"] = [self._reference(_once(state)) for state in states]
        if rest or states or record.arrays:
            result["items"] = self._reference(_once(rest))
        else:
            result["items"] = self._reference(())
        return [result]

    def _unique(self, record: Record, result: Schema, states: Sequence[State], rest: State) -> list[Schema]:
        """Items that differ, whatever they are."""
        values = self._literals(rest) if not states else None
        least, most = result.get("minItems", 0), result.get("maxItems", MAX_ITEMS)
        if values is not None and len(values) <= MAX_ORDERED:
            sizes = range(least, min(most, len(values)) + 1)
            found = [list(some) for size in sizes for some in itertools.permutations(values, size)]
            return [_values(found, record.path)] if found else []
        self._solver.need("unique_items", f"{record.path}.uniqueItems", "items that differ are not tracked")
        if values is not None:
            blocks = min(most, len(values), max(least, MAX_BLOCKS))
            if least > blocks:
                return []
            cuts = [len(values) * index // blocks for index in range(blocks + 1)]
            parts = [values[start:end] for start, end in itertools.pairwise(cuts)]
            prefix: list[Node] = [_values(part, record.path) for part in parts]
            return [{**result, "prefixItems": prefix, "items": False, "maxItems": blocks}]
        if least > 1:
            raise unsupported(f"{record.path}.uniqueItems", "more than one item of values that are not listed")
        first = states[0] if states else rest
        return [{**result, "maxItems": 1, "items": self._reference(_once(first))}]

    def _literals(self, state: State) -> list[Any] | None:
        """All values of a state, if they are listed."""
        if not state:
            return None
        found = []
        for one in self._solver.records(_once(state)):
            if one.values is None:
                return None
            found += [value for value in one.values if value not in found]
        return found

    def _objects(self, record: Record) -> list[Schema]:
        names = list(dict.fromkeys([*(n for shape in record.objects for n in shape.named), *record.required]))
        properties = {name: self._member(record, name) for name in names}
        if any(properties[name] is False for name in record.required):
            return []
        for name in names:
            _check_values(name, record.path)
        keyed, rest = self._others(record, names)
        properties = {
            name: True if self._is_repeated(record, name, node, keyed) else node
            for name, node in properties.items()
        }
        if rest is False and not keyed and not any(properties.values()) and record.bounds.get("minProperties"):
            return []
        result: Schema = {"type": "object"}
        result |= self._counted(record, properties, keyed, rest)
        if keyed and "patternProperties" not in result:
            result["patternProperties"] = keyed
        if record.required or "required" in result:
            result["required"] = list(dict.fromkeys([*record.required, *result.get("required", ())]))
        listed = result.pop("properties", properties)
        closed = result.setdefault("additionalProperties", rest) is False and not result.get("patternProperties")
        listed = {name: node for name, node in listed.items() if not (closed and node is False)}
        return [result | ({"properties": listed} if listed else {})]

    def _member(self, record: Record, name: str) -> Node:
        if not self._solver.satisfies(name, record.names):
            return False
        return self._reference(self._solver.member(record, name))

    def _is_repeated(self, record: Record, name: str, node: Node, keyed: dict[str, Node]) -> bool:
        """Whether the library applies the same to a listed member, because an expression matches its name."""
        keys = (key for shape in record.objects for key in shape.patterns if found_in(key, name))
        return node is not False and any(keyed.get(patterns.translated(key)[0]) == node for key in keys)

    def _others(self, record: Record, names: list[str]) -> tuple[dict[str, Node], Node]:
        """What members of other names must satisfy, by pattern, and those of no pattern."""
        shapes = record.objects
        rest = _once(tuple(s.rest for s in shapes if s.rest is not None and not s.rest_if_unevaluated))
        if not any(shape.rest is not None for shape in shapes if not shape.rest_if_unevaluated):
            rest = tuple(shape.rest for shape in shapes if shape.rest is not None)
        keys = list(dict.fromkeys(pattern for shape in shapes for pattern in shape.patterns))
        if not keys and not record.names:
            return {}, False if self._is_closed(record, rest) else self._reference(rest)
        try:
            return self._keyed(record, keys, rest)
        except UnsupportedSchema as exc:
            if not names or not self._solver.allows("member_names"):
                raise
            del exc
            return {}, False

    def _is_closed(self, record: Record, rest: State) -> bool:
        """Whether an object that lists its members gets no others, though it might."""
        says_nothing = all(shape.rest is None for shape in record.objects)
        listed = {name for shape in record.objects for name in shape.named} | set(record.required)
        enough = record.bounds.get("minProperties", 0) <= len(listed)
        lists = any(shape.lists for shape in record.objects)
        return not rest and says_nothing and lists and enough and self._solver.allows("closed_objects")

    def _keyed(self, record: Record, keys: list[str], rest: State) -> tuple[dict[str, Node], Node]:
        """Members by expressions of their names, and others. Names of several expressions must satisfy all."""
        states = {key: _once(tuple(_terms_of_key(record.objects, key))) for key in keys}
        whole = [key for key in keys if key in EVERY_NAME]
        if self._apart and any(found_in(key, name) for key in keys for shape in record.objects for name in shape.named):
            raise unsupported(f"{record.path}.patternProperties", "listed members match")
        if record.names:
            terms = (term for state in states.values() for term in state)
            return self._named(record, _once((*terms, *(() if whole else rest))))
        if whole:
            return {}, self._reference(_once(tuple(term for key in whole for term in states[key])))
        keyed: dict[str, State] = {}
        for key in keys:
            path = f"{record.path}.patternProperties.{key}"
            (one, *more) = self._translated(key, path)
            if more:
                raise unsupported(path, "look-around in names")
            keyed[one] = _once((*keyed.get(one, ()), *states[key]))
        reason = _overlap(keyed)
        if reason:
            self._solver.need("member_names", f"{record.path}.patternProperties", reason)
            both = _once(tuple(term for state in keyed.values() for term in state))
            keyed = dict.fromkeys(list(keyed)[:1], both)
            rest = (self._solver.term(False),)
        return {one: self._reference(state) for one, state in keyed.items()}, self._reference(rest)

    def _named(self, record: Record, state: State) -> tuple[dict[str, Node], Node]:
        """propertyNames: the names as one expression, of members that must satisfy the state."""
        path = f"{record.path}.propertyNames"
        node = self._reference(state)
        alternatives: list[str] = []
        for one in self._solver.records(_once(tuple(record.names))):
            if one.values is not None:
                texts = [value for value in one.values if isinstance(value, str)]
                alternatives += [f"^{patterns.literal(text)}$" for text in texts]
            elif "string" in one.kinds:
                alternatives.append(self._name_pattern(one, path))
        if not alternatives:
            return {}, False
        if "" in alternatives:
            return {}, node
        if len(alternatives) > 1 and not all(one[:1] == "^" and one[-1:] == "$" for one in alternatives):
            raise unsupported(path, "several kinds of names")
        return {"|".join(f"(?:{one})" for one in alternatives): node}, False

    def _name_pattern(self, names: Record, path: str) -> str:
        """The expression for names; "" for all."""
        (schema,) = self._strings(names, [value for value in names.excluded if isinstance(value, str)])
        if "format" in schema or "allOf" in schema:
            raise unsupported(path, "names that must satisfy several conditions")
        bounds = schema.get("minLength", 0), schema.get("maxLength")
        if bounds == (0, None):
            return str(schema.get("pattern", ""))
        if "pattern" in schema:
            raise unsupported(path, "a pattern and a length")
        return f"^(?s:.){{{bounds[0]},{'' if bounds[1] is None else min(bounds[1], 1000)}}}$"

    def _counted(self, record: Record, properties: dict[str, Node], keyed: dict[str, Node], rest: Node) -> Schema:
        """minProperties and maxProperties: what is left of them, and what they change."""
        least = int(record.bounds.get("minProperties", 0))
        most = record.bounds.get("maxProperties")
        possible = [name for name, node in properties.items() if node is not False]
        required = list(record.required)
        result: Schema = {}
        only_listed = rest is False and not keyed
        if most is not None and not (only_listed and most >= len(possible)):
            if set(possible) == set(required) and (most > len(required) or only_listed) and not keyed:
                result["maxProperties"] = int(min(most, MAX_ITEMS))
            else:
                self._solver.need("member_count", f"{record.path}.maxProperties", "it cannot be counted")
                room = int(most) - len(required)
                optional = [name for name in possible if name not in required][:room]
                result["properties"] = {n: properties[n] for n in possible if n in required or n in optional}
                result["additionalProperties"], result["patternProperties"] = False, {}
                possible = list(result["properties"])
                only_listed = True
        if least <= len(required):
            return result
        if least == 1 and (not possible or (only_listed and "maxProperties" not in result)):
            return {**result, "minProperties": 1}
        optional = [name for name in possible if name not in required]
        missing = least - len(required)
        if len(optional) < missing:
            # the library does not see that a name occurs twice, and a reader counts it once
            reason = "more than 1 and more than are listed is not supported"
            raise unsupported(f"{record.path}.minProperties", reason)
        self._solver.need("member_count", f"{record.path}.minProperties", "it cannot be counted")
        return {**result, "required": [*required, *optional[:missing]]}


def _terms_of_key(shapes: Sequence[Shape], key: str) -> Iterator[Term]:
    """What members must satisfy whose names match an expression."""
    for shape in shapes:
        if key in shape.patterns:
            yield shape.patterns[key]
        elif shape.rest is not None and not shape.rest_if_unevaluated:
            yield shape.rest


def _overlap(keyed: Iterable[str]) -> str:
    """Why the library cannot tell apart the expressions of names; empty if it can."""
    names = dict.fromkeys(keyed, True)
    if len(names) < 2:
        return ""
    schema = json.dumps({"type": "object", "patternProperties": names})
    return patterns.readable(LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(schema)))


def _once(state: State) -> State:
    return tuple(dict.fromkeys(state))


def _item(shapes: Sequence[Shape], index: int) -> State:
    """What the item at an index must satisfy."""
    terms = (shape.prefix[index] if index < len(shape.prefix) else shape.rest for shape in shapes)
    return tuple(term for term in terms if term is not None)


def _says_nothing(record: Record) -> bool:
    empty = Record()
    return all(
        getattr(record, name) == getattr(empty, name)
        for name in (
            "kinds", "is_integer", "bounds", "multiples", "patterns", "expressions", "formats", "excluded", "is_unique",
            "objects", "arrays", "contained", "required", "names",
        )  # fmt: skip
    )


def _flags(others: list[Any]) -> list[Node]:
    left = [flag for flag in (False, True) if flag not in others]
    return [{"type": "boolean"}] if len(left) == 2 else [{"const": flag} for flag in left]


def _other_than(others: list[str], path: str) -> str:
    try:
        return patterns.other_than(others)
    except patterns.Untranslatable as exc:
        raise unsupported(path, str(exc)) from exc


def _values(values: list[Any], path: str) -> Schema:
    for value in values:
        _check_values(value, path)
    return {"const": values[0]} if len(values) == 1 else {"enum": values}


def _bounds(record: Record, least: str, most: str, limit: int) -> Schema:
    result: Schema = {}
    low, high = record.bounds.get(least, 0), record.bounds.get(most)
    if low > limit:
        raise unsupported(f"{record.path}.{least}", f"more than {limit} is not supported")
    if low > 0:
        result[least] = int(low)
    if high is not None:
        result[most] = int(min(high, limit))
    return result


def _check_values(value: object, path: str) -> None:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for item in value:
            _check_values(item, path)
    elif isinstance(value, str) and _CONTROL.search(value):
        raise unsupported(path, f"{value!r} has a control character that has no short escape in JSON")
    elif isinstance(value, int) and abs(value) > MAX_EXACT:
        raise unsupported(path, f"{value!r} is beyond ±2^53, where floats are not exact")
