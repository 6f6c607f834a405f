"""Writes JSON schemas in the subset that Anthropic accepts. Source: its documentation, "Structured outputs",
"JSON Schema limitations", and the API's own errors.
"""

from __future__ import annotations

from typing import Any

from headrace.dialects.values import an_object, objects
from headrace.finite import dumps, loads
from headrace.text.structured.keywords import everywhere
from headrace.types import Json

# Keywords that Anthropic refuses in schemas that it enforces. They become words of the description, as in its
# own clients.
IN_WORDS = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength",
    "maxItems", "uniqueItems", "minProperties", "maxProperties",
)  # fmt: skip
UNIONS = ("allOf", "anyOf", "oneOf")  # refused at the top of a tool's schema
MAX_DEPTH = 8  # of unions within them


def enforced(schema: Json, param: str, ignored: list[str]) -> Any:
    """Copy a schema, forbid undeclared members in its objects, and put what Anthropic cannot enforce into
    descriptions; `param` is then among `ignored`. Where an object has no members of its own, an
    `additionalProperties` that is there stays.
    """
    copy = loads(dumps(schema))  # a deepcopy would keep equal parts one object
    for _, node in everywhere(copy, ""):
        is_object = node.get("type") == "object" or isinstance(node.get("properties"), dict)
        if is_object and (node.get("properties") or "additionalProperties" not in node):
            node["additionalProperties"] = False
        if "oneOf" in node and "anyOf" not in node:
            node["anyOf"] = node.pop("oneOf")
        names = [name for name in IN_WORDS if name in node]
        names += ["minItems"] if node.get("minItems", 0) not in (0, 1) else []
        if names:
            words = ", ".join(f"{name}: {dumps(node.pop(name))}" for name in names)
            node["description"] = f"{node.get('description', '')}\n({words})".lstrip()
            ignored.append(param)
    return copy


def with_plain_top(schema: Json) -> Json:
    """Return the schema of a tool without UNIONS at its top: an object with all members of their objects, of
    which those are required that all alternatives require. The same schema if it has none.
    """
    return _plain(schema, schema, MAX_DEPTH, {})


def _plain(schema: Json, root: Json, depth: int, known: dict[int, Json]) -> Json:
    """`known`: what was made of each part, by its id: a part that many references name is read once."""
    if schema.keys().isdisjoint(UNIONS) or not depth:
        return schema
    if id(schema) in known:
        return known[id(schema)]
    plain = known[id(schema)] = {
        name: value for name, value in schema.items() if name not in (*UNIONS, "required")
    }
    properties, required = dict(an_object(schema.get("properties"))), _required(schema)
    for union in UNIONS:
        found = [_target(part, root) for part in objects(schema.get(union))]
        targets = {id(target): target for target in found}
        parts = [_plain(target, root, depth - 1, known) for target in targets.values()]
        for part in parts:
            for name, value in an_object(part.get("properties")).items():
                properties.setdefault(name, value)
        needed = [set(_required(part)) for part in parts] or [set()]
        common = set.union(*needed) if union == "allOf" else set.intersection(*needed)
        required += sorted(common - set(required))
    plain |= {"properties": properties, **({"required": required} if required else {})}
    return plain


def _required(schema: Json) -> list[str]:
    names = schema.get("required")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _target(part: Json, root: Json) -> Json:
    """What a reference within the schema names; the part itself if it is none."""
    found: object = root
    for step in str(part.get("$ref", "?")).removeprefix("#/").split("/"):
        found = an_object(found).get(step)
    return an_object(found) or part
