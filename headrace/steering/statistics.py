"""Statistics of an SAE's activations, over the tokens that probes read (Welford 1962, in batches: Chan et al.
1983).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from headrace.steering.types import FeatureStatistics, MinuteStatistics

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

MINUTE_S, LONGEST = 60, 60  # minutes of history, as far as memory allows
ENOUGH = 64  # tokens that are added up at once: that takes little longer than of one
BYTES, MOST_BYTES = 12, 32 * 2**20  # of a feature in a minute; of the history of one SAE


class _Minute:
    """The sums of one minute, of all features."""

    def __init__(self, at: int, num_features: int) -> None:
        self.at, self.count = at, 0
        self.total, self.largest = np.zeros(num_features, np.float32), np.zeros(num_features, np.float32)
        self.active = np.zeros(num_features, np.int32)

    def record(self, count: int, mean: Doubles, largest: Floats, active: NDArray[np.int64]) -> None:
        self.count += count
        self.total += (mean * count).astype(np.float32)
        np.maximum(self.largest, largest, out=self.largest)
        self.active += active.astype(np.int32)

    def of(self, feature: int) -> MinuteStatistics:
        mean, share = float(self.total[feature]) / self.count, int(self.active[feature]) / self.count
        return MinuteStatistics(self.at, self.count, mean, float(self.largest[feature]), share)


class RunningStatistics:
    """Counts, means and variances of `num_features` features. Thread-safe."""

    def __init__(self, num_features: int, now: Callable[[], float] = time.time) -> None:
        """`now`: the clock, in seconds since 1970."""
        self._num_features, self._now = num_features, now
        longest = min(LONGEST, max(1, MOST_BYTES // (BYTES * num_features)))
        self._minutes: deque[_Minute] = deque(maxlen=longest)
        self._lock = threading.Lock()
        # the features that were active, and their activations, of tokens that are not added up yet
        self._waiting: list[tuple[NDArray[np.int64], Floats]] = []
        self._num_waiting = 0
        self.count = 0
        self._mean, self._squares = np.zeros(num_features), np.zeros(num_features)  # squares of deviations
        self._largest, self._active = np.zeros(num_features), np.zeros(num_features, np.int64)

    def record(self, activations: Floats) -> None:
        """Add activations[tokens, features]."""
        if not len(activations):
            return
        # Few are positive, and all others are 0.
        where = np.flatnonzero(activations > 0)
        active = where % self._num_features, activations.reshape(-1)[where]
        with self._lock:
            at = int(self._now()) // MINUTE_S * MINUTE_S
            if not self._minutes or self._minutes[-1].at != at:
                self._add_up()
                self._minutes.append(_Minute(at, self._num_features))
            self._waiting.append(active)
            self._num_waiting += len(activations)
            if self._num_waiting >= ENOUGH or len(where) > self._num_features:
                self._add_up()

    def _add_up(self) -> None:
        """Add up what waits. The lock is held."""
        if not self._waiting:
            return
        features, values = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        tokens, self._num_waiting = self._num_waiting, 0
        self._waiting.clear()
        active = np.bincount(features, minlength=self._num_features)
        mean = np.bincount(features, values, self._num_features) / tokens
        largest = np.zeros(self._num_features, np.float32)
        np.maximum.at(largest, features, values)
        deviations = np.bincount(features, (values - mean[features]) ** 2, self._num_features)
        squares = deviations + (tokens - active) * mean**2
        whole, change = self.count + tokens, mean - self._mean
        self._mean += change * (tokens / whole)
        self._squares += squares + change**2 * (self.count * tokens / whole)
        np.maximum(self._largest, largest, out=self._largest)
        self._active += active
        self.count = whole
        self._minutes[-1].record(tokens, mean, largest, active)

    def features(self) -> tuple[FeatureStatistics, ...]:
        """The statistics of the features that were active, the most often active first."""
        with self._lock:
            self._add_up()
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

    def history(self, feature: int) -> tuple[MinuteStatistics, ...]:
        """The statistics of one feature in each of the last minutes in which something was seen, the oldest
        first.
        """
        with self._lock:
            self._add_up()
            return tuple(minute.of(feature) for minute in self._minutes)

    def largest(self, feature: int) -> float:
        """The largest activation that was seen; 0 if the feature was never active."""
        with self._lock:
            self._add_up()
            return float(self._largest[feature])
