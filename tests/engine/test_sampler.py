"""Sampling against a slow definition, against exact probabilities, and at its edges."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headrace.engine.sampler import choose
from headrace.engine.sequence import SamplingParams, Sequence

Floats = NDArray[np.float32]
DRAWN = SamplingParams(max_tokens=100, seed=1)
GREEDY = replace(DRAWN, temperature=0)


def sample(rows: Floats, sequences: list[Sequence]) -> list[int | None]:
    return [choose(row, sequence) for row, sequence in zip(rows, sequences, strict=True)]


def draw(row: Floats, params: SamplingParams, times: int = 1) -> list[int]:
    """Tokens of one sequence, all from the same logits."""
    sequence = Sequence([1], params)
    tokens = sample(np.tile(np.asarray(row, np.float32), (times, 1)), [sequence] * times)
    assert None not in tokens
    return [token for token in tokens if token is not None]


def distribution(row: Floats, params: SamplingParams) -> dict[int, float]:
    """The definition, slowly: the probability of each token that may be drawn."""
    scaled = [float(value) / params.temperature for value in row]
    weight = {token: math.exp(value - max(scaled)) for token, value in enumerate(scaled)}
    candidates = sorted(weight, key=lambda token: (-weight[token], token))[: params.top_k or None]
    whole = sum(weight[token] for token in candidates)
    heavier = [sum(weight[other] for other in candidates[:i]) for i in range(len(candidates))]
    candidates = [
        token
        for token, above in zip(candidates, heavier, strict=True)
        if above < params.top_p * whole or above == 0
    ]
    candidates = [token for token in candidates if weight[token] >= params.min_p]
    left = sum(weight[token] for token in candidates)
    return {token: weight[token] / left for token in candidates}


def is_clear_cut(row: Floats, params: SamplingParams) -> bool:
    """Rounding does not decide who is in: a little more or less of each filter keeps the same tokens."""
    nearby = [
        replace(params, top_p=min(1.0, params.top_p * f), min_p=params.min_p * f)
        for f in (1 - 1e-4, 1 + 1e-4)
    ]
    return len({frozenset(distribution(row, p)) for p in (params, *nearby)}) == 1


filters = st.builds(
    SamplingParams,
    max_tokens=st.just(1),
    temperature=st.floats(0.05, 5),
    top_p=st.just(1.0) | st.floats(0.01, 1),
    top_k=st.just(0) | st.integers(1, 14),
    min_p=st.just(0.0) | st.floats(0.001, 1),
    seed=st.integers(0, 2**32),
)
rows = st.lists(st.integers(-40, 40), min_size=1, max_size=12).map(
    lambda tenths: np.array(tenths, np.float32) / 10
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(row=rows, params=filters)
def test_the_filters_keep_what_the_definition_keeps(row: Floats, params: SamplingParams) -> None:
    assume(is_clear_cut(row, params))
    expected = distribution(row, params)
    found = set(draw(row, params, times=300))
    assert found <= set(expected)
    assert {token for token, p in expected.items() if p > 0.1} <= found  # missed once in 10^13


MIXES = [
    {},
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_k": 5},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"temperature": 0.8, "top_k": 15, "top_p": 0.9, "min_p": 0.02},
    {"top_k": 1000, "top_p": 0.5},
    {"top_k": 30, "top_p": 0.6, "min_p": 0.45},
]


@pytest.mark.parametrize("mix", MIXES, ids=str)
@pytest.mark.parametrize("vocabulary", [20, 300])
def test_frequencies_are_the_probabilities(mix: dict[str, float], vocabulary: int) -> None:
    row = (np.random.default_rng(3).standard_normal(vocabulary) * 1.5).astype(np.float32)
    params = SamplingParams(1, seed=5, **mix)  # type: ignore[arg-type]  # whole numbers are floats, not the reverse
    times = 10_000
    expected = distribution(row, params)
    counts = np.bincount(draw(row, params, times), minlength=vocabulary)
    assert counts[list(expected)].sum() == times
    cells = [(times * p, int(counts[token])) for token, p in expected.items() if times * p >= 5]
    cells.append(
        (times - sum(cell[0] for cell in cells), times - sum(cell[1] for cell in cells))
    )  # the rare ones
    chi_square = sum((seen - mean) ** 2 / max(mean, 1) for mean, seen in cells)
    freedom = len(cells) - 1
    assert chi_square <= freedom + 5 * math.sqrt(2 * freedom) + 5


def test_greedy_takes_the_largest_and_the_first_of_equals() -> None:
    assert draw(np.array([1, 3, 3, 2]), GREEDY) == [1]


def test_almost_no_temperature_is_greedy() -> None:
    row = np.random.default_rng(0).standard_normal(5000).astype(np.float32) * 10
    for temperature in (1e-3, 1e-6, 1e-12, 1e-50):
        assert set(draw(row, replace(DRAWN, temperature=temperature), times=50)) == {int(row.argmax())}


def test_among_equals_no_temperature_is_cold_enough_to_prefer() -> None:
    assert set(draw(np.array([2, 5, 5, 0]), replace(DRAWN, temperature=1e-50), times=100)) == {1, 2}


def test_a_high_temperature_draws_everything() -> None:
    row = np.arange(50, dtype=np.float32)
    assert set(draw(row, replace(DRAWN, temperature=100), times=2000)) == set(range(50))


@pytest.mark.parametrize("only", [{"top_p": 1e-9}, {"top_p": 0.0}, {"top_k": 1}, {"min_p": 1.0}], ids=str)
def test_the_strictest_filters_leave_the_most_probable(only: dict[str, float]) -> None:
    row = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    params = SamplingParams(1, temperature=2.0, seed=1, **only)  # type: ignore[arg-type]  # as above
    assert set(draw(row, params, times=100)) == {int(row.argmax())}


def test_what_is_impossible_is_never_drawn() -> None:
    row = np.full(400, -np.inf, np.float32)
    row[[130, 399]] = 3, 2
    for mix in ({}, {"temperature": 50.0}, {"top_k": 300}, {"top_p": 0.999}, {"min_p": 1e-9}):
        assert set(draw(row, replace(DRAWN, **mix), times=200)) <= {130, 399}


@pytest.mark.parametrize("uniform", [0.0, 2**-53, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("vocabulary", [3, 1000, 49_152])
def test_the_ends_of_the_uniform_interval_draw_possible_tokens(uniform: float, vocabulary: int) -> None:
    rng = np.random.default_rng(7)
    row = np.full(vocabulary, -np.inf, np.float32)
    possible = rng.choice(vocabulary, 2, replace=False)
    row[possible] = rng.standard_normal(2)
    sequence = Sequence([1], DRAWN)
    sequence.rng = Always(uniform)
    assert choose(row, sequence) in possible


class Always(np.random.Generator):
    """Draws the same number every time."""

    def __init__(self, uniform: float) -> None:
        super().__init__(np.random.PCG64())
        self._uniform = uniform

    def random(self) -> float:  # type: ignore[override]  # the one signature that is used
        return self._uniform


def test_min_tokens_makes_stop_tokens_impossible() -> None:
    row = np.array([0, 9, 1, 8], np.float32)
    params = replace(GREEDY, stop_token_ids=frozenset({1, 3}), min_tokens=1)
    early, late = Sequence([1], params), Sequence([1], params)
    late.accept(2)
    logits = np.stack([row, row])
    assert sample(logits, [early, late]) == [2, 1]
    assert logits.tolist() == [row.tolist()] * 2, "the runner's array is not ours to change"
    assert 1 not in draw(row, replace(params, temperature=5.0), times=200)


@pytest.mark.parametrize("params", [GREEDY, DRAWN, replace(DRAWN, top_p=0.5, top_k=3)], ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_no_distribution_gives_minus_one_and_spoils_no_other(
    bad: float, params: SamplingParams
) -> None:
    logits = np.zeros((3, 8), np.float32)
    logits[:, 5] = 50
    logits[1] = bad
    assert sample(logits, [Sequence([1], params) for _ in range(3)]) == [5, None, 5]


def test_one_nan_spoils_its_row() -> None:
    logits = np.zeros((1, 8), np.float32)
    logits[0, 3] = np.nan
    assert sample(logits, [Sequence([1], DRAWN)]) == [None]


def test_a_seeded_sequence_draws_the_same_alone_and_in_company() -> None:
    rng = np.random.default_rng(11)
    steps = (rng.standard_normal((20, 32, 3000)) * 3).astype(np.float32)
    others = [{"temperature": 0.0}, {"top_k": 40}, {"top_p": 0.9}, {"temperature": 1.7}]
    params = SamplingParams(50, temperature=0.9, top_p=0.95, seed=42)
    company = [Sequence([1], SamplingParams(50, seed=i, **others[i % 4])) for i in range(31)]  # type: ignore[arg-type]
    alone, among = Sequence([1], params), Sequence([1], params)
    sequences = [*company[:17], among, *company[17:]]
    drawn_alone = [choose(logits[17], alone) for logits in steps]
    drawn_among = [sample(logits, sequences)[17] for logits in steps]
    assert drawn_alone == drawn_among
    assert len(set(drawn_alone)) > 10


def test_a_seed_and_an_index_make_the_draw() -> None:
    row = np.zeros(10_000, np.float32)

    def drawn(seed: int | None, index: int) -> int | None:
        return choose(row, Sequence([1], SamplingParams(1, seed=seed), index=index))

    assert drawn(3, 0) == drawn(3, 0)
    assert len({drawn(3, 0), drawn(3, 1), drawn(4, 0), drawn(-3, 0), drawn(None, 0), drawn(None, 0)}) == 6
