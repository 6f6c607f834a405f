"""Chooses features of a sparse autoencoder for a report, names them, and measures what some of them do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.steering.dose import Curve, token_curve
from headrace.steering.quality import Quality
from headrace.steering.report import printable
from headrace.steering.site import Lens, Site
from headrace.steering.train_sae import SAE
from headrace.steering.train_vector import random_like

Decode = Callable[[Sequence[int]], str]

RARE, FREQUENT = 2e-4, 0.05  # shares of tokens, between which a feature is likely to mean something
SHOWN = 40  # features in the report
NAMES = 3  # tokens in a feature's label
DOSES = (0.0, 0.1, 0.2, 0.3)  # times the median norm
PROMPTS = (
    "I looked at the page and", "The next part of the text is about", "When they came home, it was",
    "This function returns", "In the middle of the night", "It is well known that",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Effect:
    """What adding a feature does to the tokens that it writes, and what a random direction does to them."""

    feature: int
    curves: tuple[Curve, Curve]


def choose(lens: Lens, usage: Quality) -> list[int]:
    """The features whose first token stands out most, among those that are active neither very rarely nor
    very often.
    """
    fit = (usage.density >= RARE) & (usage.density <= FREQUENT)
    order = np.argsort(-np.where(fit, lens.sharpness, -np.inf))[:SHOWN]
    return [int(feature) for feature in order if fit[feature]]


def labels(lens: Lens, decode: Decode) -> list[str]:
    """A name for each feature: the tokens that it writes."""
    return [" ".join(printable(decode([token])) for token in row[:NAMES]) for row in lens.top.tolist()]


def effect(
    site: Site, sae: SAE, feature: int, targets: Sequence[int], norm: float, prompts: Sequence[Sequence[int]]
) -> Effect:
    """Add the feature's direction at DOSES times `norm` to prompts that do not speak of it. `targets`: the
    tokens that it writes.
    """
    unit = sae.w_dec[feature] / np.linalg.norm(sae.w_dec[feature])
    direction = (unit * norm).astype(np.float32)
    pairs = ((f"feature {feature}", direction), ("random direction", random_like(direction, feature)))
    first, second = (token_curve(site, name, prompts, targets, vector, DOSES) for name, vector in pairs)
    return Effect(feature, (first, second))


def contexts(
    quality: Quality, feature: int, texts: Sequence[Sequence[int]], rows: NDArray[np.int64], decode: Decode
) -> list[tuple[str, str, str]]:
    """The texts before, at and after the tokens with the feature's largest activations. `rows`: [tokens, 2]
    text and position of each hidden state.
    """
    found = []
    for row in quality.contexts[feature].tolist():
        if row >= 0:
            text, at = rows[row].tolist()
            tokens = texts[text]
            found.append(
                (
                    decode(tokens[max(0, at - 8) : at]),
                    decode(tokens[at : at + 1]),
                    decode(tokens[at + 1 : at + 5]),
                )
            )
    return found
