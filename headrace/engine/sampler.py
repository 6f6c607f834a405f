"""Which token comes next: greedy, or drawn after temperature, top_k, top_p and min_p.

Order: bias, penalties and masks (adjust.py), temperature, top_k, top_p (over what top_k left), min_p
(relative to the most probable token). Each sequence draws from its own generator, and each row is computed
by itself, so that a sequence's output never depends on its neighbours. A row has about 50,000 entries:
whatever touches them all is one vectorised pass, in float32. (A pass over all rows at once is slower: it
leaves the core's cache.)
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Many

import numpy as np
from numpy.typing import NDArray

from headrace.engine.adjust import Mask, adjust
from headrace.engine.sequence import SamplingParams, Sequence

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Tokens = NDArray[np.int64]

COLDEST = 1e-10  # temperature: below, float32 logits that differ at all are as good as infinitely far apart
HARMLESS = 40  # logit: exponentials of numbers this large, and of all that is added up, fit a float32
COOL = 0.8  # temperature: below, looking for the tokens that matter first is faster
FEW = 8  # of the vocabulary: the part that is worth picking out
FAINTEST = np.float32(
    -30
)  # log weight: all that are fainter weigh less than 1e-7 of the most probable together
RUN = 128  # weights that are summed up before they are cumulated
TRIES = 6  # draws before the nucleus is found by sorting; a draw misses it with probability 1 - top_p at most


def sample(logits: Floats, sequences: Many[Sequence], masks: Mapping[int, Mask] | None = None) -> Tokens:
    """The next token of each row of logits[rows, vocabulary]; -1 where it is no distribution (NaN,
    infinite, nothing allowed). `masks`: by row, the tokens that a constraint allows.
    """
    tokens: Tokens = logits.argmax(1)
    for index, sequence in enumerate(sequences):
        raw = logits[index]
        if not np.isfinite(raw[tokens[index]]):
            tokens[index] = -1
            continue
        row = adjust(raw, sequence, None if masks is None else masks.get(index))
        if row is not raw:
            tokens[index] = row.argmax()
            if not np.isfinite(row[tokens[index]]):
                tokens[index] = -1
                continue
        if sequence.params.temperature > 0:
            tokens[index] = _draw(row, row[tokens[index]], sequence)
    return tokens


def _draw(row: Floats, top: np.float32, sequence: Sequence) -> int:
    """A token with probability softmax(row / temperature) among what the filters keep."""
    params = sequence.params
    temperature = np.float32(max(params.temperature, COLDEST))
    near = _near(row, top, temperature) if temperature < COOL else None
    weights = _weights(row if near is None else row[near], top, temperature)
    chosen = _draw_by_weight(weights, params, sequence.rng)
    return chosen if near is None else int(near[chosen])


def _near(row: Floats, top: np.float32, temperature: np.float32) -> Tokens | None:
    """At low temperatures all but a few tokens are too faint ever to be drawn: those few, as only they need
    exponentials; None when they are many.
    """
    matters = row >= top + FAINTEST * temperature
    return np.flatnonzero(matters) if np.count_nonzero(matters) < len(row) // FEW else None


def _weights(row: Floats, top: np.float32, temperature: np.float32) -> Floats:
    """exp(row / temperature), up to a factor. Subtracting the largest first costs a pass, and is only needed
    where the exponential would overflow, or vanish for all.
    """
    if temperature == 1 and abs(top) < HARMLESS:
        weights: Floats = np.exp(row)
        return weights
    weights = row - top
    weights /= temperature
    np.exp(weights, out=weights)
    return weights


def _draw_by_weight(weights: Floats, params: SamplingParams, rng: np.random.Generator) -> int:
    """Without a nucleus to find, one draw. With one, draws from all tokens until one lies in it: that has the
    same distribution, most draws do, and to see whether one does takes no sorting.
    """
    if not params.top_k and not params.min_p:
        drawing = Drawing(weights)
        for _ in range(TRIES if params.top_p < 1 else 1):
            token = drawing.draw(1 - rng.random())
            if params.top_p >= 1 or _is_in_nucleus(weights, token, params.top_p * drawing.whole):
                return token
    kept = _filter(weights, params)
    return int(kept[Drawing(weights[kept]).draw(1 - rng.random())])


def _is_in_nucleus(weights: Floats, token: int, share: float) -> bool:
    """Whether the tokens before it, heaviest first and the lower id first among equals, weigh less than
    `share`.
    """
    weight = weights[token]
    others = float(np.einsum("i,i", weights, (weights >= weight).astype(np.float32))) - float(weight)
    if others < share:  # as many as could come before it: no need to look for equals
        return True
    heavier = float(np.einsum("i,i", weights, (weights > weight).astype(np.float32)))
    before = heavier + float(weight) * int(np.count_nonzero(weights[:token] == weight))
    return before < share or before == 0


def _filter(weights: Floats, params: SamplingParams) -> Tokens:
    """The tokens that the filters keep, in the order of their ids.

    Nothing is sorted but the weights that may be in the nucleus, and of those only the values: the lightest
    that is kept decides about all others.
    """
    kept = None
    if 0 < params.top_k < len(weights):
        kept = _heaviest(weights, np.partition(weights, -params.top_k)[-params.top_k], params.top_k)
        weights = weights[kept]
    nucleus = _nucleus(weights, params) if params.top_p < 1 else np.arange(len(weights))
    if params.min_p:
        nucleus = nucleus[weights[nucleus] >= params.min_p * weights.max()]
    return nucleus if kept is None else kept[nucleus]


def _nucleus(weights: Floats, params: SamplingParams) -> Tokens:
    """The heaviest tokens, as few as together weigh `top_p` of the whole."""
    whole = float(weights.sum(dtype=np.float64))
    # All tokens lighter than this weigh less than 1 - top_p of the whole together: the nucleus lies above.
    # (0.999: for rounding.)
    floor = min(float(weights.max()), 0.999 * (1 - params.top_p) * whole / len(weights))
    heavy = np.sort(weights[weights >= floor])[::-1]
    count = min(1 + int(np.searchsorted(heavy.cumsum(dtype=np.float64), params.top_p * whole)), len(heavy))
    return _heaviest(weights, heavy[count - 1], count)


def _heaviest(weights: Floats, least: np.float32, count: int) -> Tokens:
    """The `count` heaviest tokens, the lightest of which weighs `least`: of equals, those of lower id."""
    found = np.flatnonzero(weights >= least)
    surplus = len(found) - count
    if surplus > 0:
        lightest = np.flatnonzero(weights[found] == least)
        found = np.delete(found, lightest[len(lightest) - surplus :])
    return found


class Drawing:
    """Draws of a token by its weight: sums of runs are cumulated once, then one run at a time."""

    def __init__(self, weights: Floats) -> None:
        self._weights = weights
        if len(weights) % RUN:
            runs = np.add.reduceat(weights, np.arange(0, len(weights), RUN))
        else:
            runs = np.einsum("ij->i", weights.reshape(-1, RUN))  # the same, faster
        self._sums = np.cumsum(runs, dtype=np.float64)

    @property
    def whole(self) -> float:
        return float(self._sums[-1])

    def draw(self, uniform: float) -> int:
        """The first token up to which the weights make that share of the whole, which is in (0, 1]."""
        target = uniform * self._sums[-1]
        run = _reach(self._sums, target)
        before = self._sums[run - 1] if run else 0.0
        inside = np.cumsum(self._weights[run * RUN : (run + 1) * RUN], dtype=np.float64)
        return run * RUN + _reach(inside, target - before)


def _reach(cumulated: Doubles, target: float) -> int:
    """The first index that reaches `target`; by rounding never past the last one that adds anything."""
    return int(np.searchsorted(cumulated, min(target, cumulated[-1])))
