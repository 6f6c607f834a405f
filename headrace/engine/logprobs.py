"""Log-probabilities of tokens under the model's own distribution, before temperature, penalties and
filters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headrace.engine.sequence import Logprobs

Floats = NDArray[np.float32]

HARMLESS = 40  # logit: exponentials of numbers this large, and of all that is added up, fit a float32
WIDTH = 512  # groups of logits of which the largest is sought


def logprobs(row: Floats, token: int, count: int) -> Logprobs:
    """Of `token`, and of the `count` most probable ones, the lower id first among equals."""
    top = float(row.max())
    # log(sum(exp(x))) without overflow; where there can be none, without a pass to subtract the largest
    shift = 0.0 if abs(top) < HARMLESS else top
    whole = shift + float(np.log(np.exp(row - np.float32(shift) if shift else row).sum()))
    best = _largest(row, count) if count else ()
    return Logprobs(float(row[token]) - whole, tuple((int(id), float(row[id]) - whole) for id in best))


def _largest(row: Floats, count: int) -> NDArray[np.int64]:
    """The ids of the largest, largest first, without sorting the row.

    The row is cut into groups of every WIDTH-th logit, so that their largest are one vectorised pass; the
    `count`-th largest of those bounds from below what can be among the `count` largest of all.
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
