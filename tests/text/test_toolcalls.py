from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import llguidance
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import validate

from headrace.models.catalog import Model
from headrace.text.toolcalls import (
    FORMATS,
    CallArguments,
    CallBegin,
    CallEnd,
    Part,
    Text,
    ToolFormat,
    arguments_schema,
    detect,
    own_format,
)
from headrace.text.toolcalls.parts import merged
from headrace.types import Tool

WEATHER = Tool(
    "get",
    "The weather of a city.",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"$ref": "#/$defs/days"}},
        "required": ["city"],
        "$defs": {"days": {"type": "integer"}},
    },
)
TOOLS = (WEATHER, Tool("get_time"))  # one name begins the other
OSLO = '{"city": "Oslo", "days": 3}'
EVERY = pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
Mode = Literal["auto", "required"]


def written(format: ToolFormat, *calls: tuple[str, str]) -> str:
    """The calls as the format has them."""
    texts = [format.head.replace("NAME", name) + arguments + format.tail for name, arguments in calls]
    return format.begin + format.opening + format.again.join(texts) + format.closing


def read(format: ToolFormat, *pieces: str, tools: Sequence[Tool] = TOOLS) -> list[Part]:
    parser = format.parser(tools)
    parts = [part for piece in pieces for part in parser.push(piece)]
    return merged([*parts, *parser.flush()])


def call(name: str, arguments: str) -> list[Part]:
    return merged([CallBegin(name), CallArguments(arguments), CallEnd()])


# which format a template means


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("{{ '<tool_call>' }}{% for call in message.tool_calls %}", "hermes"),
        ("{{ '<|python_tag|>' + call.name }}", "llama3"),
        ("{{ '[TOOL_CALLS][' }}", "mistral"),
        ("{{ '[TOOL_CALLS]' + name + '[ARGS]' }}", "mistral-args"),
    ],
)
def test_format_is_the_templates_own(source: str, name: str) -> None:
    assert detect(source).name == name
    assert own_format(source) is FORMATS[name]


@pytest.mark.parametrize("source", [None, "", "{{ messages }}", "<tool_call>\n<function={{ name }}>"])
def test_template_without_a_known_format_gets_ours(source: str | None) -> None:
    assert own_format(source) is None
    assert detect(source) is FORMATS["hermes"]


@EVERY
def test_instructions_show_every_tool_and_the_syntax(format: ToolFormat) -> None:
    said = format.instructions(TOOLS)
    assert '"name": "get"' in said
    assert '"description": "The weather of a city."' in said
    assert all(marker in said for marker in format.markers)
    assert "NAME" not in said


# what the grammar lets through


class Vocabulary:
    """The default model's, with further special tokens."""

    def __init__(self, model: Model, special: Sequence[str]) -> None:
        described = json.loads((model.folder / "tokenizer.json").read_text(encoding="utf-8"))
        first = 1 + max(described["model"]["vocab"].values())
        self.special = {literal: first + number for number, literal in enumerate(special)}
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        described["added_tokens"] += [
            {"id": id, "content": literal, "special": True, **flags} for literal, id in self.special.items()
        ]
        self._tokenizer = llguidance.LLTokenizer(json.dumps(described))

    def encode(self, text: str, *, as_text: bool = False) -> list[int]:
        if as_text:
            return self._tokenizer.tokenize_str(text)
        pieces = (
            re.split("(" + "|".join(map(re.escape, self.special)) + ")", text) if self.special else [text]
        )
        ids = ([self.special[p]] if p in self.special else self._tokenizer.tokenize_str(p) for p in pieces)
        return list(itertools.chain.from_iterable(ids))

    def accepts(self, grammar: str, text: str, *, as_text: bool = False) -> bool:
        """Whether the whole text is one that the grammar allows to end."""
        assert llguidance.LLMatcher.validate_grammar(grammar, self._tokenizer) == ""
        matcher = llguidance.LLMatcher(self._tokenizer, grammar)
        tokens = self.encode(text, as_text=as_text)
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.fixture(scope="module", params=[False, True], ids=["strings", "special"])
def vocabularies(request: pytest.FixtureRequest, default_model: Model) -> Mapping[str, Vocabulary]:
    """By format: one where its markers are ordinary text, or one where they are special tokens."""
    return {
        name: Vocabulary(default_model, format.markers if request.param else ())
        for name, format in FORMATS.items()
    }


