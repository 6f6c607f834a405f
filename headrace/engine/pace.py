"""The size of a long prompt's chunks while others decode: such that a step takes less than twice as long as
usual, and the readers of other streams hardly notice.
"""

from __future__ import annotations

AIM = 1.8  # the length of a step with a chunk of a long prompt, in steps without
# Tokens a step: powers of two, because a step that has another number of tokens than the last takes longer.
START, LEAST, MOST = 32, 16, 512
FADING = 0.9  # what the usual time counts after the next measurement
QUICKLY = 0.5  # the same of steps with chunks
ENOUGH = 3  # steps of a size before it grows


class Pace:
    """Learns from the times of steps. `allowance`: tokens of long prompts in a step beside decoding ones."""

    def __init__(self) -> None:
        self.allowance = START
        self._usual_s = 0.0  # a step in which all sequences decode
        self._with_chunk_s, self._num_steps = (
            0.0,
            0,
        )  # a step with a chunk of this size, and how many there were
        self._num_tokens = 0  # of the last step

    def record(self, num_decoding: int, num_others: int, seconds: float, *, num_drafted: int = 0) -> None:
        """Record a step of so many decoding sequences, tokens of prompts, and tokens of drafts."""
        num_tokens = num_decoding + num_others + num_drafted
        is_new, self._num_tokens = num_tokens != self._num_tokens, num_tokens
        if is_new and self._usual_s:
            return  # the runtime prepares itself for it: see speculation.py
        if not num_others:
            fading = FADING if self._usual_s else 0.0
            self._usual_s = fading * self._usual_s + (1 - fading) * seconds
        elif num_decoding and self._usual_s and 0.75 * self.allowance < num_others <= self.allowance:
            self._adapt(seconds)

    def _adapt(self, seconds: float) -> None:
        fading = QUICKLY if self._num_steps else 0.0
        self._with_chunk_s = fading * self._with_chunk_s + (1 - fading) * seconds
        self._num_steps += 1
        most = AIM * self._usual_s
        if self._with_chunk_s > most:
            self._resize(self.allowance // 2)
        elif self._num_steps >= ENOUGH and 2 * self._with_chunk_s - self._usual_s < most:  # if twice as large
            self._resize(self.allowance * 2)

    def _resize(self, allowance: int) -> None:
        self.allowance = min(max(allowance, LEAST), MOST)
        self._num_steps = 0
