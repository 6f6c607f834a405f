"""JSON Schema's keywords: which contain subschemas, and translating older drafts to 2020-12; the errors of
schemas; and where fewer texts can be generated than a schema allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from headrace.errors import BadRequest, bounded

Node = Any  # a JSON schema: an object or a boolean
Schema = dict[str, Any]

ONE = (
    "additionalProperties", "additionalItems", "items", "not", "if", "then", "else", "contains",
    "propertyNames", "unevaluatedProperties", "unevaluatedItems",
)  # fmt: skip
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
# Keywords that say nothing about which values are allowed.
ANNOTATIONS = frozenset({
    "$anchor", "$comment", "$defs", "$dynamicAnchor", "$id", "$schema", "$vocabulary", "default",
    "definitions", "deprecated", "description", "example", "examples", "id", "readOnly", "title", "writeOnly",
})  # fmt: skip
# Keywords that restrict the values that are allowed.
RESTRICTIONS = frozenset({
    *ONE, *LISTS, *MAPS, "$dynamicRef", "$recursiveRef", "$ref", "const", "contentEncoding",
    "contentMediaType", "dependentRequired", "enum", "exclusiveMaximum", "exclusiveMinimum", "format",
    "maxContains", "maxItems", "maxLength", "maxProperties", "maximum", "minContains", "minItems",
    "minLength", "minProperties", "minimum", "multipleOf", "nullable", "pattern", "required", "type",
    "uniqueItems",
}) - ANNOTATIONS  # fmt: skip
# Keywords that `modern` expresses by others.
EXPRESSED = {
    "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "additionalItems",
}  # fmt: skip
MAX_REASON = 300  # characters of an error

# The places where fewer texts can be generated than a schema allows. No text outside the schema is ever among
# them. A request switches narrowings off by naming those that it allows (`schema_narrowing`); a schema that
# needs another one is then refused, but for closed_objects, without which objects simply stay open.
NARROWINGS = {
    "closed_objects": "Members that an object does not list, where it says nothing about others. A model "
    "that may invent members often does not stop.",
    "unique_items": "With `uniqueItems`: other orders of an enumeration of more than 4 values, and more than "
    "one item of other values.",
    "contains_first": "With `contains`: answers in which the required items do not come first.",
    "one_of": "With overlapping `oneOf`, `not` and `if`: all but the simplest ways to avoid a schema, such "
    "as omitting a member that it requires.",
    "combinations": "All but the first 64 combinations of many alternatives (`allOf` of `anyOf`, …).",
    "options": "Alternatives of `anyOf` or `oneOf` that cannot be enforced.",
    "member_names": "Names for which overlapping `patternProperties`, or `propertyNames`, cannot be "
    "enforced.",
    "member_count": "With `minProperties` above the number of required members: answers without the first "
    "optional ones; with `maxProperties`: answers with the last optional ones.",
}
ALL_NARROWINGS = frozenset(NARROWINGS)


def subschemas(node: Node) -> Iterator[tuple[str, Node]]:
    """Yield (path, schema) of the direct subschemas; paths are like `properties.name`."""
    if not isinstance(node, dict):
        return
    for keyword, value in node.items():
        if keyword in ONE and isinstance(value, dict | bool):
            yield keyword, value
        elif keyword in LISTS and isinstance(value, list):
            yield from ((f"{keyword}.{index}", part) for index, part in enumerate(value))
        elif keyword in MAPS and isinstance(value, dict):
            yield from (
                (f"{keyword}.{name}", part) for name, part in value.items() if isinstance(part, dict | bool)
            )


def everywhere(schema: Node, path: str) -> Iterator[tuple[str, Schema]]:
    """Yield (path, schema) of the schema and all subschemas in it that are objects, without recursion."""
    left = [(path, schema)]
    while left:
        path, node = left.pop()
        if isinstance(node, dict):
            yield path, node
            left += [(f"{path}.{step}", part) for step, part in subschemas(node)]


def mapped(node: Schema, change: Callable[[Node], Node]) -> Schema:
    """A copy of the schema in which each direct subschema is changed."""
    result = dict(node)
    for keyword, value in node.items():
        if keyword in ONE and isinstance(value, dict | bool):
            result[keyword] = change(value)
        elif keyword in LISTS and isinstance(value, list):
            result[keyword] = [change(part) for part in value]
        elif keyword in MAPS and isinstance(value, dict):
            result[keyword] = {name: change(part) for name, part in value.items()}
    return result


def modern(schema: Schema, draft: int, *, lone_refs: bool) -> Schema:
    """The schema in the keywords of 2020-12, without those that others can express: `const` becomes an
    `enum`, conditions and dependencies become an `anyOf` in `allOf`. Its subschemas remain the same objects.
    `lone_refs`: ignore keywords beside a $ref, as drafts up to 7 do.
    """
    if lone_refs and "$ref" in schema:
        return {"$ref": schema["$ref"]}
    result = dict(schema)
    if draft < 2020 and isinstance(schema.get("items"), list):
        result["prefixItems"] = result.pop("items")
        if "additionalItems" in schema:
            result["items"] = schema["additionalItems"]
    for exclusive, side in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(schema.get(exclusive), bool):  # as in draft 4
            result.pop(exclusive)
            if schema[exclusive] and side in result:
                result[exclusive] = result.pop(side)
    also: list[Node] = [{"anyOf": options} for options in (*_conditional(schema), *_dependent(schema))]
    if "const" in schema and draft > 4:  # draft 4 ignores it, so it must count for nothing in a negation
        also += [{"enum": schema["enum"]}] if "enum" in schema else []
        result["enum"] = [result.pop("const")]
    if also:
        result["allOf"] = [*schema.get("allOf", ()), *also]
    return {name: value for name, value in result.items() if name not in EXPRESSED}


def _conditional(schema: Schema) -> Iterator[list[Node]]:
    """Yield the options that `if` leaves."""
    if "if" in schema and ("then" in schema or "else" in schema):
        condition = schema["if"]
        yield [
            {"allOf": [condition, schema.get("then", True)]},
            {"allOf": [{"not": condition}, schema.get("else", True)]},
        ]


def _dependent(schema: Schema) -> Iterator[list[Node]]:
    """Yield the two options of each dependency: the member is there with what it demands, or it is absent."""
    demands: dict[str, list[Node]] = {}
    for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
        for name, value in schema.get(keyword, {}).items():
            demands.setdefault(name, []).append({"required": value} if isinstance(value, list) else value)
    for name, parts in demands.items():
        yield [{"required": [name], "allOf": parts}, {"properties": {name: False}}]


class InvalidSchema(BadRequest):
    """The schema is not a JSON schema, or no value satisfies it."""

    code = "invalid_schema"


class UnsupportedSchema(BadRequest):
    """A part of the schema cannot be enforced."""

    code = "unsupported_schema"


def invalid(path: str, reason: str) -> InvalidSchema:
    return InvalidSchema.at(path, bounded(reason, MAX_REASON))


def unsupported(path: str, reason: str) -> UnsupportedSchema:
    return UnsupportedSchema.at(path, bounded(reason, MAX_REASON))
