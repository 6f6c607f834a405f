"""Writes the negation of a schema as a list of alternatives, none of which accepts a value of the schema.

Together they may accept fewer than all other values if the schema has a keyword of PARTIAL: "no match of a
pattern" cannot be written for all patterns.
"""

from __future__ import annotations

from collections.abc import Iterator

from headrace.text.structured.alternative import EXCLUDED, EXPRESSION, KINDS
from headrace.text.structured.keywords import Node, Schema
from headrace.text.structured.patterns import avoiding

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
