"""The input of a streamed call is the object that whole answers have, however its text is cut."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.dialects.anthropic import tool_input
from headrace.wire.anthropic.tool_input import ToolInput

TEXTS = st.text(alphabet=st.sampled_from("{}[]\":,\\ \n'a1é🌊"), max_size=30)


def streamed(text: str, *cuts: int) -> str:
    found = ToolInput()
    places = sorted(min(cut, len(text)) for cut in (0, *cuts, len(text)))
    pieces = [found.push(text[start:end]) for start, end in pairwise(places)]
    return "".join(pieces) + found.end()


@given(TEXTS, st.lists(st.integers(0, 30), max_size=4))
def test_what_is_streamed_is_what_is_whole(text: str, cuts: list[int]) -> None:
    found = streamed(text, *cuts)
    if not text.strip():
        assert found == ""
    elif found != text:
        assert json.loads(found) == tool_input(text)
    else:
        inner = text.strip().removeprefix("{").lstrip()
        assert inner[:1] in ('"', "}")


@pytest.mark.parametrize("text", ['{"a": 1}', ' {\n"a": "é"}', "{}", "{ }", '{"a": '])
def test_what_begins_as_an_object_is_passed_on_at_once(text: str) -> None:
    assert streamed(text, *range(len(text))) == text
    found = ToolInput()
    assert found.push('{"a": "') + found.push("b") == '{"a": "b'


def test_what_is_no_object_is_passed_on_at_once_too() -> None:
    found = ToolInput()
    assert found.push('sa"y') == '{"arguments": "sa\\"y'
    assert found.push(" it") == " it"
    assert found.end() == '"}'


def test_many_blanks_are_held_back_once() -> None:
    assert streamed(" " * 1000 + "{", *range(1000)) == json.dumps({"arguments": " " * 1000 + "{"})
