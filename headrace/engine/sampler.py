"""Which token comes next: greedy, or drawn after temperature, top_k, top_p and min_p.

Order of filters: temperature, top_k, top_p (over what top_k left), min_p (relative to the most probable
token). Each sequence draws one uniform number per token from its own generator, and each row is computed by
itself, so that a sequence's output never depends on its neighbours. A row has about 50,000 entries: whatever
touches them all is one vectorised pass, in float32. (A pass over all rows at once is slower: it leaves the
core's cache.)
"""

from __future__ import annotations

from collections.abc import Sequence as Many

import numpy as np
from numpy.typing import NDArray

from headrace.engine.sequence import SamplingParams, Sequence

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Tokens = NDArray[np.int64]

COLDEST = 1e-10  # temperature: below, float32 logits that differ at all are as good as infinitely far apart
COOL = 0.8  # temperature: below, looking for the tokens that matter first is faster
FAINTEST = np.float32(
    -30
)  # log weight: all that are fainter weigh less than 1e-7 of the most probable together
RUN = 128  # weights that are summed up before they are cumulated


def sample(logits: Floats, sequences: Many[Sequence]) -> Tokens:
    """The next token of each row of logits[rows, vocabulary]; -1 where it is no distribution (NaN,
    infinite).
    """
    logits = _mask_early_stops(logits, sequences)
    tokens: Tokens = logits.argmax(1)
    tops = logits[np.arange(len(tokens)), tokens]
    tokens[~np.isfinite(tops)] = -1
    for row, sequence in enumerate(sequences):
        if sequence.params.temperature > 0 and tokens[row] >= 0:
            tokens[row] = _draw(logits[row], tops[row], sequence)
    return tokens


def _mask_early_stops(logits: Floats, sequences: Many[Sequence]) -> Floats:
    """Stop tokens are impossible before `min_tokens`. Copies only if there is something to mask."""
    early = [
        i
        for i, s in enumerate(sequences)
        if s.num_generated < s.params.min_tokens and s.params.stop_token_ids
    ]
    if not early:
        return logits
    logits = logits.copy()
    for i in early:
        logits[i, list(sequences[i].params.stop_token_ids)] = -np.inf
    return logits


def _draw(row: Floats, top: np.float32, sequence: Sequence) -> int:
    """A token with probability softmax(row / temperature) among what the filters keep."""
    params, uniform = sequence.params, 1 - sequence.rng.random()
    temperature = np.float32(max(params.temperature, COLDEST))
    # At low temperatures all but a few tokens are too faint ever to be drawn: only the others need
    # exponentials.
    near = np.flatnonzero(row >= top + FAINTEST * temperature) if temperature < COOL else None
    weights: Floats = np.exp(((row if near is None else row[near]) - top) / temperature)
    if params.top_p >= 1 and not params.top_k and not params.min_p:
        chosen = _invert(weights, uniform)
    else:
        kept = _filter(weights, params)
        chosen = int(kept[_invert(weights[kept], uniform)])
    return chosen if near is None else int(near[chosen])


def _filter(weights: Floats, params: SamplingParams) -> Tokens:
    """The tokens that the filters keep, heaviest first. The largest weight is 1."""
    if 0 < params.top_k < len(weights):
        tokens = _heaviest(weights, np.partition(weights, -params.top_k)[-params.top_k])[: params.top_k]
        whole = float(weights[tokens].sum(dtype=np.float64))
    else:
        whole = float(weights.sum(dtype=np.float64))
        # All tokens lighter than this weigh less than 1 - top_p of the whole together: the nucleus lies
        # above,
        # and only few need sorting. (0.999: for rounding.)
        floor = 0.999 * (1 - params.top_p) * whole / len(weights)
        tokens = _heaviest(weights, max(floor, params.min_p))
    nucleus = 1 + np.searchsorted(np.cumsum(weights[tokens], dtype=np.float64), params.top_p * whole)
    probable = np.count_nonzero(weights[tokens] >= params.min_p)
    return tokens[: min(nucleus, probable)]


def _heaviest(weights: Floats, least: float) -> Tokens:
    """The tokens that weigh at least that much, heaviest first, the lower id first among equals."""
    tokens = np.flatnonzero(weights >= least)
    return tokens[np.argsort(-weights[tokens], kind="stable")]


def _invert(weights: Floats, uniform: float) -> int:
    """The first index up to which the weights make that share of the whole, which is in (0, 1]."""
    sums = np.cumsum(np.add.reduceat(weights, np.arange(0, len(weights), RUN)), dtype=np.float64)
    target = uniform * sums[-1]
    run = _reach(sums, target)
    before = sums[run - 1] if run else 0.0
    inside = np.cumsum(weights[run * RUN : (run + 1) * RUN], dtype=np.float64)
    return run * RUN + _reach(inside, target - before)


def _reach(cumulated: Doubles, target: float) -> int:
    """The first index that reaches `target`; by rounding never past the last one that adds anything."""
    return int(np.searchsorted(cumulated, min(target, cumulated[-1])))
