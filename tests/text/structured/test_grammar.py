from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from headrace.errors import BadRequest
from headrace.models.catalog import Model
from headrace.text.structured.grammar import (
    CACHED,
    CACHED_TOKENS,
    Constraint,
    GrammarFailed,
    Grammars,
    json_grammar,
)
from headrace.text.tokenizer import Tokenizer
from headrace.types import Format

# a vocabulary of our own: each byte, a few longer tokens, two special ones, one id without text
LONGER = [b'{"', b'": ', b", ", b"true", b"</s>", "é".encode()]
TABLE = [bytes([byte]) for byte in range(256)] + LONGER + [b"", b"", b""]
CALL, END = 256 + len(LONGER), 257 + len(LONGER)
SPECIAL = {"<call>": CALL, "</s>": END}
WORDS = (len(TABLE) + 31) // 32


def encode(text: str) -> list[int]:
    return list(text.encode())


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(TABLE, SPECIAL, [END], encode)


def allowed(constraint: Constraint, words: int = WORDS) -> set[int]:
    mask = np.full(words, -1, np.int32)
    constraint.fill(mask)
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    return {int(token) for token in np.flatnonzero(bits)}


def takes(constraint: Constraint, text: str, ends: int = END) -> bool:
    """Whether the text may be written and then end."""
    for token in encode(text):
        if token not in allowed(constraint):
            return False
        constraint.accept(token)
    return ends in allowed(constraint)


def schema(value: object) -> Format:
    return Format("json_schema", value, "schema")


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_mask_holds_the_tokens_that_are_accepted(grammars: Grammars, data: st.DataObject) -> None:
    format = schema({"type": "object", "properties": {"é": {"enum": [True, "tru"]}}, "required": ["é"]})
    constraint = grammars.compile(format)
    written: list[int] = []
    for _ in range(25):
        may = allowed(constraint) - {END}
        for token in data.draw(st.sets(st.integers(0, len(TABLE) - 1), max_size=5)) - {END}:
            other = grammars.compile(format)
            for earlier in written:
                other.accept(earlier)
            if token in may:
                other.accept(token)
            elif len(may) > 1:  # else the text is forced, and only its usual tokens are in the mask
                with pytest.raises(GrammarFailed):
                    other.accept(token)
        if not may:
            break
        written.append(data.draw(st.sampled_from(sorted(may))))
        complete = constraint.accept(written[-1])
        assert complete == constraint.is_complete == (allowed(constraint) == {END})


def test_mask_may_be_wider_than_the_vocabulary(grammars: Grammars) -> None:
    format = Format("choice", ["yes", "no"])
    wide = allowed(grammars.compile(format), WORDS + 5)
    assert wide == allowed(grammars.compile(format)) == {ord("y"), ord("n")}


def test_text_is_no_special_token_and_special_tokens_are_no_text(grammars: Grammars) -> None:
    constraint = grammars.compile(Format("regex", "(?s:.*)"))
    may = allowed(constraint)
    assert 256 + LONGER.index(b"</s>") in may  # the five characters
    assert CALL not in may
    assert END in may  # the end, which the expression allows here
    assert len(TABLE) - 1 not in may  # a token without text says nothing
    assert takes(constraint, "</s><call>")


def test_completion_is_reported_where_only_an_end_can_follow(grammars: Grammars) -> None:
    constraint = grammars.compile(Format("regex", "ab?"))
    assert not constraint.accept(ord("a"))
    assert allowed(constraint) == {ord("b"), END}
    assert constraint.accept(ord("b"))
    assert allowed(constraint) == {END}


def test_all_end_tokens_are_allowed_where_the_text_may_end() -> None:
    grammars = Grammars(TABLE, SPECIAL, [END, CALL], encode)
    constraint = grammars.compile(Format("choice", ["a"]))
    constraint.accept(ord("a"))
    assert allowed(constraint) == {END, CALL}


