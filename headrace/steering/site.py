"""A model that is cut at one layer: its hidden states there, and what it makes of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.steering.types import Capture

Floats = NDArray[np.float32]
PIECE = 256  # directions that the lens reads at once

Report = Callable[[str, int, int], None]  # (label, amount done, total; total 0: unknown)


def no_report(label: str, done: int, total: int) -> None:
    """A Report that does nothing."""


@dataclass(frozen=True, slots=True)
class Site:
    """resid_post[layer] of a model."""

    capture: Capture
    layer: int

    def states(self, tokens: Sequence[int]) -> Floats:
        """The hidden states [tokens, width]."""
        return self.capture.states(tokens, (self.layer,))[self.layer]

    def logits(self, tokens: Sequence[int], states: Floats) -> Floats:
        """The logits [tokens, vocabulary] if these were the hidden states."""
        return self.capture.logits(tokens, {self.layer: states})


@dataclass(frozen=True, slots=True)
class Lens:
    """What the model's final norm and head read in directions (nostalgebraist 2020, "interpreting GPT: the
    logit lens"). Arrays have a row for each direction.
    """

    top: NDArray[np.int64]  # [directions, count] the tokens with the largest logits, the largest first
    sharpness: Floats  # how many standard deviations the largest logit is above the vocabulary's mean
    scores: Floats  # [directions, tokens] the same of the tokens that were named

    @classmethod
    def read(
        cls,
        capture: Capture,
        directions: Floats,
        *,
        count: int = 5,
        tokens: Sequence[int] = (),
        report: Report = no_report,
    ) -> Lens:
        """Read directions [directions, width]. `count`: of the largest logits; `tokens`: to be scored."""
        last, parts = Site(capture, capture.num_layers - 1), []
        for first in range(0, len(directions), PIECE):
            piece = directions[first : first + PIECE]
            # After the last layer tokens no longer see each other, so any tokens will do.
            logits = last.logits([0] * len(piece), piece)
            parts.append(_read(logits, count, list(tokens)))
            report("naming features", first + len(piece), len(directions))
        top, sharpness, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        return cls(top, sharpness, scores)


def _read(logits: Floats, count: int, tokens: list[int]) -> tuple[NDArray[np.int64], Floats, Floats]:
    mean, spread = logits.mean(1, keepdims=True), np.maximum(logits.std(1, keepdims=True), np.float32(1e-9))
    best = np.argpartition(logits, -count, axis=1)[:, -count:]
    values = np.take_along_axis(logits, best, 1)
    top = np.take_along_axis(best, np.argsort(-values, axis=1), 1)
    return top, ((values.max(1, keepdims=True) - mean) / spread)[:, 0], (logits[:, tokens] - mean) / spread


def embeddings(capture: Capture, tokens: Sequence[int]) -> Floats:
    """The embeddings [tokens, width]."""
    return capture.states(tokens, (-1,))[-1]
