"""Logprobs against float64, and the largest against a full sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from headrace.engine.sampler import logprobs


@pytest.mark.parametrize("size", [1, 7, 511, 512, 513, 49_152])
@pytest.mark.parametrize("count", [0, 1, 5, 20])
def test_logprobs_are_those_of_float64(size: int, count: int) -> None:
    row = (np.random.default_rng(size).standard_normal(size) * 5).astype(np.float32)
    exact = row.astype(np.float64) - np.log(np.exp(row.astype(np.float64)).sum())
    found = logprobs(row, size // 2, count)
    assert found.logprob == pytest.approx(exact[size // 2], abs=1e-4)
    best = np.argsort(-row, kind="stable")[:count]
    assert [token for token, _ in found.top] == best.tolist()
    assert [value for _, value in found.top] == pytest.approx(exact[best].tolist(), abs=1e-4)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    row=arrays.arrays(np.float32, st.integers(1, 1500), elements=st.sampled_from([0.0, 1.0, 2.0, -np.inf])),
    count=st.integers(1, 30),
)
def test_of_equals_the_lower_id_comes_first(row: np.ndarray, count: int) -> None:
    row[0] = 1.0
    expected = np.argsort(-row, kind="stable")[:count].tolist()
    assert [token for token, _ in logprobs(row, 0, count).top] == expected


def test_huge_logits_do_not_overflow() -> None:
    found = logprobs(np.array([1e38, -1e38, 0], np.float32), 0, 1)
    assert found.logprob == 0
    assert found.top == ((0, 0.0),)
