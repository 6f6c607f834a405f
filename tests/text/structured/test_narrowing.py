"""What is generated of the values that a schema allows, and what becomes of it when a request allows less."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from headrace.errors import BadRequest
from headrace.text.structured.grammar import Constraint, Grammars
from headrace.text.structured.keywords import ALL_NARROWINGS, NARROWINGS
from headrace.text.structured.schema import json_grammar
from headrace.types import Format
from tests.text.structured.test_grammar import END, SPECIAL, TABLE, encode, takes

FLAG, NUMBER, TEXT = {"type": "boolean"}, {"type": "integer"}, {"type": "string"}
POINT = {"type": "object", "properties": {"x": NUMBER}, "required": ["x"]}


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(TABLE, SPECIAL, [END], encode)


def compiled(grammars: Grammars, schema: Any, allowed: frozenset[str] = ALL_NARROWINGS) -> Constraint:
    return grammars.compile(Format("json_schema", schema, "schema"), allowed)


def writes(grammars: Grammars, schema: Any, value: Any, allowed: frozenset[str] = ALL_NARROWINGS) -> bool:
    return takes(compiled(grammars, schema, allowed), json.dumps(value, ensure_ascii=False))


@pytest.mark.parametrize(
    ("schema", "closed", "more"),
    [
        (POINT, {"x": 1}, {"x": 1, "y": 2}),
        ({"$defs": {"p": POINT}, "$ref": "#/$defs/p"}, {"x": 1}, {"x": 1, "y": 2}),
        ({"type": "array", "items": POINT}, [{"x": 1}], [{"x": 1, "y": 2}]),
        ({"anyOf": [POINT, FLAG]}, {"x": 1}, {"x": 1, "y": 2}),
        ({"allOf": [POINT, {"properties": {"z": FLAG}}]}, {"x": 1, "z": True}, {"x": 1, "y": 2}),
        ({"type": "object", "properties": {}}, {}, {"y": 2}),
        ({"type": "object", "properties": {"a": FLAG}, "required": ["b"]}, {"b": 1}, {"b": 1, "y": 2}),
    ],
)
def test_objects_that_list_their_members_get_no_others_unless_they_are_to_stay_open(
    grammars: Grammars, schema: Any, closed: Any, more: Any
) -> None:
    assert writes(grammars, schema, closed)
    assert not writes(grammars, schema, more)
    assert writes(grammars, schema, more, ALL_NARROWINGS - {"closed_objects"})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {"a": FLAG}, "additionalProperties": True},
        {"type": "object", "required": ["a"]},
        {"type": "object", "additionalProperties": {}},
    ],
)
def test_objects_that_list_nothing_or_say_that_there_are_others_stay_open(
    grammars: Grammars, schema: Any
) -> None:
    assert writes(grammars, schema, {"a": True, "b": 1})


@pytest.mark.parametrize("name", ["contains", "not", "if", "oneOf", "allOf", "$ref", "properties"])
def test_l4_names_of_members_are_no_keywords(grammars: Grammars, name: str) -> None:
    schema = {"type": "object", "properties": {name: TEXT, "in": POINT}, "required": [name]}
    assert writes(grammars, schema, {name: "a", "in": {"x": 1}})
    assert not writes(grammars, schema, {name: "a", "y": 1})
    assert not writes(grammars, schema, {name: "a", "in": {"x": 1, "y": 1}})


def test_l4_one_choice_does_not_open_the_objects_beside_it(grammars: Grammars) -> None:
    schema = {"type": "object", "properties": {"a": {"oneOf": [FLAG, NUMBER]}, "p": POINT}}
    assert writes(grammars, schema, {"a": 1, "p": {"x": 1}})
    assert not writes(grammars, schema, {"a": 1, "p": {"x": 1, "y": 1}})


NEEDED = {
    "unique_items": {"type": "array", "items": TEXT, "uniqueItems": True},
    "contains_first": {"type": "array", "items": NUMBER, "contains": {"minimum": 5}},
    "one_of": {"oneOf": [{**POINT}, {"type": "object", "required": ["y"]}]},
    "combinations": {
        "allOf": [{"anyOf": [{"required": [f"{i}{j}"]} for i in "abcd"]} for j in range(4)],
        "type": "object",
    },
    "options": {"anyOf": [FLAG, {"type": "string", "pattern": r"\bword\b"}]},
    "member_names": {"type": "object", "patternProperties": {"^a": FLAG, "b$": {"const": True}}},
    "member_count": {**POINT, "properties": {"x": NUMBER, "y": NUMBER}, "minProperties": 2},
}


@pytest.mark.parametrize("name", NEEDED)
def test_a_schema_that_needs_a_narrowing_is_refused_where_it_is_not_allowed(name: str) -> None:
    json_grammar(NEEDED[name], "schema", frozenset({name, "closed_objects"}))
    with pytest.raises(BadRequest) as caught:
        json_grammar(NEEDED[name], "schema", ALL_NARROWINGS - {name})
    assert (caught.value.param or "").startswith("schema")


def test_each_narrowing_is_tried_here() -> None:
    assert NEEDED.keys() | {"closed_objects"} == NARROWINGS.keys()


@pytest.mark.parametrize(
    ("schema", "inside", "outside"),
    [
        (
            {"oneOf": [{"required": ["a"]}, {"required": ["b"]}], "type": "object"},
            [{"a": 1}],
            [{}, {"a": 1, "b": 1}],
        ),
        ({"type": "string", "not": {"enum": ["", "on"]}}, ["o", "only", "off"], ["", "on"]),
        ({"type": "string", "not": {"pattern": "^tmp"}}, ["", "tm", "atmp"], ["tmp", "tmpfile"]),
        ({"type": "string", "pattern": "^(?!a|bc$).*$"}, ["b", "bcd", ""], ["a", "ab", "bc"]),
        ({"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True}, [[], [2, 1]], [[1, 1]]),
        ({"type": "array", "items": NUMBER, "contains": {"minimum": 5}}, [[5, 1], [7]], [[], [1, 5]]),
        ({"if": {"type": "string"}, "then": {"maxLength": 1}}, ["a", 1, None], ["ab"]),
        ({"type": "object", "propertyNames": {"pattern": "^a"}}, [{}, {"ab": 1}], [{"b": 1}]),
        ({"type": "string", "not": {"pattern": r"[ ~\[]"}}, ["", "a"], ["~", "a b", "["]),
        ({"type": "string", "not": {"pattern": "[0-9A-F]{2}"}}, ["", "g"], ["12", "AF"]),
        ({"type": "string", "not": {"pattern": "a(b|c)*"}}, ["", "bc"], ["a", "abc"]),
        ({"type": "string", "pattern": r"^(?!.*\.)a"}, ["a", "ab"], ["a.", "a.b"]),
        ({"type": "string", "pattern": r"^(?!.*\.\.)a"}, ["a.b."], ["a..b"]),
        ({"type": "string", "pattern": r"^(?!\s*$).+"}, [" a", "a", "a "], ["", " ", "  "]),
        ({"type": "string", "pattern": r"^(?!\s+$)[^a]*$"}, ["", " b"], [" ", "a"]),
        ({"type": "string", "pattern": "^(?![aA][wW]:)[a-zA-Z:]+$"}, ["aw", "bw:", "xaw:"], ["aw:", "AW:x"]),
        ({"type": "string", "pattern": "^(?!a[0-9]{2}$)[a0-9]*$"}, ["a1", "a123", "", "11"], ["a12"]),
        ({"type": "string", "pattern": "^(?!.* {2})[a ]+$"}, ["a a "], ["a  a"]),
        ({"type": "string", "pattern": r"^(?!.*\*\?)[*?a]*$"}, ["?*a?", "**", "*a?"], ["a*?", "**?"]),
        ({"type": "string", "pattern": "^[a-z](?!.*--)[a-z-]*$"}, ["a-", "a-b-c"], ["a--", "ab--c"]),
        ({"type": "string", "pattern": r"^[a-z.]+(?<!\.git)$"}, ["git", "a.gi", ".gits"], [".git", "a.git"]),
        ({"type": "string", "pattern": "^[abc]*(?<!a|bc)$"}, ["", "b", "ac", "c"], ["a", "bc", "cba"]),
        ({"type": "string", "pattern": "^(?=^.{2,3}$)[a-z]*$"}, ["ab", "abc"], ["a", "abcd"]),
        ({"type": "string", "pattern": r"^[b\uD800\uDBFF-\uDC00\uDFFF]*$"}, ["", "bb"], ["a"]),
        ({"$defs": {"other": {"not": TEXT}}, "not": {"$ref": "#/$defs/other"}}, ["a"], [5, None]),
        ({"oneOf": [TEXT, {**TEXT, "not": {"pattern": "^[Bb]x"}}]}, ["bx"], ["zz", ""]),
        ({"oneOf": [NUMBER, {**NUMBER, "not": {"multipleOf": 2}}]}, [2], [3]),
        ({"oneOf": [{"type": "array"}, {"type": "array", "not": {"uniqueItems": True}}]}, [], [[1, 1]]),
        (
            {
                "oneOf": [
                    {"required": ["a"], "allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False},
                    {"type": "object", "required": ["a"], "additionalProperties": True},
                ]
            },
            [],
            [{"a": 1}],
        ),
    ],
)
def test_what_is_said_by_exclusion(
    grammars: Grammars, schema: Any, inside: list[Any], outside: list[Any]
) -> None:
    assert [value for value in inside if not writes(grammars, schema, value)] == []
    assert [value for value in outside if writes(grammars, schema, value)] == []


def names(limits: Any, **more: Any) -> Any:
    return {"type": "object", "additionalProperties": NUMBER, "propertyNames": limits, **more}


@pytest.mark.parametrize(
    ("schema", "inside", "outside"),
    [
        (names({"pattern": "^[a-z]+$", "minLength": 2}), [{"ab": 1}, {}], [{"a": 1}, {"aB": 1}]),
        (names({"pattern": "^[a-z]*$", "maxLength": 2}), [{"ab": 1}, {"": 1}], [{"abc": 1}, {"A": 1}]),
        (names({"pattern": r"^[^\s\]]+$", "maxLength": 2}), [{"\u00f6\u6c34": 1}], [{"abc": 1}, {"a]": 1}]),
        (names({"pattern": "^[a-z]{3}$", "minLength": 3, "maxLength": 63}), [{"abc": 1}], [{"ab": 1}]),
        (names({"format": "uri-template", "minLength": 1}), [{"a/{b}": 1}], [{"": 1}, {"{": 1}]),
        (names({"pattern": "^(a|b|)*$", "maxLength": 9, "minLength": 0}, properties={"b": TEXT}),
         [{"b": "x"}], [{"b": 1}, {"c": 1}]),
        (names({"anyOf": [{"enum": ["b"]}, {"pattern": "^x$"}]}), [{"b": 1}, {"x": 1}], [{"c": 1}]),
        (names({"pattern": "^[ab]$"}, properties={"a": TEXT}), [{}, {"a": "x"}], [{"a": 1}, {"b": "x"}]),
        (names({"pattern": "^[ab]$"}, properties={"a": TEXT}, required=["a"]), [{"a": "x"}], [{}, {"a": 1}]),
    ],
)  # fmt: skip
def test_names_that_must_satisfy_several_conditions(
    grammars: Grammars, schema: Any, inside: list[Any], outside: list[Any]
) -> None:
    assert [value for value in inside if not writes(grammars, schema, value)] == []
    assert [value for value in outside if writes(grammars, schema, value)] == []


@pytest.mark.parametrize("options", ["oneOf", "anyOf"])
@pytest.mark.parametrize("kind", [{"const": "b"}, {"enum": ["b", "c"]}], ids=["const", "enum"])
def test_l21_the_type_beside_the_options_tells_them_apart(
    grammars: Grammars, options: str, kind: dict[str, Any]
) -> None:
    each = [{"properties": {"kind": one}, "required": ["kind"]} for one in ({"const": "a"}, kind)]
    schema = {"type": "object", options: each}
    assert all(writes(grammars, schema, {"kind": name}) for name in "ab")
    for value in ({"kind": "d"}, {}, "a", 3):
        assert not writes(grammars, schema, value)


@pytest.mark.parametrize("kind", ["number", "integer", "any", "bounded"])
def test_l3_digits_end(grammars: Grammars, kind: str) -> None:
    schema = {"any": {}, "bounded": {"type": "number", "minimum": 0}}.get(kind, {"type": kind})
    for text in ("9007199254740991", "0", "3000000000"):
        assert takes(compiled(grammars, schema), text)
    for text in ("9007199254740993", "90071992547409910", "1" * 20):
        assert not takes(compiled(grammars, schema), text)
    if kind != "integer":
        assert takes(compiled(grammars, schema), "3.141592653")
        assert takes(compiled(grammars, schema), "1234567.25")
        for text in ("3." + "1" * 17, "0." + "0" * 20, "1e400"):
            assert not takes(compiled(grammars, schema), text)


@pytest.mark.parametrize(
    ("schema", "inside", "outside"),
    [
        (
            {"format": "hostname"},
            ["a", "example.org", "a-b.c1.de"],
            ["xn--a", "-a", "a-.b", "a..b", "1.2", ""],
        ),
        ({"format": "hostname", "maxLength": 5}, ["a.bc"], ["example.org"]),
        ({"pattern": r"^\S+$"}, ["ab"], ["a b", "\ufeff", "\x85"]),
        ({"pattern": r"^[^\s]$"}, ["a"], ["\ufeff", "\u2028"]),
        ({"pattern": r"^\w+$"}, ["a_1"], ["é"]),
        ({"format": "path"}, ["anything at all"], []),
        ({"format": "password", "maxLength": 3}, ["abc"], ["abcd"]),
    ],
)
def test_l23_formats_and_classes_are_exact_or_annotations(
    grammars: Grammars, schema: Any, inside: list[str], outside: list[str]
) -> None:
    schema = {"type": "string", **schema}
    assert [text for text in inside if not writes(grammars, schema, text)] == []
    assert [text for text in outside if writes(grammars, schema, text)] == []


GUARDED = """
import json, sys
from headrace.errors import BadRequest
from headrace.text.structured.schema import json_grammar
schema = eval(sys.stdin.read())
try:
    json_grammar(schema, "schema")