def grammar(format: ToolFormat, known: Vocabulary, mode: Mode, *, parallel: bool = True) -> str:
    return format.grammar(TOOLS, mode=mode, parallel=parallel, special=known.special)


@EVERY
@pytest.mark.parametrize("mode", ["auto", "required"])
def test_calls_of_the_tools_are_accepted(
    format: ToolFormat, mode: Mode, vocabularies: Mapping[str, Vocabulary]
) -> None:
    known = vocabularies[format.name]
    one, two = ("get", OSLO), ("get_time", "{}")
    for calls in ([one], [two], [one, two], [two, two, one]):
        text = written(format, *calls)
        assert known.accepts(grammar(format, known, mode), text)
        assert known.accepts(grammar(format, known, mode, parallel=False), text) == (len(calls) == 1)
        assert read(format, text) == [part for made in calls for part in call(*made)]


@EVERY
@pytest.mark.parametrize("mode", ["auto", "required"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("get_tim", "{}"),
        ("other", "{}"),
        ("get", "{}"),
        ("get", '{"city": 1}'),
        ("get", '{"city": "Oslo", "days": "3"}'),
        ("get", '{"city": "Oslo", "more": 1}'),
        ("get", '{"city":"Oslo"}'),
        ("get", '{ "city": "Oslo"}'),
        ("get", '{"city": "Oslo"'),
        ("get", "null"),
        ("get_time", '{"zone": 1}'),
        ("get_time", "[]"),
    ],
)
def test_other_calls_are_not(
    format: ToolFormat, mode: Mode, name: str, arguments: str, vocabularies: Mapping[str, Vocabulary]
) -> None:
    known = vocabularies[format.name]
    assert not known.accepts(grammar(format, known, mode), written(format, (name, arguments)))


@EVERY
def test_required_is_calls_and_nothing_else(
    format: ToolFormat, vocabularies: Mapping[str, Vocabulary]
) -> None:
    known = vocabularies[format.name]
    required, text = grammar(format, known, "required"), written(format, ("get", OSLO))
    for other in ("", "Hello", format.begin, f" {text}", f"Well: {text}", f"{text}\n", f"{text} Done."):
        assert not known.accepts(required, other)


@EVERY
def test_auto_is_free_text_until_a_call_begins(
    format: ToolFormat, vocabularies: Mapping[str, Vocabulary]
) -> None:
    known = vocabularies[format.name]
    auto, text = grammar(format, known, "auto"), written(format, ("get", OSLO))
    marker = format.begin[:-1]
    for answer in ("", "Hello", f"{marker} is a marker", '{"x": 1}', f"Well:\n{text}", f"{text}\n"):
        assert known.accepts(auto, answer)
    for answer in (f"{format.begin}Hello", f"Hi {format.begin}", f"{text} Done.", f"{text}\nDone."):
        assert not known.accepts(auto, answer)


def test_llama_calls_need_no_marker(vocabularies: Mapping[str, Vocabulary]) -> None:
    format = FORMATS["llama3"]
    known, bare = vocabularies["llama3"], written(format, ("get", OSLO)).removeprefix(format.begin)
    for mode in ("required", "auto"):
        assert known.accepts(grammar(format, known, mode), bare)
    auto = grammar(format, known, "auto")
    assert known.accepts(auto, '{"names": 1}')
    for unbound in ('{"name": "Oslo"}', '{ "name": "get"}', f"\n{bare}"):  # the parser would see a call
        assert not known.accepts(auto, unbound)


@EVERY
def test_marker_in_ordinary_characters_binds_too(
    format: ToolFormat, vocabularies: Mapping[str, Vocabulary]
) -> None:
    """The parser cannot tell it from the special token."""
    known = vocabularies[format.name]
    auto = grammar(format, known, "auto")
    assert known.accepts(auto, f"Hi {format.begin[:-1]}", as_text=True)
    assert not known.accepts(auto, f"Hi {format.begin}nonsense", as_text=True)


