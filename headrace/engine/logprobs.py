"""Log-probabilities of tokens under the model's own distribution, before temperature, penalties and
filters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headrace.engine.sequence import Logprobs

Floats = NDArray[np.float32]

# Logits up to this size are exponentiated as they are: the sum of a whole row of exp(40) fits a float32.
MAX_UNSHIFTED_LOGIT = 40
WIDTH = 512  # groups of logits in `_largest`


def logprobs(row: Floats, token: int, count: int) -> Logprobs:
    """The log-probabilities of `token` and of the `count` most probable tokens of row[vocabulary]. Among
    equals the lower id comes first.
    """
    top = float(row.max())
    # log(sum(exp(x))); the largest logit is subtracted, which costs a pass, only where exp could overflow.
    shift = 0.0 if abs(top) < MAX_UNSHIFTED_LOGIT else top
    whole = shift + float(np.log(np.exp(row - np.float32(shift) if shift else row).sum()))
    best = _largest(row, count) if count else ()
    return Logprobs(float(row[token]) - whole, tuple((int(id), float(row[id]) - whole) for id in best))


def _largest(row: Floats, count: int) -> NDArray[np.int64]:
    """The ids of the `count` largest logits, largest first, without sorting the row.

    Group g consists of the logits g, g + WIDTH, …; the largest of each group take one vectorised pass. The
    `count`-th largest of these peaks is a lower bound for the `count` largest logits of the row, so only
    groups whose peak reaches it are searched.
    """
    count = min(count, len(row))
    grouped = len(row) - len(row) % WIDTH
    peaks = np.concatenate([row[:grouped].reshape(-1, WIDTH).max(0, initial=-np.inf), row[grouped:]])
    least = np.partition(peaks, -count)[-count] if count < len(peaks) else -np.inf
    candidates = np.flatnonzero(peaks >= least)
    groups, rest = candidates[candidates < WIDTH], candidates[candidates >= WIDTH] - WIDTH + grouped
    members = (np.arange(0, grouped, WIDTH)[:, None] + groups).reshape(-1)  # lower ids first
    ids = np.concatenate([members[row[members] >= least], rest])
    return ids[np.argsort(-row[ids], kind="stable")[:count]]
