from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from headrace.text.stops import StopMatcher

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
    matcher = StopMatcher(tuple(stops))
    shown = "".join(matcher.push(piece) for piece in cut(text, borders))
    assert not any(stop in shown for stop in stops)
    assert shown + matcher.flush() == expected(text, stops)
    assert matcher.stop is None or text[len(shown) :].startswith(matcher.stop)
    assert (matcher.stop is None) == (expected(text, stops) == text)


def test_only_what_may_begin_a_stop_is_held_back() -> None:
    matcher = StopMatcher(("\n\nUser:", "END"))
    assert [matcher.push(piece) for piece in ("Hi EN", "D", " more")] == ["Hi ", "", ""]
    assert matcher.stop == "END"
    assert matcher.flush() == ""


def test_held_text_is_shown_when_it_was_no_stop() -> None:
    matcher = StopMatcher(("END",))
    assert [matcher.push(piece) for piece in ("E", "N", "x")] == ["", "", "ENx"]
    assert matcher.push("EN") == ""
    assert matcher.flush() == "EN"


def test_without_stops_everything_passes_at_once() -> None:
    assert StopMatcher(()).push("END") == "END"
