"""Some 370 JSON schemas of our own across the drafts' features. Each either compiles, and then no invalid
text may ever come of it, or is refused, and then at that path.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Schema = Any
DRAFT = "http://json-schema.org/draft-{:02d}/schema#"


@dataclass(frozen=True, slots=True)
class Case:
    """`refused`: the path that the refusal must name, "" for the schema as a whole; None: it compiles."""

    name: str
    schema: Schema
    refused: str | None = None


def cases() -> list[Case]:
    families = (
        _numbers,
        _strings,
        _formats,
        _arrays,
        _objects,
        _values,
        _references,
        _combined,
        _exclusive,
        _drafts,
        _realistic,
        _unsupported,
        _invalid,
    )
    found: list[Case] = []
    for family in families:
        for index, (schema, refused) in enumerate(family()):
            found.append(Case(f"{family.__name__[1:]}-{index}", schema, refused))
    return found


Pairs = Iterator[tuple[Schema, str | None]]


def _record(**properties: Schema) -> Schema:
    """A closed object that must have them all."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _numbers() -> Pairs:
    for kind in ("integer", "number"):
        for bounds in (
            {},
            {"minimum": 0},
            {"maximum": 100},
            {"minimum": -5, "maximum": 5},
            {"minimum": 18, "maximum": 65},
            {"exclusiveMinimum": 0},
            {"exclusiveMinimum": 0, "exclusiveMaximum": 1000},
            {"maximum": -1},
            {"minimum": 1_000_000},
            {"minimum": -1_234_567, "maximum": 98_765},
            {"exclusiveMaximum": 0},
            {"multipleOf": 5},
            {"multipleOf": 7, "minimum": 10, "maximum": 200},
            {"minimum": 1.5, "maximum": 2.5},
            {"minimum": -(2**53), "maximum": 2**53},
        ):
            yield {"type": kind, **bounds}, None
    yield {"type": "number", "minimum": 0, "maximum": 1}, None
    yield {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, None
    yield {"type": "number", "minimum": -90.0, "maximum": 90.0}, None
    yield {"type": "number", "minimum": 0.1, "maximum": 0.3}, None
    yield {"type": "number", "multipleOf": 0.25, "minimum": -2, "exclusiveMaximum": 2}, None
    yield {"type": ["number", "null"], "minimum": 3}, None
    yield {"minimum": 10, "maxLength": 3, "maxItems": 2, "maxProperties": 1}, None


def _strings() -> Pairs:
    for lengths in ((0, 5), (1, 1), (3, 10), (0, 0), (2, None), (10, 40), (0, 5000)):
        least, most = lengths
        yield {"type": "string", "minLength": least} | ({} if most is None else {"maxLength": most}), None
    for pattern in (
        "^[a-z]+$",
        "^[A-Z]{2}[0-9]{4}$",
        r"^\d{3}-\d{4}$",
        "^(foo|bar|baz)$",
        "^a|b$",
        "abc",
        "^x",
        "z$",
        r"^[^@\s]+@[^@\s]+\.[a-z]{2,}$",
        r"^#[0-9a-fA-F]{6}$",
        r"^v?\d+\.\d+\.\d+$",
        r"^\+?[1-9]\d{1,14}$",
        "^[äöüß]+$",
        "^日本.?$",
        r"^\w{1,8}$",
        r"^[\w.-]+$",
        "^(([0-9]{1,3})\\.){3}[0-9]{1,3}$",
        r"^/([a-z]+/)*$",
        r"^\\d$",
        '^"quoted"$',
        "^.{2,6}$",
        r"^[\[\]]{2}$",
        "^(a|ab)(c|bcd)(d*)$",
        r"^\S+ \S+$",
        r"^[^\n]*$",
    ):
        yield {"type": "string", "pattern": pattern}, None
    yield {"type": "string", "pattern": "^[a-z]+$", "minLength": 3, "maxLength": 6}, None
    yield {"type": "string", "pattern": "^[a-z]*$", "allOf": [{"pattern": "x"}, {"maxLength": 9}]}, None
    yield {"pattern": "^a+$", "type": ["string", "null"]}, None
    yield {"pattern": "^a+$"}, None


def _formats() -> Pairs:
    for name in ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"):
        yield {"type": "string", "format": name}, None
    yield {"type": "string", "format": "date", "pattern": "-02-29$"}, None
    yield {"type": "string", "format": "date-time", "pattern": "^20"}, None
    yield {"type": "string", "format": "email", "maxLength": 30}, None
    yield _record(id={"type": "string", "format": "uuid"}, on={"type": "string", "format": "date"}), None
    yield {"type": "integer", "format": "int64"}, None
    yield {"format": "ipv4"}, None


def _arrays() -> Pairs:
    for sizes in ({}, {"minItems": 1}, {"maxItems": 3}, {"minItems": 2, "maxItems": 4}, {"maxItems": 0}):
        for items in (
            {"type": "integer", "minimum": 0, "maximum": 9},
            {"enum": ["a", "b"]},
            {"type": "boolean"},
        ):
            yield {"type": "array", "items": items, **sizes}, None
    point = {"type": "number", "minimum": -1, "maximum": 1}
    yield {"type": "array", "prefixItems": [point, point], "items": False, "minItems": 2}, None
    yield (
        {"type": "array", "prefixItems": [{"const": "x"}, {"type": "null"}], "items": {"type": "boolean"}},
        None,
    )
    yield {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "minItems": 1, "maxItems": 3}, None
    yield (
        {
            "type": "array",
            "items": {"type": "array", "items": {"type": "null"}, "maxItems": 2},
            "maxItems": 2,
        },
        None,
    )
    yield {"type": "array", "items": False}, None
    yield {"type": "array", "uniqueItems": False, "items": {"type": "boolean"}}, None
    yield {"type": "array", "uniqueItems": True, "maxItems": 1, "items": {"type": "boolean"}}, None
    yield {"type": "array", "items": _record(k={"type": "boolean"}), "minItems": 1, "maxItems": 100_000}, None
    yield {"type": "array"}, None
    yield {"items": {"type": "boolean"}, "type": ["array", "null"]}, None


def _objects() -> Pairs:
    flag, number = {"type": "boolean"}, {"type": "integer", "minimum": 0, "maximum": 99}
    for names in (
        ("a",),
        ("a", "b"),
        ("first name", "größe", "日本", "a/b~c", 'q"uote', "back\\slash", "$ref"),
    ):
        properties = dict.fromkeys(names, flag)
        yield _record(**properties), None
        yield {"type": "object", "properties": properties, "additionalProperties": False}, None
        yield {"type": "object", "properties": properties, "required": [names[0]]}, None
        yield {"type": "object", "properties": properties, "additionalProperties": number}, None
        yield (
            {"type": "object", "properties": properties, "minProperties": 1, "additionalProperties": False},
            None,
        )
    yield {"type": "object"}, None
    yield {"type": "object", "additionalProperties": False}, None
    yield {"type": "object", "additionalProperties": number}, None
    yield {"type": "object", "required": ["a", "b"]}, None
    yield {"type": "object", "required": ["z"], "additionalProperties": number}, None
    yield {"type": "object", "patternProperties": {"^x-": flag}, "additionalProperties": False}, None
    yield {"type": "object", "patternProperties": {"^[0-9]+$": number, "^[a-z]+$": flag}}, None
    yield (
        {"type": "object", "properties": {"x-a": number}, "patternProperties": {"^x": {"type": "integer"}}},
        None,
    )
    yield {"type": "object", "additionalProperties": flag, "minProperties": 1, "maxProperties": 3}, None
    yield {"type": "object", "additionalProperties": flag, "maxProperties": 2}, None
    yield {"type": "object", "maxProperties": 0}, None
    yield {**_record(a=flag, b=flag), "minProperties": 2, "maxProperties": 5}, None
    yield {"type": "object", "properties": {"never": False, "ok": flag}}, None
    yield {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": number}, None
    yield {"type": "object", "properties": {"u": number}, "additionalProperties": {"type": "string"}}, None
    nested: Schema = {"type": "string", "maxLength": 4}
    for depth in range(12):
        nested = _record(**{f"level {depth}": nested})
        if depth % 4 == 3:
            yield nested, None


def _values() -> Pairs:
    for value in (
        None,
        True,
        0,
        -17,
        1.5,
        1e-7,
        1e21,
        "",
        "text",
        'é\n\t"\\/',
        [],
        [1, [2.5, "x"]],
        {},
        {"a": [None]},
    ):
        yield {"const": value}, None
    yield {"enum": ["red", "green", "blue"]}, None
    yield {"type": "string", "enum": ["a", 1, None, "b"]}, None
    yield {"type": ["string", "null"], "enum": ["low", "high", None]}, None
    yield {"enum": [1, 2.5, -3, "1", True, None, [], {"k": 1}]}, None
    yield {"enum": [f"option {index}" for index in range(500)]}, None
    yield {"enum": ["a", "ab", "abc", "b"], "minLength": 2}, None
    yield {"enum": [1, 5, 10, 15], "minimum": 4, "multipleOf": 5}, None
    yield {"enum": ["😀", "🎉", "ñandú", "\u202eright"]}, None
    yield True, None
    yield {}, None
    yield {"type": "null"}, None
    yield {"type": ["boolean", "null"]}, None
    yield {"type": ["integer", "boolean"]}, None
    yield {"title": "Flag", "description": "d", "default": 3, "examples": [2**70], "type": "boolean"}, None
    yield (
        {
            "$comment": "c",
            "deprecated": True,
            "readOnly": True,
            "x-order": 1,
            "nullable": True,
            "type": "null",
        },
        None,
    )


def _references() -> Pairs:
    flag = {"type": "boolean"}
    yield {"$defs": {"f": flag}, "$ref": "#/$defs/f"}, None
    yield (
        {"definitions": {"f": flag}, "type": "array", "items": {"$ref": "#/definitions/f"}, "maxItems": 3},
        None,
    )
    yield {"$defs": {"a b/c": flag}, "$ref": "#/$defs/a%20b~1c"}, None
    yield _record(a=flag, b={"$ref": "#/properties/a"}), None
    yield (
        {"$defs": {"x": {"$ref": "#/$defs/y"}, "y": {"$ref": "#/$defs/z"}, "z": flag}, "$ref": "#/$defs/x"},
        None,
    )
    yield {"$defs": {"s": {"type": "string"}}, "$ref": "#/$defs/s", "maxLength": 4}, None
    yield {"$id": "https://example.org/s.json", "$defs": {"f": flag}, "$ref": "#/$defs/f"}, None
    yield {"components": {"schemas": {"f": flag}}, "$ref": "#/components/schemas/f"}, None
    tree = _record(v={"type": "integer"}, kids={"type": "array", "items": {"$ref": "#"}, "maxItems": 2})
    yield tree, None
    link = {"type": "object", "properties": {"v": flag, "next": {"$ref": "#/$defs/n"}}, "required": ["v"]}
    yield {"$defs": {"n": {**link, "additionalProperties": False}}, "$ref": "#/$defs/n"}, None
    chain = _record(v=flag, next={"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]})
    yield {"$defs": {"n": chain}, "$ref": "#/$defs/n"}, None
    even = _record(odd={"anyOf": [{"type": "null"}, {"$ref": "#/$defs/odd"}]})
    odd = _record(even={"anyOf": [{"type": "null"}, {"$ref": "#/$defs/even"}]})
    yield {"$defs": {"even": even, "odd": odd}, "$ref": "#/$defs/even"}, None
    value = {"anyOf": [flag, {"type": "array", "items": {"$ref": "#/$defs/v"}, "maxItems": 2}]}
    yield {"$defs": {"v": value}, "$ref": "#/$defs/v"}, None
    endless = _record(next={"$ref": "#/$defs/e"})
    yield (
        {"$defs": {"e": endless}, "type": "object", "properties": {"e": {"$ref": "#/$defs/e"}, "f": flag}},
        None,
    )
    yield {"$defs": {"e": endless}, "anyOf": [flag, {"$ref": "#/$defs/e"}]}, None
    yield {"$defs": {"unused": {"not": {}}, "f": flag}, "$ref": "#/$defs/f"}, None


def _combined() -> Pairs:
    flag, text = {"type": "boolean"}, {"type": "string", "maxLength": 5}
    number = {"type": "integer", "minimum": 0}
    yield {"anyOf": [flag, number]}, None
    yield {"anyOf": [text, {"type": "null"}]}, None
    yield {"anyOf": [{"minimum": 5}, {"maxLength": 2}], "type": ["integer", "string"]}, None
    yield {"anyOf": [_record(a=flag), _record(b=number)]}, None
    yield {"anyOf": [False, flag]}, None
    yield {"type": "integer", "anyOf": [{"maximum": 3}, {"minimum": 10, "maximum": 12}]}, None
    yield {"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 30}]}, None
    yield {"allOf": [{"type": "integer"}, {"exclusiveMinimum": 0}, {"exclusiveMaximum": 50}]}, None
    yield (
        {"allOf": [{"multipleOf": 4}, {"multipleOf": 6}], "type": "integer", "minimum": 1, "maximum": 99},
        None,
    )
    yield {"allOf": [{"type": "number", "exclusiveMinimum": 0}, {"maximum": 1}]}, None
    yield {"allOf": [text, {"minLength": 2}, {"pattern": "^[a-z]"}]}, None
    yield {"allOf": [{"enum": [1, 2, 3, "a"]}, {"type": "integer"}]}, None
    a, b = ({"type": "object", "properties": {name: flag}, "required": [name]} for name in "ab")
    yield {"allOf": [a, b]}, None
    yield {"allOf": [a, b], "properties": {"c": number}, "required": ["c"]}, None
    yield {"allOf": [a, {"additionalProperties": flag}]}, None
    yield {"allOf": [{**a, "additionalProperties": number}, {"properties": {"z": {"maximum": 7}}}]}, None
    yield (
        {
            "type": "object",
            "properties": {"a": flag, "b": flag},
            "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        },
        None,
    )
    yield (
        {
            **_record(a=flag),
            "anyOf": [{"properties": {"a": {"const": True}}}, {"properties": {"a": {"const": False}}}],
        },
        None,
    )
    yield (
        {
            "allOf": [
                {"type": "array", "items": number},
                {"minItems": 1, "maxItems": 2},
                {"items": {"maximum": 9}},
            ]
        },
        None,
    )
    yield (
        {
            "allOf": [
                {"type": "array", "prefixItems": [flag]},
                {"items": {"type": ["boolean", "null"]}, "maxItems": 3},
            ]
        },
        None,
    )
    yield {"$defs": {"base": a}, "allOf": [{"$ref": "#/$defs/base"}], "properties": {"x": number}}, None
    yield {"$defs": {"base": a}, "$ref": "#/$defs/base", "properties": {"x": number}, "required": ["x"]}, None
    yield {"anyOf": [{"anyOf": [flag, {"type": "null"}]}, {"allOf": [number, {"maximum": 9}]}]}, None
    yield {"allOf": [True, {}, flag]}, None
    yield {"allOf": [{"type": "string", "format": "date"}, {"pattern": "^2024"}]}, None
    yield {"allOf": [{"type": "string", "format": "ipv4"}, {"maxLength": 9}]}, None
    yield {"allOf": [{"const": {"a": True}}, a]}, None
    yield {"properties": {"k": number}, "required": ["k"]}, None


def _exclusive() -> Pairs:
    flag, number = {"type": "boolean"}, {"type": "integer"}
    yield {"oneOf": [flag, {"type": "null"}]}, None
    yield {"oneOf": [{"const": "a"}, {"const": "b"}, {"type": "integer"}]}, None
    yield {"oneOf": [{"const": "x", "title": "X"}, {"const": "y", "title": "Y"}], "type": "string"}, None
    yield (
        {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "array", "items": flag, "maxItems": 2}]},
        None,
    )
    cat, dog = _record(kind={"const": "cat"}, lives=number), _record(kind={"const": "dog"}, good=flag)
    yield {"oneOf": [cat, dog]}, None
    yield {"$defs": {"c": cat, "d": dog}, "oneOf": [{"$ref": "#/$defs/c"}, {"$ref": "#/$defs/d"}]}, None
    kinds = {"type": "object", "required": ["kind"], "properties": {"kind": {"enum": ["a", "b"]}}}
    other = {"type": "object", "required": ["kind"], "properties": {"kind": {"enum": ["c"]}}}
    yield {"oneOf": [kinds, other]}, None
    yield {"oneOf": [_record(a=flag), _record(b=flag)]}, None
    yield (
        {"oneOf": [_record(a=flag), {"type": "object", "required": ["b"], "properties": {"b": number}}]},
        None,
    )
    yield {"oneOf": [{"allOf": [number, {"minimum": 1}]}, {"anyOf": [flag, {"type": "null"}]}]}, None
    expression = {"oneOf": [number, _record(op={"const": "+"}, of={"$ref": "#/$defs/e"})]}
    yield {"$defs": {"e": expression}, "$ref": "#/$defs/e"}, None
    yield {"oneOf": [number]}, None
    for options in (
        [number, {"type": "number"}],
        [flag, True],
        [{"type": "string"}, {"const": "a"}],
        [{"minimum": 1}, {"maximum": 2}],
        [{"type": "object", "required": ["a"]}, {"type": "object", "required": ["b"]}],
        [{"const": 1}, {"const": 1.0}],
        [{"$ref": "#"}, {"$ref": "#"}],
    ):
        yield {"oneOf": options}, "oneOf"
    yield _record(a={"anyOf": [{"oneOf": [{}, {}]}]}), "properties.a.anyOf.0.oneOf"
    yield {"oneOf": [{"const": index} for index in range(500)]}, None
    alike: Schema = {"type": "string"}
    for _ in range(4):
        alike = {"type": "object", "properties": dict.fromkeys("abcdef", alike), "required": list("abcdef")}
    yield {"$defs": {"a": alike}, "oneOf": [{"$ref": "#/$defs/a"}, {"allOf": [alike]}]}, "oneOf"


def _drafts() -> Pairs:
    flag = {"type": "boolean"}
    yield (
        {"$schema": DRAFT.format(4), "type": "integer", "minimum": 3, "exclusiveMinimum": True, "maximum": 5},
        None,
    )
    yield {"$schema": DRAFT.format(4), "type": "number", "maximum": 3, "exclusiveMaximum": False}, None
    yield {"$schema": DRAFT.format(4), "id": "http://example.org/x", "type": "null"}, None
    yield {"$schema": DRAFT.format(6), "const": "six"}, None
    tuple_ = {"type": "array", "items": [flag, {"type": "null"}], "additionalItems": False, "minItems": 1}
    yield {"$schema": DRAFT.format(7), **tuple_}, None
    yield (
        {
            "$schema": DRAFT.format(7),
            "type": "array",
            "items": [flag],
            "additionalItems": flag,
            "maxItems": 3,
        },
        None,
    )
    yield {"$schema": DRAFT.format(7), "type": "array", "items": flag, "additionalItems": False}, None
    beside = {"$ref": "#/definitions/f", "not": {}, "type": "string", "description": "does not count"}
    yield {"$schema": DRAFT.format(7), "definitions": {"f": flag}, "allOf": [beside]}, None
    yield {"$schema": "https://json-schema.org/draft/2019-09/schema", **tuple_}, None
    yield (
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "array", "prefixItems": [flag]},
        None,
    )
    yield {"$schema": DRAFT.format(4), "const": 1}, "const"
    yield {"$schema": DRAFT.format(7), "prefixItems": [flag], "items": flag}, "prefixItems"
    yield {"type": "array", "additionalItems": False}, "additionalItems"
    yield {"$schema": DRAFT.format(3), "type": "string"}, "$schema"
    yield {"$schema": "http://example.org/mine", "type": "string"}, "$schema"
    yield {"$schema": DRAFT.format(4), "$ref": 3}, "$ref"


def _realistic() -> Pairs:
    text, short = {"type": "string"}, {"type": "string", "maxLength": 12}
    unit = {"type": "string", "enum": ["celsius", "fahrenheit"]}
    yield {"type": "object", "properties": {"location": text, "unit": unit}, "required": ["location"]}, None
    person = {
        "title": "Person",
        "type": "object",
        "required": ["name", "age"],
        "properties": {
            "name": {"title": "Name", **text},
            "age": {"title": "Age", "type": "integer", "minimum": 0},
            "email": {"anyOf": [{"type": "string", "format": "email"}, {"type": "null"}], "default": None},
        },
    }
    yield person, None
    yield {"type": "array", "items": person, "minItems": 1, "maxItems": 2}, None
    step = _record(explanation=short, output=short)
    yield _record(steps={"type": "array", "items": step}, final_answer=short), None
    zod = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_record(n={"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991}),
    }
    yield zod, None
    yield (
        _record(
            verdict={"type": "string", "enum": ["yes", "no"]},
            confidence={"type": "number", "minimum": 0, "maximum": 1},
        ),
        None,
    )
    yield (
        _record(
            price={"type": "number", "exclusiveMinimum": 0},
            currency={"type": "string", "pattern": "^[A-Z]{3}$"},
        ),
        None,
    )
    address = _record(
        street=short, zip={"type": "string", "pattern": r"^\d{5}(-\d{4})?$"}, country={"const": "US"}
    )
    yield (
        {
            "$defs": {"Address": address},
            **_record(home={"$ref": "#/$defs/Address"}, work={"$ref": "#/$defs/Address"}),
        },
        None,
    )
    event = _record(
        id={"type": "string", "format": "uuid"},
        at={"type": "string", "format": "date-time"},
        tags={"type": "array", "items": short, "maxItems": 3},
    )
    yield event, None
    yield (
        _record(
            query=short,
            top_k={"type": "integer", "minimum": 1, "maximum": 50},
            filters={"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}},
        ),
        None,
    )
    yield (
        _record(
            command={"type": "string", "enum": ["view", "create"]},
            path={"type": "string", "pattern": "^/"},
            view_range={"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
        ),
        None,
    )
    search, done = (
        _record(type={"const": "search"}, query=short),
        _record(type={"const": "done"}, answer=short),
    )
    tagged = {
        "discriminator": {"propertyName": "type", "mapping": {"search": "#/$defs/S", "done": "#/$defs/D"}},
        "oneOf": [{"$ref": "#/$defs/S"}, {"$ref": "#/$defs/D"}],
    }
    yield {"$defs": {"S": search, "D": done}, **_record(action=tagged)}, None
    item = {
        "type": "object",
        "properties": {
            "type": {"enum": ["div", "button"]},
            "label": short,
            "children": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2},
        },
        "required": ["type"],
        "additionalProperties": False,
    }
    yield item, None
    yield {"name": "x", "strict": True, **_record(name=short)}, None
    yield (
        _record(
            answer={"type": ["string", "null"], "description": "or nothing"},
            sources={"type": "array", "items": {"type": "string", "format": "uri"}, "maxItems": 2},
        ),
        None,
    )
    yield (
        _record(
            x={"type": "number"},
            y={"type": "number"},
            label={"type": "string", "minLength": 1, "maxLength": 8},
        ),
        None,
    )
    yield (
        {
            "type": "object",
            "properties": {
                "host": {"type": "string", "format": "hostname"},
                "port": {"type": "integer", "minimum": 1, "maximum": 65535},
            },
            "required": ["host", "port"],
        },
        None,
    )
    yield (
        _record(
            sql={"type": "string", "pattern": "^SELECT "},
            limit={"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
        ),
        None,
    )
    yield (
        _record(
            matrix={
                "type": "array",
                "items": {
                    "type": "array",
                    "items": {"type": "integer", "minimum": 0, "maximum": 1},
                    "minItems": 3,
                    "maxItems": 3,
                },
                "minItems": 3,
                "maxItems": 3,
            }
        ),
        None,
    )
    yield (
        {
            "type": "object",
            "properties": {"großes Feld": short, "ключ": {"enum": ["да", "нет"]}},
            "required": ["ключ"],
        },
        None,
    )
    yield (
        {
            "type": "object",
            "patternProperties": {r"^\d{4}$": {"type": "array", "items": {"type": "integer"}, "maxItems": 2}},
            "additionalProperties": False,
        },
        None,
    )
    yield _record(**{f"field_{index}": {"type": "boolean"} for index in range(40)}), None


def _unsupported() -> Pairs:
    text = {"type": "string"}
    for keyword, value in (
        ("not", {"type": "string"}),
        ("if", {"type": "string"}),
        ("then", {}),
        ("else", {}),
        ("contains", text),
        ("dependentRequired", {"a": ["b"]}),
        ("dependentSchemas", {"a": {}}),
        ("minContains", 1),
        ("maxContains", 2),
        ("dependencies", {"a": ["b"]}),
        ("unevaluatedProperties", False),
        ("unevaluatedItems", False),
        ("$dynamicRef", "#x"),
        ("$recursiveRef", "#"),
        ("uniqueItems", True),
        ("propertyNames", {"pattern": "^a"}),
        ("propertyNames", {"maxLength": 3}),
        ("minProperties", 2),
        ("multipleOf", 0.01),
        ("multipleOf", 1.5),
        ("multipleOf", 100_000),
        ("minimum", 1e30),
        ("maximum", -(2**60)),
        ("exclusiveMinimum", 2.0**60),
        ("minItems", 5000),
        ("minLength", 10_000_000),
        ("const", 2**53 + 1),
        ("enum", [1, 2**64]),
        ("const", "\x01"),
        ("pattern", "(?=a)b"),
        ("pattern", "(?<!a)b"),
        ("pattern", r"(a)\1"),
        ("pattern", r"\bword\b"),
        ("pattern", "("),
        ("pattern", "[a-z&&[^b]]"),
        ("pattern", "[[a]"),
        ("format", "uri-reference"),
        ("format", "regex"),
        ("format", "json-pointer"),
        ("format", "no-such"),
        ("$ref", "https://example.org/other.json"),
        ("$ref", "other.json#/a"),
        ("$ref", "#anchor"),
    ):
        yield {keyword: value}, keyword
    yield {"type": "number", "exclusiveMinimum": 2e9}, "exclusiveMinimum"
    yield _record(a={"type": "array", "items": {"not": text}}), "properties.a.items.not"
    yield {"$defs": {"bad": {"if": text}}, "$ref": "#/$defs/bad"}, "$defs.bad.if"
    yield {"anyOf": [text, {"contains": {}}]}, "anyOf.1.contains"
    yield {"properties": {"a": {"$id": "https://example.org/a"}}}, "properties.a.$id"
    yield {"patternProperties": {"(?!x)": {}}}, "patternProperties.(?!x)"
    yield {"type": "object", "patternProperties": {"^a": {}, "b$": {}}}, ""
    yield (
        {"allOf": [{"patternProperties": {"^a": text}}, {"additionalProperties": False}]},
        "allOf.0.patternProperties",
    )
    yield {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "maxProperties": 2}, ""
    yield {"allOf": [{"multipleOf": 65_521}, {"multipleOf": 65_519}, {"multipleOf": 65_497}]}, ""
    nested: Schema = {}
    for _ in range(2000):
        nested = {"properties": {"a": nested}}
    yield nested, ""
    yield {"enum": [f"a fairly long value, number {index}" for index in range(150_000)]}, ""
    yield {"properties": {f"p{index}": {} for index in range(3000)}}, ""
    chain = {f"d{index}": {"properties": {"x": {"$ref": f"#/$defs/d{index + 1}"}}} for index in range(1000)}
    yield {"$defs": {**chain, "d1000": {}}, "$ref": "#/$defs/d0"}, ""
    options = [[{"properties": {f"{i}{j}": {}}, "required": [f"{i}{j}"]} for i in "abcd"] for j in range(12)]
    yield {"type": "object", "allOf": [{"anyOf": some} for some in options]}, ""


def _invalid() -> Pairs:
    for keyword, value, where in (
        ("type", "strnig", "type"),
        ("type", ["string", "any"], "type.1"),
        ("minimum", "3", "minimum"),
        ("required", "a", "required"),
        ("properties", [], "properties"),
        ("items", [{}], "items"),
        ("minLength", -1, "minLength"),
        ("enum", "a", "enum"),
        ("maxItems", 1.5, "maxItems"),
        ("anyOf", [], "anyOf"),
        ("additionalProperties", "no", "additionalProperties"),
        ("pattern", 3, "pattern"),
        ("$ref", "#/$defs/none", ""),
        ("$ref", "#/minimum", ""),
        ("multipleOf", 0, "multipleOf"),
    ):
        yield {keyword: value}, where
    yield {"properties": {"a": {"minimum": None}}}, "properties.a.minimum"
    yield {"x": {"f": {"type": 7}}, "$ref": "#/x/f"}, "x.f.type"
    schema: Schema
    for schema in (
        False,
        "string",
        None,
        [],
        {"enum": []},
        {"$ref": "#"},
        {"type": "integer", "minimum": 5, "maximum": 4},
    ):
        yield schema, ""
    yield {"type": "integer", "minimum": 1, "maximum": 4, "multipleOf": 5}, ""
    yield _record(a=False), ""
    yield {"type": "string", "pattern": "^a$", "minLength": 3}, ""
    yield {"allOf": [{"type": "string"}, {"type": "integer"}]}, ""
    yield {"allOf": [_record(a={}), _record(b={})]}, ""
    yield {"type": "array", "minItems": 3, "maxItems": 2}, ""
    yield {"const": float("nan")}, ""
    yield {"const": "\ud800"}, ""
    yield _record(next={"$ref": "#"}), "properties.next"
