"""Which token comes next: greedy, or drawn after temperature, top_k, top_p and min_p, for all rows of a step
at once.

Order of filters: temperature, top_k, top_p (over what top_k left), min_p (relative to the most probable
token). Each
sequence draws one uniform number per token from its own generator, so its output never depends on its
neighbours.
What touches the whole vocabulary is vectorised over the batch; what is left per row are a few candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Many

import numpy as np
from numpy.typing import NDArray

from headrace.engine.sequence import SamplingParams, Sequence

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

# Tokens so improbable that all of them together weigh less than this share of the most probable one are
# never drawn:
# less than float32 can tell from zero, and at low temperatures it spares almost every exponential.
NEGLIGIBLE = 1e-8


def sample(logits: Floats, sequences: Many[Sequence]) -> NDArray[np.int64]:
    """The next token of each row; -1 where the row is not a distribution (NaN, or infinite). logits: [rows,
    vocabulary].
    """
    logits = _mask_early_stops(logits, sequences)
    tokens: NDArray[np.int64] = logits.argmax(1)
    tops = logits[np.arange(len(tokens)), tokens]
    tokens[~np.isfinite(tops)] = -1
    drawn = [i for i, s in enumerate(sequences) if s.params.temperature > 0 and tokens[i] >= 0]
    if drawn:
        rows = logits if len(drawn) == len(sequences) else logits[drawn]
        tokens[drawn] = _draw(rows, tops[drawn], [sequences[i] for i in drawn])
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


def _draw(logits: Floats, tops: Floats, sequences: Many[Sequence]) -> list[int]:
    """One token per row, with probability softmax(logits / temperature) among what the filters keep."""
    count, vocabulary = logits.shape
    temperature = np.array([s.params.temperature for s in sequences], np.float32)
    reach = temperature * np.float32(math.log(vocabulary / NEGLIGIBLE))
    flat = np.flatnonzero(logits >= (tops - reach)[:, None])
    row, token = np.divmod(flat, vocabulary)
    weights = np.exp((logits.reshape(-1)[flat] - tops[row]) / temperature[row]).astype(np.float64)
    ends = np.searchsorted(row, np.arange(count + 1))
    chosen = []
    for i, sequence in enumerate(sequences):
        mine = slice(ends[i], ends[i + 1])
        chosen.append(int(token[mine][_choose(weights[mine], sequence.params, sequence.rng.random())]))
    return chosen


def _choose(weights: Doubles, params: SamplingParams, uniform: float) -> int:
    """The index drawn by `uniform` in [0, 1) from weights (the largest is 1), after the filters."""
    if params.top_p >= 1 and not params.top_k and not params.min_p:
        return _invert(np.cumsum(weights), uniform)
    kept = np.flatnonzero(weights >= _floor(weights, params))
    order = kept[np.argsort(-weights[kept], kind="stable")][: params.top_k or None]
    ordered = weights[order]
    cumulated = np.cumsum(ordered)
    whole = cumulated[-1] if params.top_k else weights.sum()
    nucleus = 1 + int(np.searchsorted(cumulated, params.top_p * whole))
    probable = int(np.count_nonzero(ordered >= params.min_p))
    return int(order[_invert(cumulated[: max(1, min(nucleus, probable))], uniform)])


def _floor(weights: Doubles, params: SamplingParams) -> float:
    """A weight below which no token can survive the filters, so that only few need sorting.

    All tokens lighter than (1 - top_p) / count × total weigh less than 1 - top_p of it together: the nucleus
    lies above.
    """
    count = len(weights)
    if 0 < params.top_k < count:
        return max(params.min_p, float(np.partition(weights, count - params.top_k)[count - params.top_k]))
    return max(params.min_p, 0.999 * (1 - params.top_p) / count * float(weights.sum()))


def _invert(cumulated: Doubles, uniform: float) -> int:
    """The first index whose cumulated weight exceeds that share of the whole."""
    index = int(np.searchsorted(cumulated, uniform * cumulated[-1], side="right"))
    return min(index, len(cumulated) - 1)
