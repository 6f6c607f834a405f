"""Some 470 JSON schemas of our own across the drafts' features. Each either compiles, and then no invalid
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
        _negated,
        _conditional,
        _counted,
        _located,
        _unsupported,
        _invalid,
    )
    found: list[Case] = []
    for family in families:
        for index, (schema, refused) in enumerate(family()):
            found.append(Case(f"{family.__name__[1:]}-{index}", schema, refused))
    return found


LOOK_AROUND = (  # the last two: halves of pairs of surrogates, as cloud providers write them
    r"^(?!\s*$).+", r"^(?!\s+$)[^{}]*$", r"^(?!\d+$)[\da-f]+$", r"^(?!^[0-9]+$)([a-z0-9-]+)$",
    r"^(?![_-])[a-z_-]*$", r"^(?![aA][wW][sS]:)[a-zA-Z:]+$", r"^(?!a[0-9]{2}$)[a0-9]*$", r"^(?!a.)[ab]*$",
    r"^(?!.* {2})[a-z ]+$", r"^(?!.*\*\?)[*?a]*$", r"^[a-z](?!.*--)[a-z-]*$", r"^(?!.*\d)[a-z0-9]*$",
    r"^[0-9a-z.]*(?<!\.)$", r"^(?! )[a ]*(?<! )$", r"^[a-z.]+(?<!\.git)$", r"^[a-z]+(?<!a|b)$",
    r"^(?=^.{2,4}$)[a-z]*$", r"^(?!x\w$)(?!y)[xyz]*$",
    r"^[\u0020-\uD7FF\uE000-\uFFFD\uD800\uDBFF-\uDC00\uDFFF\t]*$", r"^[a-c\uD800-\uDFFF]*$",
)  # fmt: skip
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
    for options in (  # that overlap: what satisfies one of them alone is generated
        [flag, True],
        [{"type": "string"}, {"const": "a"}],
        [{"minimum": 1}, {"maximum": 2}],
        [{"type": "object", "required": ["a"]}, {"type": "object", "required": ["b"]}],
        [{"type": "string", "pattern": "^ab"}, {"type": "string", "maxLength": 4}],
        [{"properties": {"a": flag}, "required": ["a"]}, {"properties": {"b": flag}, "required": ["b"]}],
        [_record(a=flag), {"type": "object", "properties": {"a": flag, "b": flag}}],
        [{"type": "array", "items": flag, "minItems": 1}, {"type": "array", "maxItems": 2, "items": number}],
        [{"enum": [1, 2, 3]}, {"enum": [3, 4]}],
        [{"type": "object", "additionalProperties": False, "properties": {n: flag}} for n in "ab"],
    ):
        yield {"oneOf": options}, None
    l21 = [{"properties": {"kind": {"const": kind}}, "required": ["kind"]} for kind in "ab"]
    yield {"type": "object", "oneOf": l21}, None
    for nothing in (
        [number, {"type": "number"}],  # what is no whole number cannot be told from what is
        [{"const": 1}, {"const": 1.0}],
        [{"$ref": "#"}, {"$ref": "#"}],
    ):
        yield {"oneOf": nothing}, ""
    yield _record(a={"anyOf": [{"oneOf": [{}, {}]}]}), "properties.a"
    yield {"oneOf": [{"const": index} for index in range(500)]}, None
    alike: Schema = {"type": "string"}
    for _ in range(4):
        alike = {"type": "object", "properties": dict.fromkeys("abcdef", alike), "required": list("abcdef")}
    yield {"$defs": {"a": alike}, "oneOf": [{"$ref": "#/$defs/a"}, {"allOf": [alike]}]}, ""


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
    yield {"$schema": DRAFT.format(4), "const": 1}, None
    yield {"$schema": DRAFT.format(7), "prefixItems": [flag], "items": flag}, None
    yield {"type": "array", "additionalItems": False}, None
    for named in ("https://json-schema.org/draft-07/schema", "http://json-schema.org/schema#"):
        yield {"$schema": named, "type": "array", "items": flag, "maxItems": 2}, None
    dependent = {"a": ["b"], "c": {"required": ["d"]}}
    members = {"type": "object", "properties": dict.fromkeys("abcd", flag), "dependencies": dependent}
    yield {"$schema": DRAFT.format(4), **members}, None
    yield {"$schema": DRAFT.format(7), **members}, None
    branches = {"if": {"properties": {"a": {"const": True}}}, "then": {"required": ["b"]}}
    yield (
        {"$schema": DRAFT.format(7), **_record(a=flag), "properties": {"a": flag, "b": flag}, **branches},
        None,
    )
    for draft, later in (  # keywords of later drafts that those would not accept
        (4, {"contains": 5, "propertyNames": "x", "const": 1}),
        (6, {"if": 3, "then": "x", "else": []}),
        (7, {"dependentRequired": 3, "dependentSchemas": [{}], "prefixItems": 1, "minContains": "a"}),
        (7, {"if": {"unevaluatedItems": 3}, "then": {"dependentRequired": {"a": 1}}}),
    ):
        yield {"$schema": DRAFT.format(draft), "type": ["integer", "array"], **later}, None
    yield {"$schema": DRAFT.format(3), "type": "string"}, "$schema"
    yield {"$schema": "http://example.org/mine", "type": "string", "maxLength": 3}, None
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


def _negated() -> Pairs:
    text, flag, number = {"type": "string"}, {"type": "boolean"}, {"type": "integer"}
    members = {"type": "object", "properties": {"a": flag, "b": number, "c": text}}
    for excluded in (
        text,
        {"type": ["string", "null", "array"]},
        {"const": "a"},
        {"enum": ["a", "ab", 1, None, True, [], {}]},
        {"type": "string", "pattern": "^ab"},
        {"pattern": "[0-9]"},
        {"pattern": "\\.(zip|tar)$"},
        {"minLength": 3},
        {"maximum": 5},
        {"required": ["a"]},
        {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"allOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"properties": {"a": {"const": True}}, "required": ["a"]},
        {"not": {"type": "array", "maxItems": 2}},
        {"items": {"const": 1}, "type": "array"},
        {"contains": {"const": 1}},
    ):
        yield {"not": excluded}, None
        is_of_objects = {
            "required",
            "properties",
            "anyOf",
            "allOf",
            "type",
            "const",
            "enum",
        } & excluded.keys()
        yield {**members, "not": excluded}, None if is_of_objects else ""
    yield {"type": "string", "enum": ["a", "b", "c"], "not": {"const": "b"}}, None
    yield {"type": "integer", "minimum": 0, "maximum": 9, "not": {"enum": [0, 5, 9]}}, None
    yield {"type": "string", "not": {"enum": ["", "on", "off"]}}, None
    yield {"type": "string", "pattern": "^(?!tmp|\\.)[a-z.]+$"}, None
    yield {"type": "string", "pattern": "^(?=.*[0-9])(?=.*[a-z]).{3,8}$"}, None
    for pattern in LOOK_AROUND:
        yield {"type": "string", "pattern": pattern, "maxLength": 12}, None
    yield {"type": "string", "pattern": "^(?!.*--)[a-z-]+$"}, None
    yield {"not": {}}, "not"
    yield {"type": "string", "not": text}, ""


def _conditional() -> Pairs:
    text, flag, number = {"type": "string"}, {"type": "boolean"}, {"type": "integer"}
    members = {"type": "object", "properties": {"a": flag, "b": number, "c": text}}
    is_true = {"properties": {"a": {"const": True}}, "required": ["a"]}
    yield {"if": text}, None
    yield {"then": {}}, None
    yield {"else": {}}, None
    yield {"if": text, "then": {"maxLength": 3}, "else": number}, None
    yield {**members, "if": is_true, "then": {"required": ["b"]}, "else": {"required": ["c"]}}, None
    yield {**members, "required": ["a"], "if": is_true, "then": {"required": ["b"]}}, None
    yield {**members, "allOf": [{"if": is_true, "then": {"required": ["b"]}}, {"required": ["c"]}]}, None
    kinds = ("x", "y", "z")
    tagged = dict.fromkeys(kinds, number)
    rules = [
        {"if": {"properties": {"kind": {"const": kind}}}, "then": {"required": [kind]}} for kind in kinds
    ]
    yield {"type": "object", "properties": {**tagged, "kind": {"enum": [*kinds]}}, "required": ["kind"],
           "allOf": rules}, None  # fmt: skip
    yield {**members, "dependentRequired": {"a": ["b"], "c": ["a"]}}, None
    yield (
        {**members, "dependentSchemas": {"a": {"properties": {"b": {"maximum": 3}}, "required": ["b"]}}},
        None,
    )
    yield {"dependentRequired": {"a": ["b"]}}, None
    yield {"dependentSchemas": {"a": {}}}, None
    double = {"not": {"not": {"properties": {"bar": {"const": "bar"}}, "required": ["bar"]}}}
    yield {"properties": {"foo": text}, "type": "object", **double, "unevaluatedProperties": False}, ""
    yield {**members, "unevaluatedProperties": False}, None
    yield {**members, "allOf": [{"properties": {"d": flag}}], "unevaluatedProperties": False}, None
    yield {**members, "allOf": [{"unevaluatedProperties": False}]}, None
    yield (
        {"anyOf": [{"properties": {"a": flag}}, {"properties": {"b": flag}}], "unevaluatedProperties": False},
        None,
    )
    yield {"prefixItems": [flag], "unevaluatedItems": False, "type": "array"}, None
    yield {"$defs": {"t": {"type": "array", "items": {"$recursiveRef": "#"}}},
           "$schema": "https://json-schema.org/draft/2019-09/schema", "$ref": "#/$defs/t"}, None  # fmt: skip
    yield {"$defs": {"x": {"$dynamicAnchor": "x", **flag}}, "$dynamicRef": "#x"}, None


def _counted() -> Pairs:
    text, flag, number = {"type": "string"}, {"type": "boolean"}, {"type": "integer"}
    members = {"type": "object", "properties": {"a": flag, "b": number, "c": text}}
    yield {"contains": text}, None
    yield {"type": "array", "items": number, "contains": {"minimum": 5}}, None
    yield (
        {"type": "array", "contains": {"const": 1}, "minContains": 2.0, "maxContains": 3, "maxItems": 5},
        None,
    )
    yield (
        {"type": "array", "items": flag, "contains": {"const": True}, "minContains": 0, "maxContains": 1},
        None,
    )
    yield {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True}, None
    yield {"type": "array", "items": {"enum": [*"abcdefghijk"]}, "uniqueItems": True, "minItems": 2}, None
    yield {"type": "array", "items": text, "uniqueItems": True, "minItems": 1}, None
    yield {"uniqueItems": True}, None
    yield {"minContains": 1}, None
    yield {"maxContains": 2}, None
    yield {**members, "minProperties": 2}, None
    yield {**members, "maxProperties": 2}, None
    yield {**members, "minProperties": 1, "additionalProperties": True}, None
    yield {"type": "object", "additionalProperties": number, "maxProperties": 3, "minProperties": 1}, None
    yield {"propertyNames": {"pattern": "^a"}}, None
    yield {"propertyNames": {"maxLength": 3}}, None
    yield {"type": "object", "propertyNames": {"enum": ["x", "y"]}, "additionalProperties": number}, None
    yield {**members, "propertyNames": {"enum": ["a", "c"]}}, None
    yield (
        {"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}, "patternProperties": {".*": number}},
        None,
    )
    yield {"type": "object", "patternProperties": {"^a": flag, "b$": {"const": True}}}, None
    yield {"allOf": [{"patternProperties": {"^a": text}}, {"additionalProperties": False}]}, None
    yield (
        {"allOf": [{"patternProperties": {"^a": text}}, {"additionalProperties": number}], "type": "object"},
        None,
    )
    yield (
        {"type": "object", "properties": {"a": flag}, "patternProperties": {"^a$": {}, "^[bc]$": flag}},
        None,
    )
    yield {"type": "object", "properties": {"ab": True}, "patternProperties": {"^a": number}}, None
    yield {"multipleOf": 0.01, "type": "number"}, None
    yield {"multipleOf": 1.5, "minimum": 0}, None
    yield {"minimum": -1e30, "maximum": 1e30, "type": "number"}, None
    yield {"type": "number", "exclusiveMinimum": 2e9}, None
    for name in (
        "contains",
        "not",
        "if",
        "oneOf",
        "properties",
        "$ref",
        "items",
    ):  # L4: names are no keywords
        yield {"type": "object", "properties": {name: flag, "n": number}, "required": [name]}, None


def _located() -> Pairs:
    flag = {"type": "boolean"}
    yield {"$defs": {"f": {"$anchor": "f", **flag}}, "$ref": "#f"}, None
    yield {"properties": {"a": {"$id": "https://example.org/a", **flag}}}, None
    other = {"$id": "https://example.org/other", "$defs": {"f": flag}, "$ref": "#/$defs/f"}
    yield {"$id": "https://example.org/s", "$defs": {"o": other}, "$ref": "other"}, None
    yield {"$schema": DRAFT.format(4), "definitions": {"f": {"id": "#f", **flag}}, "$ref": "#f"}, None
    yield {"$defs": {"bad": {"if": {"type": "string"}}}, "$ref": "#/$defs/bad"}, None
    options = [[{"properties": {f"{i}{j}": {}}, "required": [f"{i}{j}"]} for i in "abcd"] for j in range(12)]
    yield {"type": "object", "allOf": [{"anyOf": some} for some in options]}, None
    for pattern in ("[a-z&&[^b]]", "[[a]", r"^\/\w+\/$", r"^\${[a-z]+}$", r"^[^\s]+$", r"^\S+$", r"^\u00e9$"):
        yield {"type": "string", "pattern": pattern}, None
    for name in (
        "uri-reference",
        "regex",
        "json-pointer",
        "no-such",
        "path",
        "password",
        "binary",
        "uri-template",
    ):
        yield {"type": "string", "format": name}, None


def _unsupported() -> Pairs:
    text = {"type": "string"}
    for keyword, value in (
        ("minProperties", 2),
        ("multipleOf", 100_000),
        ("minItems", 5000),
        ("minLength", 10_000_000),
        ("const", 2**53 + 1),
        ("enum", [1, 2**64]),
        ("const", "\x01"),
        ("pattern", "a(?=a)b"),
        ("pattern", "(?<!a)b"),
        ("pattern", r"(a)\1"),
        ("pattern", r"\bword\b"),
        ("pattern", "("),
        ("pattern", "a{,3}"),
        ("pattern", "[]a]"),
        ("$ref", "https://example.org/other.json"),
        ("$ref", "other.json#/a"),
        ("$ref", "#anchor"),
        ("$dynamicRef", "#x"),
        ("divisibleBy", 2),
        ("disallow", "string"),
        ("extends", {}),
    ):
        yield {keyword: value}, keyword
    twice = {"a": {"$dynamicAnchor": "x"}, "b": {"$id": "other", "$dynamicAnchor": "x"}}
    yield {"$defs": twice, "$dynamicRef": "#x"}, "$dynamicRef"
    yield {"minimum": 1e30}, "minimum"
    yield {"maximum": -(2**60)}, "maximum"
    yield {"exclusiveMinimum": 2.0**60}, "minimum"
    yield {"type": "array", "uniqueItems": True, "minItems": 2, "items": text}, "uniqueItems"
    yield {"patternProperties": {"x(?!x)": {}}}, "patternProperties.x(?!x)"
    yield {"allOf": [{"multipleOf": 65_521}, {"multipleOf": 65_519}, {"multipleOf": 65_497}]}, "allOf.2"
    nested: Schema = {}
    for _ in range(2000):
        nested = {"properties": {"a": nested}}
    yield nested, ""
    yield {"enum": [f"a fairly long value, number {index}" for index in range(150_000)]}, ""
    yield {"properties": {f"p{index}": {"maxLength": index} for index in range(3000)}}, ""
    chain = {f"d{index}": {"properties": {"x": {"$ref": f"#/$defs/d{index + 1}"}}} for index in range(1000)}
    yield {"$defs": {**chain, "d1000": {}}, "$ref": "#/$defs/d0"}, ""


def _invalid() -> Pairs:
    for keyword, value, where in (
        ("type", "strnig", "type"),
        ("type", ["string", "any"], "type.1"),
        ("minimum", "3", "minimum"),
        ("required", "a", "required"),
        ("properties", [], "properties"),
        ("items", "a", "items"),
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
