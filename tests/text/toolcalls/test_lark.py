from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Literal

import llguidance
import pytest
from jsonschema import validate

from headrace.models.catalog import Model
from headrace.text.structured.schema import json_grammar
from headrace.text.toolcalls import FORMATS, CallBegin, Parser, ToolFormat, arguments_schema, call_grammar
from headrace.types import Tool
from tests.text.toolcalls.calls import EVERY, OSLO, TOOLS, WEATHER, written

Mode = Literal["auto", "required"]


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
    return call_grammar(format, TOOLS, mode=mode, parallel=parallel, special=known.special, schema=_schema)


def _schema(tool: Tool) -> str:
    return json_grammar(arguments_schema(tool), "tools")


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


def test_l11_a_strict_tool_is_named_in_no_unbound_call(vocabularies: Mapping[str, Vocabulary]) -> None:
    """The parser reads each of these as a call, whose arguments no schema would bind."""
    format, known = FORMATS["llama3"], vocabularies["llama3"]
    tools = [Tool("get", None, {"type": "object"}, strict=True), Tool("other", None, {"type": "object"})]
    auto = call_grammar(
        format, tools, mode="auto", parallel=True, special=known.special, schema=lambda _: "{}"
    )
    for before in ('{"parameters": [], ', "[{", "So.{", "So {"):
        for name, space in product(("get", "other"), ("", "functions.")):
            answer = f'{before}"name": "{space}{name}"}}'
            assert CallBegin(name) in Parser(format, tools).push(answer)
            assert known.accepts(auto, answer) is (name == "other")


@EVERY
def test_marker_in_ordinary_characters_binds_too(
    format: ToolFormat, vocabularies: Mapping[str, Vocabulary]
) -> None:
    """The parser cannot tell it from the special token."""
    known = vocabularies[format.name]
    auto = grammar(format, known, "auto")
    assert known.accepts(auto, f"Hi {format.begin[:-1]}", as_text=True)
    assert not known.accepts(auto, f"Hi {format.begin}nonsense", as_text=True)


def test_arguments_of_our_example_satisfy_the_schema() -> None:
    assert WEATHER.parameters is not None
    validate(json.loads(OSLO), dict(WEATHER.parameters))