except BadRequest as exc:
    sys.exit(0)
"""


@pytest.mark.parametrize(
    "schema",
    [
        "{'$defs': {f'd{i}': {'items': {'$ref': f'#/$defs/d{i + 1}'}} for i in range(3000)}, "
        "'$ref': '#/$defs/d0'}",
        "{'allOf': [{'anyOf': [{'properties': {f'{i}{j}': {}}} for i in 'abcdef']} for j in range(30)]}",
        "{'oneOf': [{'properties': {f'p{i}': {'oneOf': [{'minimum': j} for j in range(20)]}}} "
        "for i in range(40)]}",
        "{'type': 'string', 'allOf': [{'pattern': f'(a|b)*a(a|b){{{n}}}'} for n in range(3, 12)]}",
        "{'not': {'allOf': [{'not': {'properties': {f'p{i}': {'not': {'const': i}}}}} for i in range(60)]}}",
        "{'allOf': [{'if': {'required': [f'p{i}']}, 'then': {'required': [f'q{i}']}} for i in range(60)]}",
    ],
    ids=["chain", "product", "choices in choices", "automata", "negations", "conditions"],
)
def test_no_schema_hangs_or_kills_the_process(schema: str) -> None:
    """In a process of its own: the library has been seen to end it."""
    ended = subprocess.run([sys.executable, "-c", GUARDED], input=schema, text=True, timeout=60, check=False)
    assert ended.returncode == 0


def test_a_refusal_comes_before_work() -> None:
    with pytest.raises(BadRequest, match="larger than"):
        json_grammar({"enum": ["x" * 100] * 60_000}, "schema")