@pytest.mark.parametrize("size", [len(TABLE), 256])
def test_model_without_end_tokens_reports_completion(size: int) -> None:
    grammars = Grammars(TABLE[:size], {}, [], encode)
    constraint = grammars.compile(Format("regex", "#!?"))
    mask = np.full((size + 31) // 32, -1, np.int32)
    constraint.fill(mask)
    assert mask[1] == 1 << (ord("#") - 32)
    assert not constraint.accept(ord("#"))
    assert constraint.accept(ord("!"))
    constraint.fill(mask)
    assert not mask.any()


CHOICES = ["yes", "yes and no", "", 'qu"ote\n', "a/b\\c.*", "é🙂", "[x]{2}", "</s>"]


def test_choice_takes_its_strings_and_nothing_else(grammars: Grammars) -> None:
    format = Format("choice", CHOICES)
    assert all(takes(grammars.compile(format), choice) for choice in CHOICES)
    assert not any(
        takes(grammars.compile(format), text) for text in ("ye", "yes and", "no", "x", "xx", "a/b\\c")
    )


@pytest.mark.parametrize(
    ("expression", "inside", "outside"),
    [
        (r"\d{3}-[a-z]+", ["123-ab"], ["123-", "12-a", "123-aB"]),
        ("^(foo|bar)$", ["foo", "bar"], ["fo", "foobar"]),
        ("foo|bar$", ["foo", "bar"], ["foobar"]),
        (r"[^\n]*\n", ["ab\n", "\n"], ["ab", "a\nb"]),
        ("a/b", ["a/b"], ["ab"]),
        (r"\p{Lu}é", ["Éé"], ["éé"]),
    ],
)
def test_regex_takes_the_whole_text(
    grammars: Grammars, expression: str, inside: list[str], outside: list[str]
) -> None:
    format = Format("regex", expression)
    assert all(takes(grammars.compile(format), text) for text in inside)
    assert not any(takes(grammars.compile(format), text) for text in outside)


def test_json_is_written_one_way(grammars: Grammars) -> None:
    format = Format("json_object")
    for text in ("{}", '{"a": 1, "b": [true, null, {"c": "\\n\\"é"}]}'):
        assert takes(grammars.compile(format), text)
    for text in (
        '{"a":1}',
        '{"a": 1,"b": 2}',
        "{ }",
        "[]",
        "1",
        '{"a": "\n"}',
        '{"a": "\\u0061"}',
        '{"a": 01}',
    ):
        assert not takes(grammars.compile(format), text)


def test_name_in_another_spelling_does_not_escape_its_schema(grammars: Grammars) -> None:
    format = schema({"type": "object", "properties": {"a/": {"type": "integer"}}})
    assert takes(grammars.compile(format), '{"a/": 1}')
    for name in ("\\u0061/", "a\\/", "a\\u002f"):
        assert not takes(
            grammars.compile(format), json.dumps({"": "no integer"}).replace('""', f'"{name}"', 1)
        )


WHOLE, FLAG = {"type": "integer"}, {"type": "boolean"}
BESIDE: dict[str, dict[str, Any]] = {
    "nothing": {},
    "no others": {"additionalProperties": False},
    "others": {"additionalProperties": FLAG},
    "another": {"patternProperties": {"^a": {"minimum": 3}}},
    "listed": {"properties": {"k\n": FLAG, "": FLAG}},
}
NAMES = ["", "a", "k", "\u0001", "\n", "a\n", "a\nb", "\r", "a\rb", "\t", "\u2028", "k\n", "\\", "é"]


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize(
    "expression",
    [".*", "^", "$", "^.*", ".*$", "^.*$", ".+", "^.+", ".+$", "^.+$", "^[^x]*$", r"^[\s\S]+$"],
)
def test_expressions_of_names_hold_however_they_are_read(
    grammars: Grammars, expression: str, beside: str
) -> None:
    def read_as(expression: str) -> Draft202012Validator:
        others = BESIDE[beside].get("patternProperties", {})
        return Draft202012Validator(
            {"type": "object", **BESIDE[beside], "patternProperties": {expression: WHOLE, **others}}
        )

    python = read_as(expression)
    javascript = read_as(expression.replace(".", "[^\\n\\r\\u2028\\u2029]").replace("$", r"\Z"))
    format = schema(python.schema)
    taken = []
    for value in ({name: value} for name in NAMES for value in (1, 5, True, "x")):
        if takes(grammars.compile(format), json.dumps(value, ensure_ascii=False)):
            assert python.is_valid(value)
            assert javascript.is_valid(value)
            taken.append(value)
    assert {"a": 5} in taken
    assert {"a": 1} in taken or beside == "another"


def test_number_that_would_be_read_as_its_excluded_bound_is_not_written(grammars: Grammars) -> None:
    format = schema({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1})
    assert takes(grammars.compile(format), "0.000001")
    assert takes(grammars.compile(format), "0.999999")
    for text in ("0", "0.0", "0.0000000001", "0.9999999999", "1", "1e-400"):
        assert not takes(grammars.compile(format), text)


def test_dates_are_those_of_the_calendar(grammars: Grammars) -> None:
    format = schema({"type": "string", "format": "date"})
    for year in (1, 4, 1600, 1900, 1996, 2000, 2023, 2024, 2100):
        for day in (28, 29, 30):
            text = f"{year:04}-02-{day}"
            assert takes(grammars.compile(format), f'"{text}"') == _is_date(text)
    assert not takes(grammars.compile(format), '"0000-01-01"')
    assert not takes(grammars.compile(format), '"2024-04-31"')


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


LARK = 'start: <call> "run " BODY | %json {}\nBODY: /[a-z]+/'


def test_lark_grammar_with_a_special_token_and_a_schema(grammars: Grammars) -> None:
    source = LARK.replace("{}", json_grammar({"type": "object", "additionalProperties": False}, "tools"))
    constraint = grammars.compile_lark(source, param="tools")
    assert allowed(constraint) == {CALL, ord("{")}
    constraint.accept(CALL)
    assert takes(constraint, "run fast")
    assert takes(grammars.compile(Format("grammar", source)), "{}")


def test_schema_in_a_callers_grammar_is_held_to_the_same(grammars: Grammars) -> None:
    format = Format("grammar", 'start: "=" %json {"type": "string", "format": "date"} "!"', "guided_grammar")
    assert takes(grammars.compile(format), '="2024-02-29"!')
    assert not takes(grammars.compile(format), '="2023-02-29"!')
    for bad in ('{"pattern": "("}', "{a", '{"a": '):
        with pytest.raises(BadRequest) as caught:
            grammars.compile(Format("grammar", f"start: %json {bad}", "guided_grammar"))
        assert (caught.value.param or "").startswith("guided_grammar")


@pytest.mark.parametrize(
    ("format", "says"),
    [
        (Format("choice", [], "guided_choice"), "guided_choice: give a list of at least one string"),
        (Format("choice", ["a", 1], "guided_choice"), "guided_choice: give a list"),
        (Format("choice", "ab", "guided_choice"), "guided_choice: give a list"),
        (Format("regex", "(", "guided_regex"), "guided_regex: unclosed group"),
        (Format("regex", "(?=a)", "guided_regex"), "guided_regex: look-around"),
        (Format("regex", 7, "guided_regex"), "guided_regex: give a string"),
        (Format("regex", "a" * 10_001, "guided_regex"), "guided_regex: longer than 10000 characters"),
        (Format("grammar", "start: foo", "guided_grammar"), 'guided_grammar: at 1(8): unknown name: "foo"'),
        (Format("grammar", "", "guided_grammar"), "guided_grammar: "),
        (Format("grammar", 'rule: "a"', "guided_grammar"), "guided_grammar: no start rule"),
        (
            Format("grammar", "start: <nope>", "guided_grammar"),
            "guided_grammar: at 1(8): unknown special token",
        ),
        (
            schema({"type": "object", "properties": {"a": {"pattern": "(?<=a)b"}}}),
            "schema.properties.a.pattern: '(?<=a)b': look-around",
        ),
        (schema(None), "schema: "),
        *(
            (schema({"$schema": f"http://json-schema.org/draft-{draft}/schema"}), "schema.$schema: ")
            for draft in ("9" * 5000, "-", "2019-2020", "5")
        ),
    ],
)
def test_what_cannot_be_compiled_is_the_callers_fault(grammars: Grammars, format: Format, says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        grammars.compile(format)
    assert caught.value.message.startswith(says)
    assert len(caught.value.message) < 500
    assert (caught.value.param or "").startswith(format.param)


@pytest.mark.parametrize(
    "format",
    [
        Format("regex", "((((a{90}){90}){90}){90}){90}"),
        Format("regex", "(a|b)*a(a|b){5000}"),
        Format("regex", "(x+x+)+y" * 200),
        Format("choice", [f"choice {index}" for index in range(20_000)]),
        Format("grammar", 'start: "a"{1000000000}'),
        Format("choice", ["a" * 400_000]),
        Format("grammar", "start: " + "(" * 90_000),
        Format("grammar", "start: a0\n" + "".join(f"a{i}: a{i + 1}\n" for i in range(9_000))),
        Format("grammar", "start: %json " + '{"items": ' * 9_000 + "{}" + "}" * 9_000),
        schema({"type": "string", "pattern": "(a?)" * 1000}),
        schema({"const": "a" * 1_500_000}),
        schema({"type": "string", "pattern": "^(((a{90}){90}){90}){90}$"}),
        schema({"type": "string", "pattern": "^(.*a){200}$", "minLength": 5000}),
        schema({"type": "array", "minItems": 999, "items": {"type": "array", "minItems": 999}}),
    ],
    ids=range(14),
)
def test_monster_is_compiled_or_refused_in_time(grammars: Grammars, format: Format) -> None:
    started = time.process_time()  # llguidance counts its own work, and does not say how much it was
    with suppress(BadRequest, GrammarFailed):
        allowed(grammars.compile(format))
    assert time.process_time() - started < 60


@pytest.mark.parametrize(
    "grammar",
    [
        'start: s\ns: s s s | s s | "a"',
        'start: s\ns: s s | "a" | ""',
        'root ::= s\ns ::= s s s s | s s | "a"',
    ],
)
def test_a_grammar_whose_tokens_take_ever_longer_ends_the_answer(grammars: Grammars, grammar: str) -> None:
    """Each takes time that grows with the square of the text, while it holds the GIL."""
    constraint = grammars.compile(Format("grammar", grammar))
    with pytest.raises(GrammarFailed, match="ambiguous"):
        _take(constraint, "a" * 3000)


def _take(constraint: Constraint, text: str) -> None:
    for token in encode(text):
        constraint.accept(token)


def test_sequences_of_one_grammar_do_not_meet(grammars: Grammars) -> None:
    format = Format("choice", ["left", "right"])
    one, other = grammars.compile(format), grammars.compile(format)
    one.accept(ord("l"))
    assert allowed(other) == {ord("l"), ord("r")}
    with pytest.raises(GrammarFailed):
        one.accept(ord("r"))
    with pytest.raises(GrammarFailed):
        allowed(one)
    assert takes(other, "right")
    assert takes(grammars.compile(format), "left")


def test_compiled_grammars_are_kept_and_forgotten(grammars: Grammars) -> None:
    formats = [schema({"const": index}) for index in range(CACHED + 6)]
    for format in formats * 2:
        assert takes(grammars.compile(format), str(format.value["const"]))
    assert len(grammars._compiled) == CACHED


def test_grammars_of_long_texts_are_compiled_anew() -> None:
    grammars = Grammars(TABLE, SPECIAL, [END], encode)
    other, *long = schema({"const": 1}), Format("regex", "(ab?)*", "r"), Format("regex", "(ab?)+", "r")
    assert takes(grammars.compile(other), "1")
    constraints = [grammars.compile(format) for format in long]
    first = set(grammars._compiled.values())
    for constraint in constraints:  # together they reach the limit
        for _ in range(CACHED_TOKENS // 2):
            constraint.accept(TABLE.index(b"a"))
    assert takes(grammars.compile(long[1]), "aab")
    assert len(first & set(grammars._compiled.values())) == 1, "the most recently used one stays"
    assert takes(grammars.compile(other), "1")
    assert not constraint.accept(TABLE.index(b"b")), "a constraint in use goes on"


def test_a_grammar_that_failed_is_compiled_anew() -> None:
    grammars = Grammars(TABLE, SPECIAL, [END], encode)
    format, other = schema({"const": 1}), schema({"const": 2})
    assert takes(grammars.compile(other), "2")
    with pytest.raises(GrammarFailed):
        grammars.compile(format).accept(TABLE.index(b"a"))
    before = set(grammars._compiled.values())
    assert takes(grammars.compile(format), "1")
    assert len(before & set(grammars._compiled.values())) == 1, "the other one stays"


def test_threads_compile_and_fill_at_once(grammars: Grammars) -> None:
    def run(index: int) -> bool:
        name = f"p{index % 7}"
        value = {"type": "object", "properties": {name: {"type": "integer"}}, "required": [name]}
        return takes(grammars.compile(schema(value)), f'{{"{name}": {index}}}')

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(60)))


def test_default_model_writes_json_with_its_own_tokens(tokenizer: Tokenizer, default_model: Model) -> None:
    table = [tokenizer.token_bytes(token) for token in range(tokenizer.vocabulary)]
    grammars = Grammars(table, tokenizer.special, default_model.eos_token_ids, tokenizer.encode)
    constraint = grammars.compile(schema({"type": "object", "properties": {"näme": {"type": "string"}}}))
    words = (tokenizer.vocabulary + 31) // 32
    text = json.dumps({"näme": "<|im_end|> 日本\n"}, ensure_ascii=False)
    for token in tokenizer.encode(text):
        assert token in allowed(constraint, words)
        complete = constraint.accept(token)
    assert complete
    assert allowed(constraint, words) == set(default_model.eos_token_ids)


def test_nothing_loads_the_library_before_it_is_needed() -> None:
    script = "import sys, headrace, headrace.types, headrace.cli; sys.exit('llguidance' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
