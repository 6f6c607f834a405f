"""Measures JSON schemas, and compiles them for `llguidance`, which enforces some keywords only in part: they
are validated, solved, and written again in a form that it enforces exactly.

measure → validate against the metaschema → solve → emit → cut what has no finite value → let llguidance
compile
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from llguidance import LLMatcher, LLParserLimits

from headrace.text.structured.document import Document
from headrace.text.structured.emission import PREFIX, ROOT, Emission, cut, name_of, with_references
from headrace.text.structured.keywords import (
    ALL_NARROWINGS,
    InvalidSchema,
    Node,
    UnsupportedSchema,
    invalid,
    subschemas,
    unsupported,
)
from headrace.text.structured.patterns import readable
from headrace.text.structured.solver import Solver

__all__ = ["InvalidSchema", "UnsupportedSchema", "json_grammar", "measure"]

MAX_NESTING = 100  # through references: llguidance recurses, and overflows its stack at 400
LIMITS = LLParserLimits(verbose_errors=False, max_items_in_row=20_000, step_max_items=200_000)
ESCAPES = {"json_allowed_escapes": 'nrbtf\\"'}
# The style of generated JSON. Free white space leads small models into endless runs of it; \u escapes would
# let a name be written in a form that the grammar takes for another one.
STYLE = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "coerce_one_of": False,
    "lenient": False,
    **ESCAPES,
}
# Parts of llguidance's errors where it cannot apply patternProperties to a listed member.
INTERSECTIONS = ("circular references", "intersection stack")
MAX_CUTS = 4  # how often unsatisfiable definitions are removed
# Limits for the size of schemas. They are checked first, without recursion.
MAX_DEPTH = 100  # of nested arrays and objects
MAX_VALUES, MAX_OBJECTS, MAX_CHARACTERS = 50_000, 4_000, 2_000_000  # these take a second or two


def measure(schema: object, param: str) -> None:
    """Raise UnsupportedSchema beyond the limits, InvalidSchema for values that are not JSON."""
    level, values, objects, characters = [schema], 0, 0, 0
    for _ in range(MAX_DEPTH):
        values += len(level)
        objects += sum(isinstance(value, dict) for value in level)
        if values <= MAX_VALUES and objects <= MAX_OBJECTS:
            characters += sum(_length(value, param) for value in level)
        if values > MAX_VALUES or objects > MAX_OBJECTS or characters > MAX_CHARACTERS:
            limits = f"{MAX_VALUES} values, {MAX_OBJECTS} objects or {MAX_CHARACTERS} bytes of text"
            raise unsupported(param, f"larger than {limits}")
        level = [item for value in level for item in _items(value)]
        if not level:
            return
    raise unsupported(param, f"nested deeper than {MAX_DEPTH} levels")


def _length(value: object, param: str) -> int:
    """The bytes of a string, or of an object's names. Raises InvalidSchema for values that are not JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        raise invalid(param, f"{value} is no JSON number")
    try:
        return sum(len(text.encode()) for text in _texts(value))
    except UnicodeEncodeError as exc:
        raise invalid(param, "a lone surrogate is no character") from exc


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value


def _items(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def json_grammar(schema: object, param: str, allowed: frozenset[str] = ALL_NARROWINGS) -> str:
    """The schema for llguidance as JSON text: a grammar by itself, or the operand of %json in a Lark grammar.
    `allowed`: names of narrowings. Raises InvalidSchema or UnsupportedSchema, with the path of the keyword at
    fault as `param`.
    """
    measure(schema, param)
    try:
        return _grammar(schema, param, allowed)
    except RecursionError as exc:
        # Choices nest, too: a thousand conditions on one object are as deep as a thousand objects.
        raise unsupported(param, "too many subschemas that depend on each other") from exc


def _grammar(schema: object, param: str, allowed: frozenset[str]) -> str:
    solver = Solver(Document(schema, param), allowed)
    try:
        return _compiled(Emission(solver), param)
    except UnsupportedSchema as exc:
        if not any(reason in exc.message for reason in INTERSECTIONS) or "member_names" not in allowed:
            raise
    return _compiled(Emission(solver, apart=True), param)


def _compiled(emission: Emission, param: str) -> str:
    definitions = emission.definitions
    for _ in range(MAX_CUTS):
        definitions = cut(definitions)
        if definitions[ROOT] is False:
            raise invalid(_dead_end(emission, definitions) or param, "nothing satisfies it")
        if _nesting(definitions) > MAX_NESTING:
            raise unsupported(param, f"more than {MAX_NESTING} subschemas in each other, through $ref")
        text = _written(definitions)
        reason = _refusal(text)
        if not reason:
            return text
        definitions = _without_faults(reason, emission, definitions, param)
    raise unsupported(param, reason)


def _without_faults(
    reason: str, emission: Emission, definitions: dict[str, Node], param: str
) -> dict[str, Node]:
    """The definitions, with `false` for those that llguidance calls unsatisfiable. Raises InvalidSchema,
    UnsupportedSchema if it refuses one for another reason, or finds none.
    """
    result = dict(definitions)
    for path, name in emission.places:
        own = _refusal(json.dumps(with_references(definitions[name], lambda _: True)))
        if own and "nsatisfiable" not in own:
            raise unsupported(path, own)
        if own:
            result[name] = False
    if result == definitions:
        raise (invalid if "nsatisfiable" in reason else unsupported)(param, reason)
    return result


def _dead_end(emission: Emission, definitions: dict[str, Node]) -> str | None:
    """The path of the innermost required member that no value satisfies."""
    paths = {name: path for path, name in emission.places}
    name, seen = name_of(emission.definitions[ROOT]), [ROOT]
    while name is not None and name not in seen:
        seen.append(name)
        node = emission.definitions[name]
        members = node.get("properties", {}) if isinstance(node, dict) else {}
        required = node.get("required", ()) if members else ()
        names = (name_of(members.get(member)) for member in required)
        name = next((one for one in names if one and definitions[one] is False), None)
    return paths.get(seen[-1])


def _nesting(definitions: dict[str, Node]) -> int:
    """How deep llguidance recurses: it compiles a definition at the first reference to it."""
    seen: set[str] = set()

    def deep(node: Node, level: int) -> int:
        if level > MAX_NESTING:
            return level
        below = [part for _, part in subschemas(node)]
        name = name_of(node)
        if name is not None and name not in seen:
            seen.add(name)
            below.append(definitions[name])
        return max((deep(part, level + 1) for part in below), default=level)

    return deep({"$ref": PREFIX + ROOT}, 0)


def _written(definitions: dict[str, Node]) -> str:
    # anyOf, because llguidance accepts no $ref beside other keywords if definitions are recursive.
    schema = {"x-guidance": STYLE, "anyOf": [{"$ref": PREFIX + ROOT}], "$defs": definitions}
    return json.dumps(schema, ensure_ascii=False)


def _refusal(text: str) -> str:
    """Why llguidance does not compile the text; empty if it does."""
    grammar = LLMatcher.grammar_from_json_schema(text)
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=LIMITS)
    return readable(messages[0]) if failed else ""
