"""Behaviour against dose: what a direction, added to the hidden states at one site, does to the probability
of texts and tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headrace.steering.quality import log_probabilities
from headrace.steering.site import Floats, Site

Tokens = Sequence[int]


@dataclass(frozen=True, slots=True)
class Curve:
    """One number for each dose."""

    name: str
    values: tuple[float, ...]

    @property
    def rises(self) -> bool:
        """Whether each value is larger than the one before."""
        return all(after > before for before, after in zip(self.values, self.values[1:], strict=False))


def typical_norm(states: Sequence[Floats]) -> float:
    """The median norm of hidden states, without those at position 0: the unit of relative doses."""
    rows = np.concatenate([text[1:] for text in states])
    return float(np.median(np.linalg.norm(rows, axis=1)))


def steered(states: Floats, direction: Floats, dose: float) -> Floats:
    """Add `dose` times the direction [width] to all hidden states but the first."""
    changed = states.copy()
    changed[1:] += np.float32(dose) * direction
    return changed


def text_curve(
    site: Site, name: str, texts: Sequence[Tokens], direction: Floats, doses: Sequence[float]
) -> Curve:
    """The mean log-probability of a token of the texts."""
    states = [site.states(tokens) for tokens in texts]
    return Curve(name, tuple(_of_texts(site, texts, states, direction, dose) for dose in doses))


def _of_texts(
    site: Site, texts: Sequence[Tokens], states: Sequence[Floats], direction: Floats, dose: float
) -> float:
    total, number = 0.0, 0
    for tokens, before in zip(texts, states, strict=True):
        logits = site.logits(tokens, steered(before, direction, dose))
        # The prediction of token 1 comes from position 0, which is not steered.
        total += float(log_probabilities(logits[1:-1], tokens[2:]).sum())
        number += max(0, len(tokens) - 2)
    return total / max(number, 1)


def token_curve(
    site: Site,
    name: str,
    prompts: Sequence[Tokens],
    targets: Sequence[int],
    direction: Floats,
    doses: Sequence[float],
) -> Curve:
    """The log-probability that one of the target tokens follows a prompt, as the mean over the prompts."""
    states = [site.states(tokens) for tokens in prompts]
    values = []
    for dose in doses:
        found = []
        for tokens, before in zip(prompts, states, strict=True):
            logits = site.logits(tokens, steered(before, direction, dose))[-1].astype(np.float64)
            logits -= logits.max()
            found.append(np.log(np.exp(logits[list(targets)]).sum() / np.exp(logits).sum()))
        values.append(float(np.mean(found)))
    return Curve(name, tuple(values))
