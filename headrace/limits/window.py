"""Counts of the last minute, in slices of one second."""

from __future__ import annotations

from collections import deque

from headrace.limits.demand import WINDOW_S


class Window:
    """Counts requests or tokens. A slice counts until the whole of it is older than WINDOW_S, so that never
    more than the limit is in any WINDOW_S seconds. Times are in seconds, monotonic.
    """

    def __init__(self) -> None:
        self._slices: deque[list[int]] = deque()  # [second, count], the oldest first
        self.total = 0

    def forget(self, now: float) -> None:
        """Drop the slices that are over."""
        while self._slices and self._slices[0][0] < int(now) - WINDOW_S:
            self.total -= self._slices.popleft()[1]

    def add(self, now: float, count: int) -> int:
        """Count, and return the slice's second."""
        second = int(now)
        if self._slices and self._slices[-1][0] == second:
            self._slices[-1][1] += count
        else:
            self._slices.append([second, count])
        self.total += count
        return second

    def change(self, second: int, by: int) -> None:
        """Correct the count of a slice, if it still counts."""
        for entry in self._slices:
            if entry[0] == second:
                entry[1] += by
                self.total += by
                return

    def reset_s(self, now: float) -> float:
        """Seconds until nothing counts any more."""
        counting = [second for second, count in self._slices if count]
        return max(0.0, counting[-1] + WINDOW_S + 1 - now) if counting else 0.0

    def free_s(self, now: float, excess: int) -> float:
        """Seconds until at least `excess` of the count is over."""
        for second, count in self._slices:
            excess -= count
            if excess <= 0:
                return max(0.0, second + WINDOW_S + 1 - now)
        return float(WINDOW_S)
