"""JSON Schema's keywords: which contain subschemas, and translating older drafts to 2020-12."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Node = Any  # a JSON schema: an object or a boolean
Schema = dict[str, Any]

ONE = (
    "additionalProperties", "additionalItems", "items", "not", "if", "then", "else", "contains",
    "propertyNames", "unevaluatedProperties", "unevaluatedItems",
)  # fmt: skip
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")


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


def modern(schema: Schema, draft: int, *, lone_refs: bool) -> Schema:
    """The schema with the keywords of 2020-12. Its subschemas remain the same objects. `lone_refs`: ignore
    keywords beside a $ref, as drafts up to 7 do.
    """
    if lone_refs and "$ref" in schema:
        return {"$ref": schema["$ref"]}
    result = dict(schema)
    if draft < 2020 and isinstance(schema.get("items"), list):
        result.pop("items")
        result["prefixItems"] = schema["items"]
        if "additionalItems" in schema:
            result["items"] = schema["additionalItems"]
    result.pop("additionalItems", None)
    for exclusive, side in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(schema.get(exclusive), bool):  # as in draft 4
            result.pop(exclusive)
            if schema[exclusive] and side in result:
                result[exclusive] = result.pop(side)
    dependencies = result.pop("dependencies", {})
    if isinstance(dependencies, dict):
        for name, value in dependencies.items():
            keyword = "dependentRequired" if isinstance(value, list) else "dependentSchemas"
            result[keyword] = {**result.get(keyword, {}), name: value}
    return result
