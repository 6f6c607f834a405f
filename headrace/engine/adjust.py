"""Changes a row of logits before sampling: bias, penalties, masked tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headrace.engine.sequence import Sequence

Floats = NDArray[np.float32]
Mask = NDArray[np.int32]

# [256, 8]: for each byte of a mask, what is added to its eight tokens: 0 where the bit is set, else minus
# infinity.
PENALTIES = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"),
    np.float32(0),
    np.float32(-np.inf),
)


def adjust(row: Floats, sequence: Sequence, mask: Mask | None) -> Floats:
    """Return row[vocabulary] with the sequence's parameters applied: a copy, or the row itself if nothing
    changes. `mask`: see Constraint.fill.
    """
    params = sequence.params
    has_early_stop = bool(params.stop_token_ids) and sequence.num_generated < params.min_tokens
    if not (params.logit_bias or params.counts_tokens or has_early_stop or mask is not None):
        return row
    row = row.copy()
    if params.counts_tokens:
        _penalize(row, sequence)
    if params.logit_bias:
        count = _below(params.biased, len(row))
        row[params.biased[:count]] += params.bias[:count]
    if mask is not None:
        row += PENALTIES.take(mask.view(np.uint8), axis=0).reshape(-1)[: len(row)]
    if has_early_stop:
        _mask_stop_tokens(row, sequence)
    return row


def _mask_stop_tokens(row: Floats, sequence: Sequence) -> None:
    """Mask the stop tokens, unless a constraint allows no other token."""
    ends = sequence.params.ends[: _below(sequence.params.ends, len(row))]
    logits = row[ends]
    row[ends] = -np.inf
    if sequence.constraint is not None and not np.isfinite(row.max()):
        row[ends] = logits


def _below(tokens: NDArray[np.int64], vocabulary: int) -> int:
    """The number of tokens, which are in ascending order, that are ids of the vocabulary. Callers may send
    larger ids.
    """
    return int(np.searchsorted(tokens, vocabulary))


def _penalize(row: Floats, sequence: Sequence) -> None:
    params = sequence.params
    if params.repetition_penalty != 1:
        seen = _seen(sequence, len(row))
        logits, penalty = row[seen], np.float32(params.repetition_penalty)
        row[seen] = np.where(logits > 0, logits / penalty, logits * penalty)
    if sequence.counts and (params.frequency_penalty or params.presence_penalty):
        tokens = np.fromiter(sequence.counts.keys(), np.int64)
        counts = np.fromiter(sequence.counts.values(), np.float32)
        row[tokens] -= np.float32(params.frequency_penalty) * counts + np.float32(params.presence_penalty)


def _seen(sequence: Sequence, vocabulary: int) -> NDArray[np.int64]:
    """The ids, ascending, of the tokens that occur in the prompt or the answer so far."""
    if sequence.seen is None:
        sequence.seen = np.zeros(vocabulary, np.bool_)
        tokens = np.array(sequence.tokens, np.int64)
        sequence.seen[tokens[tokens < vocabulary]] = True
    elif sequence.tokens[-1] < vocabulary:
        sequence.seen[sequence.tokens[-1]] = True
    return np.flatnonzero(sequence.seen)
