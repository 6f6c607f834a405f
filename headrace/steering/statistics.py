"""Statistics of an SAE's activations, over the tokens that probes read (Welford 1962, in batches: Chan et al.
1983).
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from headrace.steering.types import FeatureStatistics

Floats = NDArray[np.float32]


class RunningStatistics:
    """Of `num_features` features. Thread-safe."""

    def __init__(self, num_features: int) -> None:
        self._lock = threading.Lock()
        self.count = 0
        self._mean, self._squares = np.zeros(num_features), np.zeros(num_features)  # squares of deviations
        self._largest, self._active = np.zeros(num_features), np.zeros(num_features, np.int64)

    def saw(self, activations: Floats) -> None:
        """Add activations[tokens, features]."""
        tokens = len(activations)
        if not tokens:
            return
        mean = activations.mean(axis=0, dtype=np.float64)
        squares = ((activations - mean) ** 2).sum(axis=0)
        with self._lock:
            whole, change = self.count + tokens, mean - self._mean
            self._mean += change * (tokens / whole)
            self._squares += squares + change**2 * (self.count * tokens / whole)
            np.maximum(self._largest, activations.max(axis=0), out=self._largest)
            self._active += (activations > 0).sum(axis=0)
            self.count = whole

    def features(self) -> tuple[FeatureStatistics, ...]:
        """Of the features that were active, the most often active first."""
        with self._lock:
            count, active = self.count, self._active.copy()
            mean, squares, largest = self._mean.copy(), self._squares.copy(), self._largest.copy()
        order = np.argsort(-active, kind="stable")[: int(np.count_nonzero(active))]
        return tuple(
            FeatureStatistics(
                feature=int(feature),
                count=count,
                mean=float(mean[feature]),
                variance=float(squares[feature] / max(1, count - 1)),
                max=float(largest[feature]),
                active_share=float(active[feature]) / count,
            )
            for feature in order
        )

    def largest(self, feature: int) -> float:
        """The largest activation that was seen; 0 if the feature was never active."""
        return float(self._largest[feature])