def test_schema_of_the_arguments_is_part_of_the_tools_own() -> None:
    assert arguments_schema(Tool("f")) == {"type": "object", "properties": {}, "additionalProperties": False}
    assert arguments_schema(Tool("f", parameters={})) == arguments_schema(Tool("f"))
    inner = {"type": "object", "properties": {"x": {"type": "object"}}, "required": ["x"]}
    tool = Tool("f", parameters={"type": ["object", "null"], "properties": {"list": {"items": inner}}})
    closed = arguments_schema(tool)
    assert closed["type"] == "object"
    assert closed["additionalProperties"] is False
    assert closed["properties"] == {"list": {"items": {**inner, "additionalProperties": False}}}
    assert "additionalProperties" not in inner


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"a": {}}, "required": ["b"]},
        {"type": "object", "properties": {"a": {}}, "allOf": [{"required": ["b"]}]},
        {"type": "object", "properties": {"a": {}}, "patternProperties": {"^x": {}}},
        {"type": "object", "properties": {"a": {}, "b": {"$ref": "#/properties/a"}}},
    ],
)
def test_schema_that_means_further_members_stays_open(schema: dict[str, Any]) -> None:
    assert arguments_schema(Tool("f", parameters=schema)) == schema


@pytest.mark.parametrize("parameters", [{"properties": 3}, {"properties": {"a": 1}, "required": [{}, 2]}])
def test_schema_that_is_none_is_left_to_be_refused(parameters: dict[str, Any]) -> None:
    assert arguments_schema(Tool("f", parameters=parameters))["properties"] == parameters["properties"]


# how answers are read

PIECES = st.sampled_from(
    [
        *(
            "Hi",
            " ",
            "\n",
            "<",
            "[",
            "{",
            "}",
            '"',
            "\\",
            ",",
            ";",
            "]",
            "é",
            "get",
            "[ARGS]",
            "</tool_call>",
        ),
        *(format.begin for format in FORMATS.values()),
        *(written(format, ("get", OSLO)) for format in FORMATS.values()),
        *(written(format, ("get", OSLO), ("get_time", "{}")) for format in FORMATS.values()),
        '\n{"name": "get", "arguments": ',
        '\n{"name": "other", "arguments": {}}',
        '{"arguments": "{\\"a\\": \\"\\u00e9\\"}", "name": "get"}',
        '{"parameters": [1, {"b": "}"}], "name": "get_time", "x": -1.5e3}',
    ]
)
ANSWERS = st.lists(PIECES, max_size=12).map("".join)
BORDERS = st.lists(st.integers(0, 500), max_size=20)


def cut(text: str, borders: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(border % (len(text) + 1) for border in borders)})
    return [text[start:end] for start, end in itertools.pairwise(edges)]


