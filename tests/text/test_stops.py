from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.text.stops import StopMatcher, Stops

FEW_LETTERS = st.text("abc", max_size=30)
STOPS = st.lists(st.text("abc", min_size=1, max_size=5), max_size=4)


def cut(text: str, borders: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(border % (len(text) + 1) for border in borders)})
    return [text[start:end] for start, end in itertools.pairwise(edges)]


def expected(text: str, stops: list[str]) -> str:
    """Letter by letter, up to the first stop string that is complete."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


@given(FEW_LETTERS, STOPS, st.lists(st.integers(0, 30), max_size=8))
def test_shown_text_ends_before_the_first_stop_however_it_is_cut(
    text: str, stops: list[str], borders: list[int]
) -> None:
    matcher = StopMatcher(Stops(stops))
    shown = "".join(matcher.push(piece) for piece in cut(text, borders))
    assert not any(stop in shown for stop in stops)
    assert shown + matcher.flush() == expected(text, stops)
    assert matcher.stop is None or text[len(shown) :].startswith(matcher.stop)
    assert (matcher.stop is None) == (expected(text, stops) == text)


def test_only_what_may_begin_a_stop_is_held_back() -> None:
    matcher = StopMatcher(Stops(("\n\nUser:", "END")))
    assert [matcher.push(piece) for piece in ("Hi EN", "D", " more")] == ["Hi ", "", ""]
    assert matcher.stop == "END"
    assert matcher.flush() == ""


def test_held_text_is_shown_when_it_was_no_stop() -> None:
    matcher = StopMatcher(Stops(("END",)))
    assert [matcher.push(piece) for piece in ("E", "N", "x")] == ["", "", "ENx"]
    assert matcher.push("EN") == ""
    assert matcher.flush() == "EN"


def test_without_stops_everything_passes_at_once() -> None:
    assert StopMatcher(Stops(())).push("END") == "END"


class Counted(Stops):
    """Counts the steps of its matchers."""

    steps = 0

    def __init__(self, stops: Iterable[str]) -> None:
        super().__init__(stops)
        self.steps = 0

    def step(self, state: int, character: str) -> int:
        self.steps += 1
        return super().step(state, character)


@pytest.mark.parametrize("count", [4, 1000, 100_000])
def test_a_character_is_one_step_however_many_stops_there_are(count: int) -> None:
    stops = Counted(f"<stop {number}>" for number in range(count))
    matcher = StopMatcher(stops)
    text = "The wheel <stop turns <stop <stop x"
    assert "".join(matcher.push(one) for one in text) == text[: -len("x")] + "x"
    assert stops.steps == len(text)
    assert matcher.push(f"<stop {count - 1}>") == ""
    assert matcher.stop == f"<stop {count - 1}>"


def test_text_that_nearly_stops_for_long_is_no_more_work() -> None:
    stop = "a" * 5000 + "b"
    stops = Counted([stop, "aab"])
    matcher = StopMatcher(stops)
    shown = "".join(matcher.push("a") for _ in range(20_000))
    assert stops.steps == 20_000
    assert len(shown) == 15_000
    assert matcher.push("b") == ""
    assert matcher.stop == stop
