"""After a step: from hidden states to the readings of the sequences that have probes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from headrace.engine.batch import Read
from headrace.engine.probing import Source
from headrace.engine.sequence import Sequence

Floats = NDArray[np.float32]
States = Callable[[int], Floats]  # the runner's, by layer


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The tokens of one sequence that a step computed: `count` from the position `start` on. `rows`: where
    they are in the runner's states, by layer; those of a draft's rejected tokens follow them.
    """

    sequence: Sequence
    start: int
    count: int
    rows: dict[int, slice] = field(default_factory=dict)

    def states(self, states: States, layer: int) -> Floats:
        return states(layer)[self.rows[layer]][: self.count]


def read_states(reads: Iterable[Read], states: States, unedited: States) -> None:
    """Append what was read to the `readings` of each sequence. The step has been committed. `unedited`: the
    states before the edits, by layer.
    """
    parts: dict[Sequence, _Part] = {}
    for read in reads:
        sequence = read.sequence
        count = sequence.num_computed - read.start
        parts.setdefault(sequence, _Part(sequence, read.start, count)).rows[read.layer] = read.rows
    numbers = _computed(parts.values(), states)
    for sequence, part in parts.items():
        end = part.start + part.count
        if sequence.achieved is not None:
            tokens = sequence.tokens[part.start : end]
            before, after = partial(part.states, unedited), partial(part.states, states)
            sequence.achieved.add(before, after, tokens, part.start, sequence.flags)
        columns = [
            prober.read(numbers[sequence, prober.source.key], part.start) for prober in sequence.probers
        ]
        sequence.readings += enumerate(zip(*columns, strict=True), part.start)
        sequence.num_read = end


def _computed(parts: Iterable[_Part], states: States) -> dict[tuple[Sequence, Hashable], Floats]:
    """What each source computes of each sequence's tokens: once for all that have it, because a product of
    matrices with many rows takes little longer than with one.
    """
    sources: dict[Hashable, tuple[Source, list[_Part]]] = {}
    for part in parts:
        for source in {prober.source.key: prober.source for prober in part.sequence.probers}.values():
            sources.setdefault(source.key, (source, []))[1].append(part)
    found: dict[tuple[Sequence, Hashable], Floats] = {}
    for key, (source, its_parts) in sources.items():
        numbers = source.compute(np.concatenate([part.states(states, source.layer) for part in its_parts]))
        begin = 0
        for part in its_parts:
            found[part.sequence, key] = numbers[begin : begin + part.count]
            begin += part.count
    return found
