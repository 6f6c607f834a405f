"""JSON that is written in pieces: the text of one call, and no piece that holds the GIL for long."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.finite import COMPACT, PIECE, dumped_pieces, dumps, finite, loads, size_up_to

LARGE: dict[str, Any] = {
    "one text": {"messages": [{"role": "user", "content": "a word " * 200_000}]},
    "a text beyond ASCII, with half of a pair": ["é😀\ud83d" * 100_000, "\n" * 200_000],
    "many small entries": {"messages": [{"role": "user", "content": str(n)} for n in range(20_000)]},
    "many members": {f"name {n}": n / 3 for n in range(50_000)},
    "large and small members by turns": {f"{n}": "x" * (PIECE if n % 2 else 3) for n in range(8)},
    "large and small entries by turns": ["x" * (PIECE if n % 3 else 3) for n in range(8)],
    "numbers that JSON does not have": [math.nan, math.inf, -math.inf] * 20_000,
    "a tuple of lists": ([1, 2, 3] * 30_000, [], {}, [[]]),
    "far inside": {"a": [{"b": {"c": [{"d": {"e": [{"f": "x" * 300_000}]}}]}}]},
    "a long name": {"n" * 100_000: 1},
}


@pytest.mark.parametrize("value", LARGE.values(), ids=LARGE.keys())
def test_the_pieces_are_the_text_of_one_call(value: Any) -> None:
    assert "".join(dumped_pieces(value)) == dumps(value)
    compact = (",", ":")
    pieces = dumped_pieces(value, ensure_ascii=False, separators=compact)
    assert "".join(pieces) == dumps(value, ensure_ascii=False, separators=compact)


@pytest.mark.parametrize("name", [name for name in LARGE if name != "a long name"])
def test_no_piece_is_much_larger_than_the_bound(name: str) -> None:
    pieces = list(dumped_pieces(LARGE[name], ensure_ascii=False))
    assert len(pieces) > 1
    assert max(map(len, pieces)) <= 4 * PIECE


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@settings(deadline=None, max_examples=60)
@given(VALUES, st.booleans(), st.booleans())
def test_pieces_are_what_pythons_encoder_writes(value: Any, ensure_ascii: bool, sort_keys: bool) -> None:
    """Prompts and the hashes of items depend on it."""
    large = finite({"z": ["x" * PIECE, value], "a": value, "\ud83d": "é\ude00" * PIECE})
    found = dumped_pieces(large, ensure_ascii=ensure_ascii, sort_keys=sort_keys, separators=COMPACT)
    assert "".join(found) == json.dumps(
        large, ensure_ascii=ensure_ascii, sort_keys=sort_keys, separators=COMPACT
    )


@settings(deadline=None, max_examples=60)
@given(VALUES, st.integers(1, 5))
def test_any_value_among_large_ones_is_written_as_one_call_writes_it(value: Any, times: int) -> None:
    whole = {"before": "x" * PIECE, "value": value, "list": [value] * times, "after": ["y" * PIECE, value]}
    assert "".join(dumped_pieces(whole)) == dumps(whole)
    json.dumps(loads(dumps(whole)), allow_nan=False)


def test_the_size_is_counted_no_further_than_its_limit() -> None:
    assert size_up_to({"a": "bcd", "list": [1, 2, None]}, 1000) < 200
    assert 1000 < size_up_to({"text": "x" * 5000}, 1000) < 6000
    endless: list[Any] = []
    endless.append(endless)
    assert size_up_to(endless, 1000) > 1000
