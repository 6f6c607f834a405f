"""The size of a long prompt's chunks while others decode: such that a step takes less than twice as long as
usual, and the readers of other streams hardly notice.
"""

from __future__ import annotations

AIM = 1.8  # the length of a step with a chunk of a long prompt, in steps without
START, LEAST, MOST = 32, 16, 512  # tokens a step
FADING = 0.9  # what the usual time counts after the next measurement
SLOWER, FASTER = 0.5, 1.25  # the most that one measurement changes


class Pace:
    """Learns from the times of steps. `allowance`: tokens of long prompts in a step beside decoding ones."""

    def __init__(self) -> None:
        self.allowance = START
        self._usual_s = 0.0  # a step in which all sequences decode

    def record(self, num_decoding: int, num_others: int, seconds: float) -> None:
        """Record a step of so many decoding sequences and so many tokens of prompts."""
        if not num_others:
            fading = FADING if self._usual_s else 0.0
            self._usual_s = fading * self._usual_s + (1 - fading) * seconds
        elif num_decoding and self._usual_s and 0.75 * self.allowance < num_others <= self.allowance:
            change = min(max(AIM * self._usual_s / seconds, SLOWER), FASTER)
            self.allowance = min(max(round(self.allowance * change), LEAST), MOST)
