"""How long steps of few tokens take on this machine, learned from the steps themselves.

A table says what to expect before anything is measured. What is measured corrects it, for steps of as many
tokens and, less certainly, for others. Only ratios count: a slower machine is not another table.
"""

from __future__ import annotations

from itertools import pairwise

# How long a step takes, by its tokens; and for each token that is in the cache, because its keys and values
# are rearranged for a draft. One token after few others: 1 (two cores with AVX-512).
EXPECTED = ((1, 1.0), (2, 1.04), (4, 1.1), (8, 1.22), (16, 1.55))
CONTEXT_COST = 9e-5
FADING = 0.9  # what a measurement counts after the next one of as many tokens
ODD = 2.0  # a step that takes so many times longer, or shorter, than others like it counts as one that does
FORGETTING = 0.998  # what a correction counts after a step of another number of tokens: it is tried again


class Costs:
    """The cost of a step by its number of tokens; relative, about 1 for one token."""

    def __init__(self) -> None:
        self._factors: dict[int, float] = {}  # by tokens: seconds measured over expected cost

    def of(self, tokens: int, context: int = 0) -> float:
        """`context`: tokens in the cache of sequences that have drafts in the step."""
        expected = _expected(tokens) + CONTEXT_COST * context
        return expected * self._factor(tokens) / self._factor(1)

    def record(self, tokens: int, seconds: float, context: int = 0) -> None:
        """Record a step that had as many tokens as the one before it."""
        if not 0 < tokens <= EXPECTED[-1][0]:
            return
        usual = self._factor(tokens)
        measured = seconds / (_expected(tokens) + CONTEXT_COST * context)
        if self._factors:
            measured = min(max(measured, usual / ODD), usual * ODD)
        self._factors[tokens] = FADING * usual + (1 - FADING) * measured if self._factors else measured
        for other in self._factors:
            if other != tokens:
                self._factors[other] *= (self._factors[tokens] / self._factors[other]) ** (1 - FORGETTING)

    def _factor(self, tokens: int) -> float:
        """Interpolated between those that are measured."""
        if not self._factors:
            return 1.0
        return _interpolated(sorted(self._factors.items()), tokens)


def _expected(tokens: int) -> float:
    return _interpolated(EXPECTED, tokens)


def _interpolated(points: list[tuple[int, float]] | tuple[tuple[int, float], ...], at: int) -> float:
    if at <= points[0][0]:
        return points[0][1]
    for (fewer, less), (more, most) in pairwise(points):
        if at <= more:
            return less + (most - less) * (at - fewer) / (more - fewer)
    return points[-1][1]
