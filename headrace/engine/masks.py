"""Masks: which tokens a sequence's constraint allows next."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from headrace.engine.adjust import Mask
from headrace.engine.sequence import Sequence

log = logging.getLogger(__name__)

Masks = dict[Sequence, Mask | Exception]  # of those with a constraint; what it raised instead of a mask


class MaskMaker:
    """Computes masks for a vocabulary of that size; in a thread of its own, during the forward pass."""

    def __init__(self, vocabulary: int) -> None:
        self._words = -(-vocabulary // 32)
        self._pool: ThreadPoolExecutor | None = None

    def start(self, sequences: Iterable[Sequence]) -> Future[Masks]:
        """Start computing the masks of all."""
        constrained = [sequence for sequence in sequences if sequence.constraint is not None]
        if not constrained:
            return _NO_MASKS
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="masks")
        return self._pool.submit(lambda: {sequence: self._try(sequence) for sequence in constrained})

    def make(self, sequence: Sequence) -> Mask | None:
        """The mask of one sequence; None without a constraint. Raises what the constraint raises."""
        if sequence.constraint is None:
            return None
        sequence.constraint.fill(mask := np.zeros(self._words, np.int32))
        return mask

    def _try(self, sequence: Sequence) -> Mask | Exception:
        try:
            mask = self.make(sequence)
            assert mask is not None
            return mask
        except Exception as exc:
            log.warning("a constraint failed: %s", exc)
            return exc


_NO_MASKS: Future[Masks] = Future()
_NO_MASKS.set_result({})
