"""Writes the negation of a schema as a list of alternatives, none of which accepts a value of the schema.

Together they may accept fewer than all other values: "no match of a pattern" cannot be written for all
patterns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headrace.text.structured.keywords import Node, Schema
from headrace.text.structured.patterns import avoiding

TYPES = ("null", "boolean", "number", "string", "array", "object")
# Keywords in schemas that are created here: excluded values, an expression in llguidance's dialect.
EXCLUDED, EXPRESSION = "x-excluded", "x-expression"
_OPPOSITES = {
    "minimum": ("number", "exclusiveMaximum", 0), "exclusiveMinimum": ("number", "maximum", 0),
    "maximum": ("number", "exclusiveMinimum", 0), "exclusiveMaximum": ("number", "minimum", 0),
    "minLength": ("string", "maxLength", -1), "maxLength": ("string", "minLength", 1),
    "minItems": ("array", "maxItems", -1), "maxItems": ("array", "minItems", 1),
    "minProperties": ("object", "maxProperties", -1), "maxProperties": ("object", "minProperties", 1),
}  # fmt: skip


def opposites(words: Schema, draft: int) -> list[Schema]:
    """The alternatives to a schema of 2020-12, the simplest first; `{"not": S}` in them is S negated."""
    return [
        *_without_a_member(words),
        *_of_other_types(words),
        *_other_values(words, draft),
        *_beyond_bounds(words),
        *_without_a_match(words),
        *_with_a_wrong_part(words),
        *_combined(words),
        *_conditional(words),
    ]


def _without_a_member(words: Schema) -> Iterator[Schema]:
    for name in words.get("required", ()):
        yield {"type": "object", "properties": {name: False}}


def _of_other_types(words: Schema) -> Iterator[Schema]:
    if "type" in words:
        named = words["type"] if isinstance(words["type"], list) else [words["type"]]
        others = [
            kind for kind in TYPES if kind not in named and not (kind == "number" and "integer" in named)
        ]
        if others:
            yield {"type": others}


def _other_values(words: Schema, draft: int) -> Iterator[Schema]:
    if "enum" in words:
        yield {EXCLUDED: words["enum"]}
    if "const" in words and draft > 4:
        yield {EXCLUDED: [words["const"]]}


def _beyond_bounds(words: Schema) -> Iterator[Schema]:
    for name, (kind, opposite, step) in _OPPOSITES.items():
        if name in words and not (opposite.startswith("max") and step and words[name] + step < 0):
            yield {"type": kind, opposite: words[name] + step}


def _without_a_match(words: Schema) -> Iterator[Schema]:
    expression = avoiding(words["pattern"]) if "pattern" in words else None
    if expression is not None:
        yield {"type": "string", EXPRESSION: expression}


def _with_a_wrong_part(words: Schema) -> Iterator[Schema]:
    for name, part in words.get("properties", {}).items():
        yield {"type": "object", "required": [name], "properties": {name: {"not": part}}}
    prefix = words.get("prefixItems", [])
    parts: list[Node] = [*prefix, *([words["items"]] if "items" in words else [])]
    for index, part in enumerate(parts):
        yield {"type": "array", "minItems": index + 1, "prefixItems": [*[True] * index, {"not": part}]}
    if "contains" in words and words.get("minContains", 1) > 0:
        yield {"type": "array", "items": {"not": words["contains"]}}


def _combined(words: Schema) -> Iterator[Schema]:
    for part in words.get("allOf", ()):
        yield {"not": part}
    for keyword in ("anyOf", "oneOf"):
        if keyword in words:
            yield {"allOf": [{"not": part} for part in words[keyword]]}
    if "not" in words:
        yield {"allOf": [words["not"]]}


def _conditional(words: Schema) -> Iterator[Schema]:
    if "if" in words:
        condition: Any = words["if"]
        if "then" in words:
            yield {"allOf": [condition, {"not": words["then"]}]}
        if "else" in words:
            yield {"allOf": [{"not": condition}, {"not": words["else"]}]}
    for name, others in words.get("dependentRequired", {}).items():
        for other in others:
            yield {"type": "object", "required": [name], "properties": {other: False}}
    for name, part in words.get("dependentSchemas", {}).items():
        yield {"type": "object", "required": [name], "not": part}
