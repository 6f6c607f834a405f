from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.text.reasoning import Reasoned, Splitter, Thinking, detect, template_variables
from headrace.text.toolcalls import Text

THINK = Thinking("<think>", "</think>")
PIECES = st.sampled_from(["<think>", "</think>", "<", "</", "think", ">", " ", "\n", "hm", "so", "é"])


def split(
    *pieces: str, thinking: Thinking | None = THINK, is_open: bool = False
) -> tuple[str | None, str | None]:
    """What it thought and what it said; None for nothing. Thoughts come first."""
    splitter = Splitter(thinking, is_open=is_open)
    parts = [part for piece in pieces for part in splitter.push(piece)] + splitter.flush()
    kinds = [kind for kind, _ in itertools.groupby(parts, type)]
    assert kinds in ([], [Reasoned], [Text], [Reasoned, Text])
    assert all(part.text for part in parts)
    thought = "".join(part.text for part in parts if isinstance(part, Reasoned))
    said = "".join(part.text for part in parts if isinstance(part, Text))
    return thought or None, said or None


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ '<think>\n' }}", THINK),
        ("{{ message.content.split('</think>')[-1] }}", THINK),
        ("{{ '<reasoning>' }}", Thinking("<reasoning>", "</reasoning>")),
        ("{{ '</thought>' }}", Thinking("<thought>", "</thought>")),
        ("{{ '[THINK]' }}", Thinking("[THINK]", "[/THINK]")),
        ("{{ messages }}", None),
        (None, None),
    ],
)
def test_marks_are_those_of_the_template(source: str | None, expected: Thinking | None) -> None:
    assert detect(source) == expected


def test_prompt_may_begin_the_thinking() -> None:
    assert THINK.starts_open("<|assistant|>\n<think>\n")
    assert not THINK.starts_open("<|assistant|>\n<think>\n\n</think>\n\n")
    assert not THINK.starts_open("What is <think>?<|assistant|>\n")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("<think>\nHm, 2.\n</think>\n\nIt is 2.\n", ("Hm, 2.", "It is 2.\n")),
        ("\n <think>Hm.</think>2", ("Hm.", "2")),
        ("<think>\n\n</think>\n\n2", (None, "2")),
        ("<think>a </thin> b</think>c</think>", ("a </thin> b", "c</think>")),
        ("  2 <think>3</think>", (None, "  2 <think>3</think>")),
        ("<thin", (None, "<thin")),
        ("<think>Hm", ("Hm", None)),
        ("<think>Hm\n</thi", ("Hm\n</thi", None)),
        ("<think>\n", (None, None)),
        ("\n", (None, "\n")),
    ],
)
def test_answer_is_split_at_its_marks(answer: str, expected: tuple[str | None, str | None]) -> None:
    assert split(answer) == expected
    assert split(*answer) == expected


def test_open_answer_goes_on_thinking() -> None:
    assert split("\nHm. ", "\n</think>\n", "2", is_open=True) == ("Hm.", "2")
    assert split("Hm.", is_open=True) == ("Hm.", None)


@given(
    answer=st.lists(PIECES, max_size=15).map("".join),
    borders=st.lists(st.integers(0, 60)),
    is_open=st.booleans(),
)
def test_split_does_not_depend_on_the_pieces(answer: str, borders: list[int], is_open: bool) -> None:
    edges = sorted({0, len(answer), *(border % (len(answer) + 1) for border in borders)})
    pieces = [answer[start:end] for start, end in itertools.pairwise(edges)]
    assert split(*pieces, is_open=is_open) == split(answer, is_open=is_open)


def test_pieces_come_as_soon_as_they_are_known() -> None:
    splitter = Splitter(THINK)
    pieces = ["<thi", "nk>\n", "Hm", "m, <", "b> \n", "</think", ">", "\n\n", "Yes", " no <think>"]
    assert [splitter.push(piece) for piece in pieces] == [
        *([], [], [Reasoned("Hm")], [Reasoned("m,")], [Reasoned(" <b>")], [], [], []),
        *([Text("Yes")], [Text(" no <think>")]),
    ]


def test_model_that_does_not_think_is_not_held_up() -> None:
    splitter = Splitter(None)
    assert [splitter.push(piece) for piece in (" <think>", "\n")] == [[Text(" <think>")], [Text("\n")]]
    assert splitter.flush() == []


def test_effort_is_written_in_the_templates_own_variable() -> None:
    def variables(effort: str | None, *supported: str) -> object:
        return template_variables(supported.__contains__, effort)

    assert variables("high", "reasoning_effort", "enable_thinking") == {"reasoning_effort": "high"}
    assert variables("minimal", "enable_thinking") == {"enable_thinking": True}
    assert variables("none", "enable_thinking") == {"enable_thinking": False}
    assert variables("none", "thinking") == {"thinking": False}
    assert variables(None, "thinking") == variables(None) == {}
    assert variables("low") is variables("none") is None
