"""Counts of the last minute, in slices of one second."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from headrace.limits.demand import WINDOW_S


@dataclass(slots=True)
class Slice:
    """The requests or tokens of one second. `last`: when the last of them came."""

    second: int
    count: int = 0
    last: float = 0.0

    def left_s(self, now: float) -> float:
        """Seconds for which it still counts: WINDOW_S at most."""
        return min(max(0.0, self.last + WINDOW_S - now), float(WINDOW_S))


class Window:
    """Counts requests or tokens. A slice counts until the last of it is WINDOW_S old, so that never more than
    the limit is in any WINDOW_S seconds. Times are in seconds, monotonic.
    """

    def __init__(self) -> None:
        self._slices: deque[Slice] = deque()  # the oldest first
        self.total = 0

    def forget(self, now: float) -> None:
        """Drop the slices that are over."""
        while self._slices and self._slices[0].left_s(now) <= 0:
            self.total -= self._slices.popleft().count

    def add(self, now: float, count: int) -> int:
        """Count, and return the slice's second."""
        second = int(now)
        if not self._slices or self._slices[-1].second != second:
            self._slices.append(Slice(second))
        self._slices[-1].count += count
        self._slices[-1].last = now
        self.total += count
        return second

    def change(self, second: int, by: int) -> None:
        """Correct the count of a slice, if it still counts."""
        for entry in self._slices:
            if entry.second == second:
                entry.count += by
                self.total += by
                return

    def reset_s(self, now: float) -> float:
        """Seconds until nothing counts any more."""
        return max((one.left_s(now) for one in self._slices if one.count), default=0.0)

    def free_s(self, now: float, excess: int) -> float:
        """Seconds until at least `excess` of the count is over."""
        for one in self._slices:
            excess -= one.count
            if excess <= 0:
                return one.left_s(now)
        return float(WINDOW_S)
