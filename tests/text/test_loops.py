"""A loop is the same long run of tokens over and over; what only resembles itself is none."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from headrace.text.stops import LoopDetector


def found(tokens: Sequence[int], wanted: int = 200) -> int | None:
    """How many tokens it took."""
    detector = LoopDetector(wanted)
    return next((count for count, token in enumerate(tokens, 1) if detector.push(token)), None)


@pytest.mark.parametrize("period", [1, 2, 3, 15, 16, 17, 40, 100])
@pytest.mark.parametrize("before", [0, 1, 50])
def test_a_loop_is_found_soon(period: int, before: int) -> None:
    rng = random.Random(period)
    start = [rng.randrange(1000, 2000) for _ in range(before)]
    loop = [rng.randrange(1000) for _ in range(period)]
    count = found([*start, *(loop * 500)])
    assert count is not None
    least = max(200, 3 * period)
    assert before + least <= count <= before + least + 2 * period + 32


def test_a_loop_that_begins_anew_is_found() -> None:
    rng = random.Random(1)
    first, second = ([rng.randrange(99) for _ in range(20)] for _ in range(2))
    assert found([*(first * 5), 7, *(second * 5), 8, *(first * 500)]) is not None


def test_what_counts_or_differs_is_no_loop() -> None:
    rows = [
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 1000 + row] for row in range(999)
    ]
    assert found([token for row in rows for token in row]) is None
    rng = random.Random(2)
    assert found([rng.randrange(50) for _ in range(50_000)]) is None
    words = [[rng.randrange(999) for _ in range(30)] for _ in range(5)]
    assert found([token for _ in range(500) for token in rng.choice(words)]) is None


def test_a_run_that_ends_in_time_is_no_loop() -> None:
    assert found([5] * 199) is None
    assert found([1, 2, 3, 4, 5, 6, 7, 8] * 24) is None
    assert found(list(range(300)) * 3) is None
