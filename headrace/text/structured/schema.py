"""JSON schemas as `llguidance` is given them: within limits, valid, and saying nothing that it would not
enforce.

measure → validate against the metaschema → translate → cut what cannot end → let the library compile it
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from jsonschema import exceptions, validators
from llguidance import LLMatcher, LLParserLimits

from headrace.text.structured.endless import PREFIX, cut, subschemas
from headrace.text.structured.translation import InvalidSchema, Node, Translation, UnsupportedSchema, readable

__all__ = ["InvalidSchema", "UnsupportedSchema", "check_schema", "json_grammar"]

MAX_DEPTH = 100  # arrays and objects in each other, as JSON
MAX_NESTING = (
    100  # subschemas in each other, through references: the library recurses, and 400 are too much for it
)
MAX_VALUES, MAX_OBJECTS, MAX_CHARACTERS = 50_000, 4_000, 2_000_000  # checked within a second or two
DRAFTS = {
    validators.Draft4Validator: 4,
    validators.Draft6Validator: 6,
    validators.Draft7Validator: 7,
    validators.Draft201909Validator: 2019,
    validators.Draft202012Validator: 2020,
}
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
MAX_TRIALS = 300  # subschemas compiled to find the one that is at fault


def check_schema(schema: object, param: str) -> None:
    """Raises InvalidSchema or UnsupportedSchema, whose `param` is the path of the keyword at fault."""
    json_grammar(schema, param)


def json_grammar(schema: object, param: str) -> str:
    """The schema as `llguidance` enforces it, as JSON text: a grammar of its own, or what follows %json in
    a Lark grammar. Raises InvalidSchema or UnsupportedSchema, whose `param` is the path of the keyword at
    fault.
    """
    measure(schema, param)
    kind = _validator(schema, param)
    validator = kind(kind.META_SCHEMA)

    def validate(node: Node, path: str) -> None:
        error = exceptions.best_match(validator.iter_errors(node))
        if error is not None:
            where = ".".join([path, *map(str, error.absolute_path)])
            raise InvalidSchema(f"{where}: {_shortened(error.message)}", param=where)

    translation = Translation(schema, param, DRAFTS[kind], validate)
    definitions = cut(translation.definitions)
    if definitions[Translation.ROOT] is False:
        raise InvalidSchema(f"{param}: nothing satisfies it", param=param)
    if _nesting(definitions) > MAX_NESTING:
        raise UnsupportedSchema(
            f"{param}: more than {MAX_NESTING} subschemas in each other, through $ref", param=param
        )
    text = _written({"$ref": PREFIX + Translation.ROOT}, definitions)
    reason = _refusal(text)
    if reason:
        _refuse(reason, translation, definitions, param)
    return text


def measure(schema: object, param: str) -> None:
    """Raises UnsupportedSchema beyond the limits, InvalidSchema for what JSON does not know. Not
    recursive.
    """
    level, values, objects, characters = [schema], 0, 0, 0
    for _ in range(MAX_DEPTH):
        values += len(level)
        objects += sum(isinstance(value, dict) for value in level)
        if values <= MAX_VALUES and objects <= MAX_OBJECTS:
            characters += sum(_length(value, param) for value in level)
        if values > MAX_VALUES or objects > MAX_OBJECTS or characters > MAX_CHARACTERS:
            limits = f"{MAX_VALUES} values, {MAX_OBJECTS} objects or {MAX_CHARACTERS} bytes of text"
            raise UnsupportedSchema(f"{param}: larger than {limits}", param=param)
        level = [item for value in level for item in _items(value)]
        if not level:
            return
    raise UnsupportedSchema(f"{param}: nested deeper than {MAX_DEPTH} levels", param=param)


def _length(value: object, param: str) -> int:
    """Of its own text. Raises InvalidSchema for what JSON does not know."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidSchema(f"{param}: {value} is no JSON number", param=param)
    try:
        return sum(len(text.encode()) for text in _texts(value))
    except UnicodeEncodeError as exc:
        raise InvalidSchema(f"{param}: a lone surrogate is no character", param=param) from exc


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value


def _items(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _validator(schema: object, param: str) -> Any:
    """The validator class of the draft that the schema names, else of 2020-12."""
    named = schema.get("$schema") if isinstance(schema, dict) else None
    if named is None:
        return validators.Draft202012Validator
    kind = (
        validators.validator_for({"$schema": named}, default=validators.Draft3Validator)
        if isinstance(named, str)
        else None
    )
    if kind not in DRAFTS:
        where = f"{param}.$schema"
        raise UnsupportedSchema(f"{where}: {named!r} is not a draft from 4 to 2020-12", param=where)
    return kind


def _nesting(definitions: dict[str, Node]) -> int:
    """How deep the library recurses: it compiles a definition where it first meets a reference to it."""
    seen: set[str] = set()

    def deep(node: Node, level: int) -> int:
        if level > MAX_NESTING:
            return level
        below = list(subschemas(node))
        name = node["$ref"].removeprefix(PREFIX) if isinstance(node, dict) and "$ref" in node else None
        if name is not None and name not in seen:
            seen.add(name)
            below.append(definitions[name])
        return max((deep(part, level + 1) for part in below), default=level)

    return deep({"$ref": PREFIX + Translation.ROOT}, 0)


def _written(root: dict[str, Any], definitions: dict[str, Node]) -> str:
    return json.dumps({"x-guidance": STYLE, **root, "$defs": definitions}, ensure_ascii=False)


def _refusal(text: str) -> str:
    """Why the library does not compile it; empty if it does."""
    grammar = LLMatcher.grammar_from_json_schema(text)
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=LIMITS)
    return readable(messages[0]) if failed else ""


def _refuse(reason: str, translation: Translation, definitions: dict[str, Node], param: str) -> None:
    """Raises for the innermost subschema that the library does not compile by itself."""
    unsatisfiable = "nsatisfiable" in reason
    path = param
    for where, node in translation.places[:MAX_TRIALS]:
        if _refusal(_written(node, definitions)):
            path, reason = where, _refusal(_written(node, definitions))
            break
    error = InvalidSchema if unsatisfiable else UnsupportedSchema
    raise error(f"{path}: {_shortened(reason)}", param=path)


def _shortened(message: str) -> str:
    return message if len(message) <= 300 else message[:300] + "…"