@EVERY
@given(answer=ANSWERS, borders=BORDERS)
def test_what_is_read_does_not_depend_on_the_pieces(
    format: ToolFormat, answer: str, borders: list[int]
) -> None:
    parts = read(format, answer)
    assert read(format, *cut(answer, borders)) == parts
    kinds = [type(part) for part in parts if not isinstance(part, Text | CallArguments)]
    assert kinds == [CallBegin, CallEnd] * (len(kinds) // 2)


@EVERY
@given(answer=ANSWERS, borders=BORDERS)
def test_answer_without_a_call_is_text_unchanged(format: ToolFormat, answer: str, borders: list[int]) -> None:
    parts = read(format, *cut(answer, borders), tools=(Tool("unheard-of"),))
    assert parts == ([Text(answer)] if answer else [])


@EVERY
@given(arguments=st.dictionaries(st.text(max_size=5), st.text() | st.integers()), borders=BORDERS)
def test_arguments_arrive_as_they_were_written(
    format: ToolFormat, arguments: dict[str, str | int], borders: list[int]
) -> None:
    source = json.dumps(arguments, ensure_ascii=False)
    answer = "Hm.\n" + written(format, ("get", source), ("get_time", "{}")) + "\n"
    expected = [Text("Hm."), *call("get", source), *call("get_time", "{}")]
    assert read(format, *cut(answer, borders)) == expected


def test_pieces_come_as_soon_as_they_are_known() -> None:
    parser = FORMATS["hermes"].parser(TOOLS)
    pieces = [
        "Hi",
        " the",
        "re\n",
        "<tool",
        "_call>\n{",
        '"name": "get',
        '"',
        ', "arguments": ',
        '{"ci',
        'ty": 1',
    ]
    parts = [parser.push(piece) for piece in pieces]
    assert parts[:3] == [[Text("Hi")], [Text(" the")], [Text("re")]]
    assert parts[3:] == [
        [],
        [],
        [],
        [CallBegin("get")],
        [],
        [CallArguments('{"ci')],
        [CallArguments('ty": 1')],
    ]
    assert parser.push("}") == [CallArguments("}")]
    assert parser.push("}") == [CallEnd()]
    assert parser.push("\n</tool_call>\n") == parser.flush() == []


def test_beginning_of_a_marker_is_held_no_longer_than_it_may_be_one() -> None:
    parser = FORMATS["hermes"].parser(TOOLS)
    assert [parser.push(piece) for piece in ("a <too", "l", "s> b", " ")] == [
        [Text("a")],
        [],
        [Text(" <tools> b")],
        [],
    ]
    assert parser.flush() == [Text(" ")]


@pytest.mark.parametrize(
    "answer",
    [
        '<tool_call>\n{"name": "other", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "ge',
        '<tool_call>\n{"arguments": {"a": 1}}\n</tool_call>',
        "<tool_call>\nget(city)\n</tool_call>",
        "Use <tool_call> for it.\n",
        " \n ",
        "</tool_call>",
    ],
)
def test_what_is_no_call_is_text(answer: str) -> None:
    assert read(FORMATS["hermes"], answer) == [Text(answer)]


def test_call_after_one_that_was_none_is_read() -> None:
    good = written(FORMATS["hermes"], ("get", OSLO))
    assert read(FORMATS["hermes"], f"<tool_call>\n{good}") == [Text("<tool_call>\n"), *call("get", OSLO)]


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"arguments": {"a": "</tool_call>"}, "name": "get"}', '{"a": "</tool_call>"}'),
        ('{"name": "get"}', "{}"),
        ('{"name": "get", "arguments": null}', "{}"),
        ('{"name": "get", "arguments": ""}', "{}"),
        (
            '{"name": "get", "arguments": "{\\"a\\": \\"\\\\n\\u00e9\\ud83d\\ude00\\"}"}',
            '{"a": "\\né\\ud83d\\ude00"}',
        ),
        ('{"name": "get", "arguments": "Oslo"}', '"Oslo"'),
        ('{"type": "function", "name": "get", "id": [1, {}], "parameters": {"a": 1}}', '{"a": 1}'),
        ('{"name": "get", "arguments": {"a": 1}', '{"a": 1}'),  # a brace is missing
        ('{"name": "get", "arguments": {"a": 1\n', '{"a": 1\n'),
    ],
)
def test_calls_that_models_write_are_understood(body: str, arguments: str) -> None:
    answer = f"<tool_call>{body}</tool_call> Done."
    assert read(FORMATS["hermes"], answer) == [*call("get", arguments), Text("Done.")]


def test_call_that_is_cut_off_keeps_what_came() -> None:
    answer = '<tool_call>\n{"name": "get", "arguments": {"city": "Os'
    assert read(FORMATS["hermes"], answer) == call("get", '{"city": "Os')
    assert read(FORMATS["mistral-args"], "[TOOL_CALLS]get[ARGS]") == call("get", "")


def test_white_space_around_calls_is_no_text() -> None:
    one = written(FORMATS["hermes"], ("get_time", "{}"))
    answer = f"\n Wait.\n\n{one}\n\n{one} \nDone.\n"
    calls = call("get_time", "{}")
    assert read(FORMATS["hermes"], answer) == [Text("\n Wait."), *calls, *calls, Text("Done.\n")]


def test_llama_call_stands_at_the_beginning_or_behind_its_tag() -> None:
    one = '{"name": "get", "parameters": {"a": 1}}'
    calls = call("get", '{"a": 1}')
    llama = FORMATS["llama3"]
    assert read(llama, f"\n{one}") == read(llama, f"<|python_tag|>{one}") == calls
    assert read(llama, f"{one}; {one}\n{one}") == calls * 3
    assert read(llama, f"I say {one}") == [Text(f"I say {one}")]
    assert read(llama, '{"city": "Oslo", "name": "get"}') == [Text('{"city": "Oslo", "name": "get"}')]
    assert read(llama, f"{one}; then") == [*calls, Text("; then")]


def test_mistral_header_may_hold_the_calls_id() -> None:
    answer = '[TOOL_CALLS]get[CALL_ID]a1b2c3d4e[ARGS]{"city": "Oslo"}'
    assert read(FORMATS["mistral-args"], answer) == call("get", '{"city": "Oslo"}')
    assert read(FORMATS["mistral"], '[TOOL_CALLS] {"name": "get"} ') == call("get", "{}")


def test_arguments_of_our_example_satisfy_the_schema() -> None:
    assert WEATHER.parameters is not None
    validate(json.loads(OSLO), dict(WEATHER.parameters))
