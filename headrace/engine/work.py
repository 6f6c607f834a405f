"""What a step computes, in numbers: what its time depends on; what the engine has done since its start."""

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


@dataclass(slots=True)
class Counters:
    """`num_steps`: forward passes; `num_computed`: tokens that they computed, without drafts;
    `num_generated`: tokens of answers. `num_queried`: prompt tokens that were looked up in the prefix cache;
    `num_hit`: those that were found. `num_drafts`: proposals of the drafters; `num_drafted`: their tokens;
    `num_accepted`: those that were sampled; `num_steered_drafted` and `num_steered_accepted`: of these, the
    ones of steered sequences.
    """

    num_steps: int = 0
    num_computed: int = 0
    num_generated: int = 0
    num_queried: int = 0
    num_hit: int = 0
    num_preemptions: int = 0
    num_drafts: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    num_steered_drafted: int = 0
    num_steered_accepted: int = 0

    def count_draft(self, drafted: int, accepted: int, *, is_steered: bool) -> None:
        """A draft was verified: so many tokens, of which so many were sampled."""
        self.num_drafts += 1
        self.num_drafted += drafted
        self.num_accepted += accepted
        if is_steered:
            self.num_steered_drafted += drafted
            self.num_steered_accepted += accepted
