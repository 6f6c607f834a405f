"""JSON schemas as `llguidance` is given them: within limits, valid, and saying nothing that it would not
enforce.

measure → validate against the metaschema → solve → emit → cut what cannot end → let the library compile it
"""

from __future__ import annotations

import json
from typing import Any

from llguidance import LLMatcher, LLParserLimits

from headrace.text.structured.document import Document
from headrace.text.structured.emission import Emission
from headrace.text.structured.faults import InvalidSchema, UnsupportedSchema, invalid, unsupported
from headrace.text.structured.keywords import Node, subschemas
from headrace.text.structured.limits import measure
from headrace.text.structured.narrowing import ALL
from headrace.text.structured.patterns import readable
from headrace.text.structured.solver import Solver
from headrace.text.structured.unsatisfiable import PREFIX, cut, name_of

__all__ = ["InvalidSchema", "UnsupportedSchema", "check_schema", "json_grammar", "measure"]

MAX_NESTING = 100  # through references: the library recurses, and 400 are too much for it
LIMITS = LLParserLimits(verbose_errors=False, max_items_in_row=20_000, step_max_items=200_000)
# how answers are written: small models lose themselves in free whitespace, and \u escapes would let a name
# pass for another one
STYLE = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "coerce_one_of": False,
    "lenient": False,
    "json_allowed_escapes": 'nrbtf\\"',
}
MAX_TRIALS = 300  # definitions compiled to find the one that is at fault
MAX_CUTS = 20  # definitions that the library finds to be unsatisfiable


def check_schema(schema: object, param: str) -> None:
    """Raises InvalidSchema or UnsupportedSchema, whose `param` is the path of the keyword at fault."""
    json_grammar(schema, param)


def json_grammar(schema: object, param: str, allowed: frozenset[str] = ALL) -> str:
    """The schema as `llguidance` enforces it, as JSON text: a grammar of its own, or what follows %json in
    a Lark grammar. `allowed` are names of narrowings. Raises InvalidSchema or UnsupportedSchema, whose
    `param` is the path of the keyword at fault.
    """
    measure(schema, param)
    emission = Emission(Solver(Document(schema, param), allowed))
    definitions = emission.definitions
    for _ in range(MAX_CUTS):
        definitions = cut(definitions)
        if definitions[Emission.ROOT] is False:
            raise invalid(param, "nothing satisfies it")
        if _nesting(definitions) > MAX_NESTING:
            raise unsupported(param, f"more than {MAX_NESTING} subschemas in each other, through $ref")
        text = _written(Emission.ROOT, definitions)
        reason = _refusal(text)
        if not reason:
            return text
        definitions = _without_fault(reason, emission, definitions, param)
    raise unsupported(param, reason)


def _without_fault(
    reason: str, emission: Emission, definitions: dict[str, Node], param: str
) -> dict[str, Node]:
    """Without the innermost definition that the library finds to be unsatisfiable. Raises for another one
    that it does not compile.
    """
    path, found = param, None
    for where, name in emission.places[:MAX_TRIALS]:
        if definitions[name] is not False and (own := _refusal(_written(name, definitions))):
            path, reason, found = where, own, name
            break
    if "nsatisfiable" not in reason:
        raise unsupported(path, reason)
    if found is None or found == Emission.ROOT:
        raise invalid(path, reason)
    return {**definitions, found: False}


def _nesting(definitions: dict[str, Node]) -> int:
    """How deep the library recurses: it compiles a definition where it first meets a reference to it."""
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

    return deep({"$ref": PREFIX + Emission.ROOT}, 0)


def _written(root: str, definitions: dict[str, Node]) -> str:
    schema: dict[str, Any] = {"x-guidance": STYLE, "$ref": PREFIX + root, "$defs": definitions}
    return json.dumps(schema, ensure_ascii=False)


def _refusal(text: str) -> str:
    """Why the library does not compile it; empty if it does."""
    grammar = LLMatcher.grammar_from_json_schema(text)
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=LIMITS)
    return readable(messages[0]) if failed else ""
