"""What a step computes, in numbers: what its time depends on; what the engine has done since its start; and
how large a long prompt's chunks may be while others decode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.engine.sequence import Sequence

# The length of a step with a chunk of a long prompt, in steps without: on average, so that hardly any is 2.
AIM = 1.6
# Tokens a step: powers of two, because a step that has another number of tokens than the last takes longer.
START, LEAST, MOST = 16, 8, 512
FADING = 0.9  # what the usual time counts after the next measurement
QUICKLY = 0.7  # the same of steps with chunks
ENOUGH = 3  # steps of a size before it grows
# Steps with chunks before a size is tried again that took too long: each trial is a gap that readers notice.
PATIENCE = 100


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


class Pace:
    """Learns from the times of steps. `allowance`: tokens of long prompts in a step beside decoding ones."""

    def __init__(self) -> None:
        self.allowance = START
        self._most = MOST  # the largest size that has not taken too long lately
        self._usual_s = 0.0  # a step in which all sequences decode
        self._with_chunk_s = 0.0  # a step with a chunk of this size
        self._num_steps = 0  # of this size
        self._num_after = 0  # steps with chunks since a size took too long

    def record(self, work: Work, seconds: float) -> None:
        """Record a step that had as many tokens as the one before it."""
        if not work.of_prompts:
            fading = FADING if self._usual_s else 0.0
            self._usual_s = fading * self._usual_s + (1 - fading) * seconds
        elif work.decoding and self._usual_s and 0.75 * self.allowance < work.of_prompts <= self.allowance:
            self._adapt(seconds)

    def _adapt(self, seconds: float) -> None:
        fading = QUICKLY if self._num_steps else 0.0
        self._with_chunk_s = fading * self._with_chunk_s + (1 - fading) * seconds
        self._num_steps += 1
        self._num_after += 1
        if self._num_after >= PATIENCE:
            self._most = MOST
        limit_s = AIM * self._usual_s
        if self._with_chunk_s > limit_s:
            self._most, self._num_after = max(LEAST, self.allowance // 2), 0
            self._resize(self._most)
        elif self._num_steps >= ENOUGH and 2 * self._with_chunk_s - self._usual_s < limit_s:  # twice as large
            self._resize(self.allowance * 2)

    def _resize(self, allowance: int) -> None:
        size = min(max(allowance, LEAST), self._most)
        if size != self.allowance:
            self.allowance, self._num_steps = size, 0
