"""How long the drafts of a step are, and how long steps take on this machine, learned from them.

The runtime prepares itself anew for a step that has another number of tokens than the last one: that takes
half as long as a step of one token. So all drafts of a step have the same length, one of a few, which seldom
changes; where guesses are missing, anything takes their place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

from headrace.engine.draft import Experience
from headrace.engine.phrases import Phrases
from headrace.engine.sequence import Sequence
from headrace.engine.work import context_of

# How long a step takes, by its tokens; and for each token that is in the cache, because its keys and values
# are rearranged for a draft. One token after few others: 1 (two cores with AVX-512).
EXPECTED = ((1, 1.0), (2, 1.04), (4, 1.1), (8, 1.22), (16, 1.55))
CONTEXT_COST = 9e-5
COST_FADING = 0.9  # what a measurement counts after the next one of as many tokens
ODD = 2.0  # a step that takes so many times longer, or shorter, than others like it counts as one that does
FORGETTING = 0.998  # what a correction counts after a step of another number of tokens: it is tried again
MAX_ROWS = 16  # tokens of a step with drafts
LENGTHS = (0, 3, 7, 15)
CHANGE_COST = 0.5  # of another number of tokens
RELUCTANCE = 0.04  # to change, as a cost: so much better must another length be usually
FADING = 0.9  # what a sequence's expectations count after the next ones

Expected = Callable[[Sequence, int], float]  # tokens that a draft of this length gives, with the one after it


class Speculation:
    """Gives the sequences of a step their drafts."""

    def __init__(self, phrases: Phrases | None = None) -> None:
        self.experience, self.costs = Experience(phrases), Costs()
        self._length = 0

    def propose(self, chunks: Mapping[Sequence, int], most_rows: int) -> dict[Sequence, list[int]]:
        """The drafts of those that may have one: none if they would not pay, or the step is large or has
        parts of prompts.
        """
        drafting = [sequence for sequence in chunks if sequence.may_draft]
        room = (min(MAX_ROWS, most_rows) - len(chunks)) // max(1, len(drafting))
        # More tokens than sequences: some compute a prompt, and drafts would make that step longer still.
        if not drafting or room < LENGTHS[1] or sum(chunks.values()) > len(chunks):
            return {}
        for sequence in drafting:
            self._guess(sequence, room)
        num_others = len(chunks) - len(drafting)
        self._length = self._best(drafting, num_others, [length for length in LENGTHS if length <= room])
        return {sequence: _draft(sequence, self._length) for sequence in drafting}

    def _guess(self, sequence: Sequence, room: int) -> None:
        drafter, limit = sequence.drafter, min(room, _num_left(sequence))
        drafter.guess(sequence.tokens, sequence.num_prompt, limit, self.experience, sequence.salt)
        for length in LENGTHS:  # also those not used now, so that a change is judged by the past
            now = _expected_now(sequence, length)
            drafter.usual[length] = FADING * drafter.usual.get(length, now) + (1 - FADING) * now

    def _best(self, drafting: list[Sequence], num_others: int, lengths: list[int]) -> int:
        """The draft length that usually gives the most tokens a second. Another one is returned if it gains
        so much in this step alone that changing to it, and back in the next step, pays.
        """
        context = context_of(drafting)

        def speed(length: int, expected: Expected, cost: float) -> float:
            rows = num_others + len(drafting) * (1 + length)
            cost += self.costs.of(rows, context if length else 0)
            return (num_others + sum(expected(sequence, length) for sequence in drafting)) / cost

        def usually(length: int) -> float:
            return speed(length, _expected_usually, 0 if length == self._length else RELUCTANCE)

        usual = max(lengths, key=usually)
        return max(lengths, key=lambda n: speed(n, _expected_now, 0 if n == usual else 2 * CHANGE_COST))


def _expected_now(sequence: Sequence, length: int) -> float:
    return 1 + sum(sequence.drafter.chances[:length])


def _expected_usually(sequence: Sequence, length: int) -> float:
    return sequence.drafter.usual[length]


def _draft(sequence: Sequence, length: int) -> list[int]:
    """The guessed tokens, filled up with copies of the last one to this length, or to the longest answer."""
    tokens = [guess.token for guess in sequence.drafter.guesses[:length]]
    filling = min(length, _num_left(sequence)) - len(tokens)
    return tokens + sequence.tokens[-1:] * filling


def _num_left(sequence: Sequence) -> int:
    """How many tokens may follow the next one."""
    return sequence.params.max_tokens - sequence.num_generated - 1


class Costs:
    """The cost of a step by its number of tokens; relative, about 1 for one token. A table says what to
    expect before anything is measured; measurements correct it, for steps of as many tokens and, less
    certainly, for others.
    """

    def __init__(self) -> None:
        self._factors: dict[int, float] = {}  # by tokens: seconds measured over expected cost

    def of(self, tokens: int, context: int = 0) -> float:
        """`context`: tokens in the cache of sequences that have drafts in the step."""
        expected = _expected(tokens) + CONTEXT_COST * context
        # Relative to one token: only the ratio of costs decides, not how fast the machine is.
        return expected * self._factor(tokens) / self._factor(1)

    def record(self, tokens: int, seconds: float, context: int = 0) -> None:
        """Record how long a step of so many tokens took. The step before it had as many, too."""
        if not 0 < tokens <= EXPECTED[-1][0]:
            return
        usual = self._factor(tokens)
        measured = seconds / (_expected(tokens) + CONTEXT_COST * context)
        if self._factors:  # one step that another program delayed must not end speculation
            measured = min(max(measured, usual / ODD), usual * ODD)
        self._factors[tokens] = (
            COST_FADING * usual + (1 - COST_FADING) * measured if self._factors else measured
        )
        for other in self._factors:
            if other != tokens:
                self._factors[other] *= (self._factors[tokens] / self._factors[other]) ** (1 - FORGETTING)

    def _factor(self, tokens: int) -> float:
        """How much longer a step takes than expected, interpolated between numbers of tokens that were
        measured.
        """
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
