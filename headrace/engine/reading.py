"""After a step: from hidden states to the readings of the sequences that have probes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from headrace.engine.batch import Read
from headrace.engine.sequence import Sequence


def read_states(reads: Iterable[Read], states: Callable[[int], NDArray[np.float32]]) -> None:
    """Append what was read to the `readings` of each sequence. `states`: the runner's, by layer.

    The step has been committed. What was computed for a draft's rejected tokens is not read.
    """
    by_sequence: dict[Sequence, list[Read]] = {}
    for read in reads:
        by_sequence.setdefault(read.sequence, []).append(read)
    for sequence, its_reads in by_sequence.items():
        start = its_reads[0].start
        count = sequence.num_computed - start
        rows_of = {read.layer: states(read.layer)[read.rows][:count] for read in its_reads}
        if sequence.achieved is not None:
            tokens = sequence.tokens[start : start + count]
            sequence.achieved.add(rows_of.__getitem__, tokens, start, sequence.flags)
        columns = [prober.read(rows_of[prober.layer]) for prober in sequence.probers]
        sequence.readings += enumerate(zip(*columns, strict=True), start)
        sequence.num_read = start + count
