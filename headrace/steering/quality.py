"""Measures a sparse autoencoder on hidden states that it was not trained on; and behaviour against dose: what
a direction, added to the hidden states at one site, does to the probability of texts and tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.steering.site import Floats, Report, Site
from headrace.steering.train_sae import SAE

ROWS = 1024  # hidden states encoded at once
CONTEXTS = 3  # of the largest activations of each feature, that are remembered
Tokens = Sequence[int]


@dataclass(frozen=True, slots=True)
class Quality:
    """What a sparse autoencoder does to hidden states. Arrays have one entry for each feature."""

    num_tokens: int
    explained_variance: float  # 1 - Σ|h - ĥ|² / Σ|h - mean|²
    cosine: float  # mean of cos(h, ĥ)
    l0: float  # mean number of active features
    density: Floats  # share of the tokens on which the feature is active
    largest: Floats  # activation
    mean: Floats  # activation, over all tokens
    contexts: NDArray[np.int64]  # [features, CONTEXTS] rows with its largest activations, -1: none

    @property
    def num_dead(self) -> int:
        """Features that were active on none of the tokens."""
        return int((self.density == 0).sum())


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Mean negative log-probability of the next token, in nats."""

    plain: float  # of the model as it is
    spliced: float  # with the autoencoder's reconstruction instead of the hidden states
    ablated: float  # with their mean instead

    @property
    def recovered(self) -> float:
        """The share of the loss by ablation that the reconstruction avoids: 1 is a perfect reconstruction."""
        return (self.ablated - self.spliced) / max(self.ablated - self.plain, 1e-9)


def measure(sae: SAE, states: Floats, report: Report) -> Quality:
    """Encode and decode hidden states [tokens, width]."""
    mean = states.mean(0)
    residual = total = cosine = active = 0.0
    counts = np.zeros(sae.num_features, np.int64)
    sums, largest = np.zeros(sae.num_features), np.zeros((sae.num_features, CONTEXTS), np.float32)
    contexts = np.full((sae.num_features, CONTEXTS), -1, np.int64)
    for first, rows in _chunks(states):
        activations = sae.encode(rows)
        decoded = sae.decode(activations)
        residual += float(((rows - decoded) ** 2).sum(dtype=np.float64))
        total += float(((rows - mean) ** 2).sum(dtype=np.float64))
        norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(decoded, axis=1)
        cosine += float(((rows * decoded).sum(1) / np.maximum(norms, 1e-9)).sum())
        active += float((activations > 0).sum())
        counts += (activations > 0).sum(0)
        sums += activations.sum(0, dtype=np.float64)
        largest, contexts = _best(largest, contexts, activations, first)
        report("measuring", first + len(rows), len(states))
    number = len(states)
    return Quality(
        number,
        1 - residual / total,
        cosine / number,
        active / number,
        (counts / number).astype(np.float32),
        largest[:, 0],
        (sums / number).astype(np.float32),
        contexts,
    )


def _chunks(states: Floats) -> Iterator[tuple[int, Floats]]:
    for first in range(0, len(states), ROWS):
        yield first, states[first : first + ROWS]


def _best(
    largest: Floats, contexts: NDArray[np.int64], activations: Floats, first: int
) -> tuple[Floats, NDArray[np.int64]]:
    """The largest activations of each feature so far, in descending order, and their rows."""
    rows = np.argsort(-activations, axis=0)[:CONTEXTS]
    values = np.concatenate([largest, np.take_along_axis(activations, rows, 0).T], axis=1)
    places = np.concatenate([contexts, (rows + first).T], axis=1)
    order = np.argsort(-values, axis=1, kind="stable")[:, :CONTEXTS]
    values, places = np.take_along_axis(values, order, 1), np.take_along_axis(places, order, 1)
    return values, np.where(values > 0, places, -1)


def cross_entropy(
    site: Site, sae: SAE, texts: Sequence[Sequence[int]], mean: Floats, report: Report
) -> CrossEntropy:
    """Compare the model with itself, where the autoencoder's reconstruction, or the `mean` [width], replaces
    the hidden states. Position 0 keeps its own, as it was not trained on.
    """
    losses = np.zeros(3)
    number = 0
    for index, tokens in enumerate(texts):
        states = site.states(tokens)
        means = np.broadcast_to(mean, states.shape)
        for place, changed in enumerate((states, sae.decode(sae.encode(states)), means)):
            replaced = np.concatenate([states[:1], changed[1:]])
            losses[place] -= float(log_probabilities(site.logits(tokens, replaced)[:-1], tokens[1:]).sum())
        number += len(tokens) - 1
        report("cross-entropy", index + 1, len(texts))
    plain, spliced, ablated = (losses / max(number, 1)).tolist()
    return CrossEntropy(plain, spliced, ablated)


def log_probabilities(logits: Floats, tokens: Sequence[int]) -> NDArray[np.float64]:
    """The natural log-probability of tokens[i] under logits[i]."""
    wide = logits.astype(np.float64)
    wide -= wide.max(1, keepdims=True)
    chosen: NDArray[np.float64] = wide[np.arange(len(tokens)), list(tokens)] - np.log(np.exp(wide).sum(1))
    return chosen


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
        logprobs = []
        for tokens, before in zip(prompts, states, strict=True):
            logits = site.logits(tokens, steered(before, direction, dose))[-1].astype(np.float64)
            logits -= logits.max()
            logprobs.append(np.log(np.exp(logits[list(targets)]).sum() / np.exp(logits).sum()))
        values.append(float(np.mean(logprobs)))
    return Curve(name, tuple(values))
