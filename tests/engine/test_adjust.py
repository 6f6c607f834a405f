"""Bias, penalties and masks against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.engine.sampler import adjust
from headrace.engine.sequence import SamplingParams, Sequence

ROW = np.array([1.0, -2.0, 3.0, 0.5, -0.5, 2.5], np.float32)


def after(prompt: list[int], generated: list[int], **params: object) -> Sequence:
    sequence = Sequence(list(prompt), SamplingParams(100, **params))  # type: ignore[arg-type]
    for token in generated:
        sequence.accept(token)
    return sequence


def test_nothing_to_do_gives_the_row_itself() -> None:
    assert adjust(ROW, after([0], [1, 2]), None) is ROW


def test_penalties_are_openais_and_count_only_what_was_generated() -> None:
    sequence = after([0, 5], [2, 2, 3], frequency_penalty=0.5, presence_penalty=0.25)
    expected = ROW.copy()
    expected[2] -= 2 * 0.5 + 0.25
    expected[3] -= 1 * 0.5 + 0.25
    before = ROW.copy()
    assert adjust(ROW, sequence, None).tolist() == expected.tolist()
    assert ROW.tolist() == before.tolist(), "the runner's array is not ours to change"


def test_repetition_penalty_divides_what_is_positive_and_counts_the_prompt_too() -> None:
    expected = ROW.copy()
    expected[[0, 2]] /= 2
    expected[[1]] *= 2
    assert adjust(ROW, after([0, 1], [2], repetition_penalty=2.0), None).tolist() == expected.tolist()


def test_repetition_penalty_goes_on_with_the_answer() -> None:
    sequence = after([0], [], repetition_penalty=2.0)
    for token in (2, 1, 2, 5):
        adjust(ROW, sequence, None)
        sequence.accept(token)
    expected = ROW.copy()
    expected[[0, 2, 5]] /= 2
    expected[1] *= 2
    assert adjust(ROW, sequence, None).tolist() == expected.tolist()


@pytest.mark.parametrize(("window", "penalized"), [(1, {2}), (4, {1, 2}), (5, {0, 1, 2}), (99, {0, 1, 2, 5})])
def test_repetition_penalty_looks_at_a_window(window: int, penalized: set[int]) -> None:
    sequence = after([5, 0, 1], [2, 1, 2], repetition_penalty=2.0, repetition_window=window)
    adjusted = adjust(ROW, sequence, None)
    assert {token for token in range(len(ROW)) if adjusted[token] != ROW[token]} == penalized


def test_a_window_may_hold_tokens_that_the_row_has_not() -> None:
    sequence = after([0], [900], repetition_penalty=2.0, repetition_window=2)
    assert adjust(ROW, sequence, None).tolist() == [ROW[0] / 2, *ROW[1:].tolist()]


def test_end_is_put_off_unless_a_mask_allows_nothing_else() -> None:
    ends = {"stop_token_ids": frozenset({2, 600}), "min_tokens": 5}
    for allowed, best in (({0, 2}, 0), ({2}, 2)):
        mask = packed(np.isin(np.arange(6), list(allowed)))
        sequence = after([0], [], **ends)
        sequence.constraint = Anything()
        assert adjust(ROW, sequence, mask).argmax() == best


class Anything:
    def fill(self, mask: NDArray[np.int32]) -> None:
        mask[:] = -1

    def forced(self) -> list[int]:
        return []

    def accept(self, token: int) -> bool:
        return False


def test_bias_is_added_and_ids_beyond_the_row_are_nothing() -> None:
    found = adjust(ROW, after([0], [], logit_bias=((1, 5.0), (4, -100.0), (600, 1.0))), None)
    assert found.tolist() == [1.0, 3.0, 3.0, 0.5, -100.5, 2.5]


@pytest.mark.parametrize("size", [6, 32, 33, 100])
def test_a_mask_leaves_the_tokens_whose_bits_are_set(size: int) -> None:
    row = np.arange(size, dtype=np.float32)
    allowed = np.random.default_rng(size).random(size) < 0.5
    found = adjust(row, after([0], []), packed(allowed))
    assert np.flatnonzero(np.isfinite(found)).tolist() == np.flatnonzero(allowed).tolist()
    assert found[allowed].tolist() == row[allowed].tolist()


def packed(allowed: NDArray[np.bool_]) -> NDArray[np.int32]:
    bits = np.zeros(-(-len(allowed) // 32) * 32, np.bool_)
    bits[: len(allowed)] = allowed
    return np.packbits(bits, bitorder="little").view(np.int32)
