from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.text.toolcalls import FORMATS, CallArguments, CallBegin, CallEnd, Parser, Part, Text, ToolFormat
from headrace.text.toolcalls.call_reader import merged
from headrace.types import Tool
from tests.text.toolcalls.calls import EVERY, OSLO, TOOLS, written

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


def read(format: ToolFormat, *pieces: str, tools: Sequence[Tool] = TOOLS) -> list[Part]:
    parser = Parser(format, tools)
    parts = [part for piece in pieces for part in parser.push(piece)]
    return merged([*parts, *parser.flush()])


def call(name: str, arguments: str) -> list[Part]:
    return merged([CallBegin(name), CallArguments(arguments), CallEnd()])


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


@EVERY
@given(borders=BORDERS)
def test_a_bracket_after_a_call_is_text_unless_it_closes_a_list(
    format: ToolFormat, borders: list[int]
) -> None:
    whole = written(format, ("get", OSLO))
    assert read(format, *cut(whole + "]", borders)) == [*call("get", OSLO), Text("]")]
    if format.closing == "]":
        assert read(format, *cut(whole.removesuffix("]") + " ]", borders)) == call("get", OSLO)


def test_pieces_come_as_soon_as_they_are_known() -> None:
    parser = Parser(FORMATS["hermes"], TOOLS)
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
    parser = Parser(FORMATS["hermes"], TOOLS)
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
        ('{"name": "functions.get", "arguments": {"a": 1}}', '{"a": 1}'),
        ('{"id": "call_1", "function": {"name": "functions.get", "arguments": {"a": 1}}}', '{"a": 1}'),
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
    assert read(llama, f"I say {one}") == [Text("I say"), *calls]
    assert read(llama, f"I say`{one}`") == [Text(f"I say`{one}`")]
    assert read(llama, '{"city": "Oslo", "name": "get"}') == [Text('{"city": "Oslo", "name": "get"}')]
    assert read(llama, f"{one}; then") == [*calls, Text("; then")]


def test_mistral_header_may_hold_the_calls_id() -> None:
    answer = '[TOOL_CALLS]get[CALL_ID]a1b2c3d4e[ARGS]{"city": "Oslo"}'
    assert read(FORMATS["mistral-args"], answer) == call("get", '{"city": "Oslo"}')
    assert read(FORMATS["mistral"], '[TOOL_CALLS] {"name": "get"} ') == call("get", "{}")


@pytest.mark.parametrize(
    "answer",
    [
        '{"type": "function", "name": "get", "parameters": {"a": 1}}',
        '{"type": "function", "function": "get", "parameters": {"a": 1}}',
        '{"type": "function", "function": {"name": "get", "parameters": {"a": 1}}}',
        '{"function": {"name": "get", "arguments": {"a": 1}}, "type": "function"}',
        '{"function": "get", "parameters": {"a": 1}}',
        '{"name": "functions.get", "parameters": {"a": 1}}',
        '{"parameters": {"a": 1}, "name": "get"}',
        '{"name": "get", "input": {"a": 1}}',
        '{"name": "get", "args": "{\\"a\\": 1}"}',
        '<|python_tag|>{"type": "function", "name": "get", "parameters": {"a": 1}}',
        '<|python_tag|>{"type": "function", "function": "get", "arguments": {"a": 1}}',
    ],
)
def test_l11_forms_of_llama_3_are_calls(answer: str) -> None:
    llama, calls = FORMATS["llama3"], call("get", '{"a": 1}')
    assert read(llama, answer) == read(llama, *answer) == calls
    assert read(llama, f"Let me see.\n\n{answer}") == [Text("Let me see."), *calls]
    bare = answer.removeprefix("<|python_tag|>")
    assert read(llama, f"{answer}; {bare}\n{bare}") == calls * 3


@pytest.mark.parametrize("sign", [".", "!", "?", "```json\n", "<call>"])
def test_l11_a_bare_call_needs_no_space_before_it(sign: str) -> None:
    answer, calls = f'So{sign}{{"name": "get", "parameters": {{"a": 1}}}}', call("get", '{"a": 1}')
    text = Text(f"So{sign}".rstrip())
    assert read(FORMATS["llama3"], answer) == read(FORMATS["llama3"], *answer) == [text, *calls]


def test_l11_a_list_of_bare_calls() -> None:
    llama, one = FORMATS["llama3"], '{"name": "get", "parameters": {"a": 1}}'
    calls = call("get", '{"a": 1}')
    for answer in (f"[{one}]", f"\n[ {one} ]\n", f"[{one}"):
        assert read(llama, answer) == read(llama, *answer) == calls
    assert read(llama, f"[{one},\n {one}]") == calls * 2
    assert read(llama, f"[{one}] Done.") == [*calls, Text("Done.")]
    for text in ('[{"name": "Bob"}]', "[1, 2]", "[x](y)", "[", '[ {"a": 1}]', f"{one}]"[1:]):
        assert read(llama, text) == [Text(text)]
    assert read(FORMATS["hermes"], f"[{one}]") == [Text(f"[{one}]")]


@pytest.mark.parametrize(
    "one",
    [
        '{"id": "call_1", "name": "get", "parameters": {"a": 1}}',
        '{"id": 1, "type": "function", "function": {"name": "get", "arguments": {"a": 1}}}',
        '{"id": null, "arguments": {"a": 1}, "name": "get"}',
        '{"type": "function", "id": "x", "name": "get", "args": {"a": 1}}',
    ],
)
def test_l11_a_bare_call_may_begin_with_its_id(one: str) -> None:
    llama, calls = FORMATS["llama3"], call("get", '{"a": 1}')
    assert read(llama, one) == read(llama, *one) == calls
    assert read(llama, f"[{one}, {one}]") == calls * 2
    assert read(llama, f"Yes. {one}") == [Text("Yes."), *calls]


@pytest.mark.parametrize(
    "answer",
    [
        '{"id": 7, "title": "get", "name": "get"}',
        '{"id": "get"}',
        '{"identity": "x", "name": "get"}',
        '{"id": 1, "type": "object", "name": "get"}',
        '{"type": "object", "name": "get", "parameters": {"a": 1}}',
        '{"type": "function", "name": "other", "parameters": {"a": 1}}',
        '{"function": 5, "name": "x"}',
        'As {"name": "Bob"} or {"type": "function"} or { } say',
        'A list: [{"name": "get", "parameters": {}}]',
        '{"parameters": {"a": 1}}',
    ],
)
def test_l11_objects_that_name_no_tool_are_text(answer: str) -> None:
    assert read(FORMATS["llama3"], answer) == [Text(answer)]


def ended(format: ToolFormat, answer: str, *, is_forced: bool) -> list[Part]:
    parser = Parser(format, TOOLS)
    return merged([*parser.push(answer), *parser.flush(is_cut=True, is_forced=is_forced)])


@EVERY
def test_l12_a_forced_call_that_is_cut_leaves_no_markup(format: ToolFormat) -> None:
    whole = written(format, ("get", OSLO))
    for length in range(len(whole) + 1):
        parts = ended(format, whole[:length], is_forced=True)
        assert not [part for part in parts if isinstance(part, Text)], whole[:length]


@EVERY
def test_l12_a_call_that_is_cut_leaves_no_trigger(format: ToolFormat) -> None:
    beginning = f"Hm. {format.begin}"
    for length in range(6, len(beginning) + 1):
        assert ended(format, beginning[:length], is_forced=False) == [Text("Hm.")]
    assert ended(format, "Hm. a <", is_forced=False) == [Text("Hm. a <")]
