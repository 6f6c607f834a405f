"""Counts of operations, for tests of what must not take long: they are the same on every machine."""

from __future__ import annotations

import cProfile
from collections.abc import Callable


def num_calls(work: Callable[[], object]) -> int:
    """How many functions work calls in this thread, those written in C included."""
    profiler = cProfile.Profile()
    profiler.runcall(work)
    return sum(entry.callcount for entry in profiler.getstats())
