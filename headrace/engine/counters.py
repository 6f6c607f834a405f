"""What an engine has done since its start. Its thread counts, and any thread may read."""

from __future__ import annotations

from dataclasses import dataclass


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
