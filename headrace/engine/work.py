"""What a step computes, in numbers: what its time depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Work:
    """Numbers of tokens. `context`: those in the cache of sequences whose drafts are computed in one piece
    (see batch.py): their keys and values are rearranged for it.
    """

    decoding: int  # one of each sequence that decodes
    of_prompts: int
    drafted: int
    context: int

    @property
    def tokens(self) -> int:
        return self.decoding + self.of_prompts + self.drafted

    @classmethod
    def of(cls, chunks: Mapping[Sequence, int]) -> Work:
        """The work of a step whose results are not applied yet. `chunks`: see the scheduler."""
        decoding = sum(sequence.is_decoding for sequence in chunks)
        drafting = [sequence for sequence in chunks if sequence.draft]
        return cls(
            decoding,
            sum(chunks.values()) - decoding,
            sum(len(sequence.draft) for sequence in drafting),
            context_of(drafting),
        )


def context_of(drafting: list[Sequence]) -> int:
    """How many tokens' keys and values are rearranged for drafts of these sequences."""
    return sum(sequence.num_computed for sequence in drafting if not sequence.params.invariant)
