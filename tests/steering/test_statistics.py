"""What probes read, summed up: the largest activations of a token, and the statistics of each feature."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.engine.probing import largest
from headrace.steering.statistics import RunningStatistics

FEATURES = 300


def activations(tokens: int, share: float, seed: int = 0) -> NDArray[np.float32]:
    """[tokens, FEATURES], of which a share is positive, with many equal numbers."""
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 9, (tokens, FEATURES)).astype(np.float32)
    return np.where(rng.uniform(size=values.shape) < share, values, np.float32(0))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("count", [0, 1, 8, 64, FEATURES])
def test_the_largest_of_each_token_come_first(share: float, count: int) -> None:
    found = activations(5, share)
    for row, top in zip(found.tolist(), largest(found, count), strict=True):
        pairs = sorted(((-value, feature) for feature, value in enumerate(row) if value > 0))
        assert top == tuple((feature, -value) for value, feature in pairs[:count])


@pytest.mark.parametrize("share", [0.0, 0.02, 0.6])
def test_statistics_are_those_of_all_tokens(share: float) -> None:
    statistics, parts = RunningStatistics(FEATURES), [activations(n, share, n) for n in (1, 7, 40, 1)]
    for part in parts:
        statistics.record(part)
    whole = np.concatenate(parts).astype(np.float64)
    seen = {entry.feature: entry for entry in statistics.features()}
    assert sorted(seen) == np.flatnonzero(whole.any(axis=0)).tolist()
    for feature, entry in seen.items():
        column = whole[:, feature]
        assert entry.count == len(whole)
        assert entry.mean == pytest.approx(column.mean())
        assert entry.variance == pytest.approx(column.var(ddof=1))
        assert (entry.max, statistics.largest(feature)) == (column.max(), column.max())
        assert entry.active_share == pytest.approx((column > 0).mean())
        assert sum(minute.mean * minute.count for minute in statistics.history(feature)) == pytest.approx(
            column.sum(), rel=1e-5
        )
