"""JSON schemas as `llguidance` is given them: within limits, valid, and saying nothing that it would not
enforce.

measure → validate against the metaschema → solve → emit → cut what cannot end → let the library compile it
"""

from __future__ import annotations

import json

from llguidance import LLMatcher, LLParserLimits

from headrace.text.structured.document import Document
from headrace.text.structured.emission import Emission
from headrace.text.structured.faults import InvalidSchema, UnsupportedSchema, invalid, unsupported
from headrace.text.structured.keywords import LISTS, MAPS, ONE, Node, subschemas
from headrace.text.structured.limits import measure
from headrace.text.structured.narrowing import ALL
from headrace.text.structured.patterns import readable
from headrace.text.structured.solver import Solver
from headrace.text.structured.unsatisfiable import PREFIX, cut, name_of

__all__ = ["InvalidSchema", "UnsupportedSchema", "check_schema", "json_grammar", "measure"]

MAX_NESTING = 100  # through references: the library recurses, and 400 are too much for it
LIMITS = LLParserLimits(verbose_errors=False, max_items_in_row=20_000, step_max_items=200_000)
ESCAPES = {"json_allowed_escapes": 'nrbtf\\"'}
# how answers are written: small models lose themselves in free whitespace, and \u escapes would let a name
# pass for another one
STYLE = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "coerce_one_of": False,
    "lenient": False,
    **ESCAPES,
}
# what the library says where it cannot apply patternProperties to a listed member
INTERSECTIONS = ("circular references", "intersection stack")
MAX_CUTS = 4  # times that unsatisfiable definitions are left out


def check_schema(schema: object, param: str) -> None:
    """Raises InvalidSchema or UnsupportedSchema, whose `param` is the path of the keyword at fault."""
    json_grammar(schema, param)


def json_grammar(schema: object, param: str, allowed: frozenset[str] = ALL) -> str:
    """The schema as `llguidance` enforces it, as JSON text: a grammar of its own, or what follows %json in
    a Lark grammar. `allowed` are names of narrowings. Raises InvalidSchema or UnsupportedSchema, whose
    `param` is the path of the keyword at fault.
    """
    measure(schema, param)
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
        if definitions[Emission.ROOT] is False:
            raise invalid(_dead_end(emission, definitions) or param, "nothing satisfies it")
        if _nesting(definitions) > MAX_NESTING:
            raise unsupported(param, f"more than {MAX_NESTING} subschemas in each other, through $ref")
        text = _written(Emission.ROOT, definitions)
        reason = _refusal(text)
        if not reason:
            return text
        definitions = _without_faults(reason, emission, definitions, param)
    raise unsupported(param, reason)


def _without_faults(
    reason: str, emission: Emission, definitions: dict[str, Node], param: str
) -> dict[str, Node]:
    """Without the definitions that the library finds to be unsatisfiable. Raises for another one that it
    does not compile.
    """
    result = dict(definitions)
    for path, name in emission.places:
        own = _refusal(json.dumps(_alone(definitions[name])))
        if own and "nsatisfiable" not in own:
            raise unsupported(path, own)
        if own:
            result[name] = False
    if result == definitions:
        raise (invalid if "nsatisfiable" in reason else unsupported)(param, reason)
    return result


def _alone(node: Node) -> Node:
    """The node with all that it refers to allowed."""
    if not isinstance(node, dict) or name_of(node) is not None:
        return node is not False
    result = dict(node)
    for keyword in MAPS:
        if keyword in node:
            result[keyword] = {name: _alone(part) for name, part in node[keyword].items()}
    for keyword in LISTS:
        if isinstance(node.get(keyword), list):
            result[keyword] = [_alone(part) for part in node[keyword]]
    return result | {keyword: _alone(node[keyword]) for keyword in ONE if keyword in node}


def _dead_end(emission: Emission, definitions: dict[str, Node]) -> str | None:
    """The path of the innermost member that is required and cannot be."""
    paths = {name: path for path, name in emission.places}
    name, seen = name_of(emission.definitions[Emission.ROOT]), [Emission.ROOT]
    while name is not None and name not in seen:
        seen.append(name)
        node = emission.definitions[name]
        members = node.get("properties", {}) if isinstance(node, dict) else {}
        required = node.get("required", ()) if members else ()
        found = (name_of(members.get(member)) for member in required)
        name = next((one for one in found if one and definitions[one] is False), None)
    return paths.get(seen[-1])


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
    # anyOf: the library wants no $ref beside other keywords where definitions are recursive
    schema = {"x-guidance": STYLE, "anyOf": [{"$ref": PREFIX + root}], "$defs": definitions}
    return json.dumps(schema, ensure_ascii=False)


def _refusal(text: str) -> str:
    """Why the library does not compile it; empty if it does."""
    grammar = LLMatcher.grammar_from_json_schema(text)
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=LIMITS)
    return readable(messages[0]) if failed else ""
