"""Which tokens of an answer are part of a call, of a prescribed form, or of a thought."""

from __future__ import annotations

import pytest

from headrace.backends.engine.steering import AnswerWatch
from headrace.steering.plan import IN_CALL, IN_THOUGHT
from headrace.text.reasoning import Thinking

THINKING = Thinking("<think>", "</think>")
SHOWN = {0: ".", IN_CALL: "c", IN_THOUGHT: "t"}


def states(text: str, size: int = 1, **options: object) -> str:
    """One character for each of the text's: the state after the token that ends with it, else a space."""
    settings = {"is_formed": False, "begin": None, "thinking": None, "is_open": False, **options}
    tokens = [text[start : start + size].encode() for start in range(0, len(text), size)]
    watch = AnswerWatch(lambda token: tokens[token], **settings)  # type: ignore[arg-type]
    first = SHOWN[watch.state]
    return first + "".join(SHOWN[watch.flag(token)].rjust(len(tokens[token])) for token in range(len(tokens)))


def test_ordinary_answers_have_no_state() -> None:
    assert states("hello <call>") == "." * 13


@pytest.mark.parametrize("size", [1, 2, 3, 6, 20])
def test_calls_begin_with_their_mark(size: int) -> None:
    found = states("Hi <call>{}</call> x", size, begin="<call>")
    assert found[0] == "."
    assert found.rstrip()[-1] == "c"
    before = found[1 : 1 + len("Hi <call")].replace(" ", "")
    assert set(before) <= {"."} or size > 8


def test_a_prescribed_form_is_a_call_from_the_start() -> None:
    assert states("{}", is_formed=True) == "ccc"


def test_thoughts_end_with_their_mark() -> None:
    assert states("ab</think>cd", thinking=THINKING, is_open=True) == "tttttttttt..."
    assert states("<think>x</think>y", thinking=THINKING) == ".......ttttttttt.."[:18]
    assert states("x</think>y", is_formed=True, thinking=THINKING, is_open=True) == "ttttttttt" + "cc"


def test_marks_of_calls_in_thoughts_do_not_count() -> None:
    text = "<call></think><call>"
    assert states(text, begin="<call>", thinking=THINKING, is_open=True) == "t" * 14 + "......" + "c"
