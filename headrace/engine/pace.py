"""The size of a long prompt's chunks while others decode: such that a step takes less than twice as long as
usual, and the readers of other streams hardly notice.
"""

from __future__ import annotations

from headrace.engine.work import Work

# The length of a step with a chunk of a long prompt, in steps without: on average, so that hardly any is 2.
AIM = 1.6
# Tokens a step: powers of two, because a step that has another number of tokens than the last takes longer.
START, LEAST, MOST = 16, 8, 512
FADING = 0.9  # what the usual time counts after the next measurement
QUICKLY = 0.7  # the same of steps with chunks
ENOUGH = 3  # steps of a size before it grows
# Steps with chunks before a size is tried again that took too long: each trial is a gap that readers notice.
PATIENCE = 100


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
