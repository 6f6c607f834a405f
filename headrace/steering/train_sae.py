"""Trains a sparse autoencoder on hidden states, in NumPy: z = (x - b_dec) W_enc + b_enc, a = the k largest
of relu(z), x̂ = a W_dec + b_dec (Gao et al. 2024, "Scaling and evaluating sparse autoencoders").

The decoder's rows have length 1. The encoder starts as the decoder's transpose. Features that have not been
active for long learn to reconstruct the error of the others (their AuxK loss), so that few stay dead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ConfigError
from headrace.steering.site import Floats, Report

OUTLIER = 5.0  # times the median norm, above which a hidden state is left out
DECAY = 0.3  # the last part of the steps, in which the learning rate falls to 0
ADAM = (0.9, 0.999, 1e-8)
AUX_SHARE = 1 / 32  # of the loss of dead features
EVERY = 10  # steps between two reports of the loss


@dataclass(frozen=True, slots=True)
class SAESettings:
    """How a sparse autoencoder is trained."""

    num_features: int
    k: int = 32  # features that are active on each token
    epochs: float = 8.0  # how often each hidden state is used
    batch: int = 512  # hidden states in one step
    learning_rate: float = 2e-3
    aux_after: int = 100  # steps before dead features are trained
    dead_after: int = 10_000  # tokens without activation, after which a feature counts as dead
    seed: int = 0


@dataclass(slots=True)
class SAE:
    """A TopK autoencoder in the units of the hidden states: decoder rows of length 1."""

    w_enc: Floats  # [width, features]
    b_enc: Floats  # [features]
    w_dec: Floats  # [features, width]
    b_dec: Floats  # [width]
    k: int
    losses: list[tuple[int, float]] = field(default_factory=list)  # (step, unexplained variance in a batch)

    @property
    def num_features(self) -> int:
        return len(self.b_enc)

    def encode(self, states: Floats) -> Floats:
        """The activations [tokens, features] of hidden states [tokens, width]: at most k of each row are not
        0.
        """
        scores = np.asarray((states - self.b_dec) @ self.w_enc + self.b_enc, np.float32)
        return top(scores, self.k)

    def decode(self, activations: Floats) -> Floats:
        """The hidden states [tokens, width] that activations [tokens, features] stand for."""
        decoded: Floats = activations @ self.w_dec + self.b_dec
        return decoded


def usable(states: Floats) -> NDArray[np.bool_]:
    """Which of the hidden states [tokens, width] are of use to train on: not those of huge norm, which some
    tokens have whatever the text says. The caller has left out position 0.
    """
    norms = np.linalg.norm(states, axis=1)
    is_finite = np.isfinite(norms)
    limit = OUTLIER * np.median(norms[is_finite]) if is_finite.any() else 0.0
    fit: NDArray[np.bool_] = is_finite & (norms <= limit) & (norms > 0)
    return fit


def train(states: Floats, settings: SAESettings, report: Report) -> SAE:
    """Train on hidden states [tokens, width]. Takes minutes. Raises ConfigError for settings that do not fit
    the data.
    """
    _check(states, settings)
    scale = np.float32(np.sqrt(states.shape[1]) / np.linalg.norm(states, axis=1).mean())
    trainer = Trainer(states * scale, settings)
    steps = max(1, round(settings.epochs * len(states) / settings.batch))
    batches = trainer.batches()
    for step in range(steps):
        unexplained = trainer.step(next(batches), step, steps)
        if step % EVERY == 0 or step == steps - 1:
            trainer.sae.losses.append((step, unexplained))
            report("training", step + 1, steps)
    return _folded(trainer.sae, scale)


def _check(states: Floats, settings: SAESettings) -> None:
    if not 0 < settings.k <= settings.num_features:
        raise ConfigError(f"k is {settings.k}; it must be from 1 to the number of features")
    if len(states) < settings.batch:
        raise ConfigError(
            f"there are {len(states)} hidden states to train on; at least {settings.batch} are needed: "
            "give more text"
        )


def _folded(sae: SAE, scale: np.float32) -> SAE:
    """The same autoencoder for hidden states that are not scaled: s·h encodes to s·a, and decodes to s·ĥ."""
    sae.b_enc /= scale
    sae.b_dec /= scale
    return sae


def top(scores: Floats, k: int) -> Floats:
    """Keep the k largest positive scores of each row; 0 elsewhere."""
    if k >= scores.shape[1]:
        return np.maximum(scores, 0)
    chosen = np.argpartition(scores, -k, axis=1)[:, -k:]
    activations = np.zeros_like(scores)
    np.put_along_axis(activations, chosen, np.maximum(np.take_along_axis(scores, chosen, 1), 0), 1)
    return activations


class _Adam:
    """Adam (Kingma and Ba 2014) for one array, which it changes in place."""

    def __init__(self, weights: Floats) -> None:
        self._weights = weights
        self._mean, self._square = np.zeros_like(weights), np.zeros_like(weights)
        self._scratch = np.empty_like(weights)

    def step(self, gradient: Floats, rate: float, count: int) -> None:
        """Take step number `count`, which begins at 1."""
        b1, b2, eps = ADAM
        scratch = self._scratch
        self._mean *= np.float32(b1)
        self._mean += np.multiply(gradient, np.float32(1 - b1), out=scratch)
        self._square *= np.float32(b2)
        np.multiply(gradient, gradient, out=scratch)
        scratch *= np.float32(1 - b2)
        self._square += scratch
        np.sqrt(self._square, out=scratch)
        scratch += np.float32(eps * np.sqrt(1 - b2**count))
        np.divide(self._mean, scratch, out=scratch)
        scratch *= np.float32(rate * np.sqrt(1 - b2**count) / (1 - b1**count))
        self._weights -= scratch


@dataclass(frozen=True, slots=True)
class Gradients:
    """The gradients of the loss, by each of the arrays; `unexplained`: the loss itself."""

    w_enc: Floats
    b_enc: Floats
    w_dec: Floats
    b_dec: Floats
    unexplained: float


class Trainer:
    """Holds the weights and the optimizer's state. `states`: scaled to a mean norm of √width."""

    def __init__(self, states: Floats, settings: SAESettings) -> None:
        self._states, self._settings = states, settings
        self._rng = np.random.default_rng(settings.seed)
        mean = states.mean(0)
        self._variance = float(((states - mean) ** 2).sum(1).mean())
        rows = self._rng.standard_normal((settings.num_features, states.shape[1]), np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        zeros = np.zeros(settings.num_features, np.float32)
        self.sae = SAE(np.ascontiguousarray(rows.T), zeros, rows, mean.astype(np.float32), settings.k)
        arrays = (self.sae.w_enc, self.sae.b_enc, self.sae.w_dec, self.sae.b_dec)
        self._optimizers = [_Adam(array) for array in arrays]
        self._idle = np.zeros(settings.num_features, np.int64)  # tokens since the feature was active

    def batches(self) -> Iterator[Floats]:
        """Random batches without end; each hidden state comes once before any comes again."""
        size = self._settings.batch
        while True:
            order = self._rng.permutation(len(self._states))
            for first in range(0, len(order) - size + 1, size):
                yield self._states[order[first : first + size]]

    def step(self, rows: Floats, step: int, steps: int) -> float:
        """Take one step on hidden states [batch, width]. Returns the share of their variance that was not
        explained before it.
        """
        gradients = self.gradients(rows, revives=step >= self._settings.aux_after)
        self._apply(gradients, step, steps)
        self._idle += len(rows)
        return gradients.unexplained

    def gradients(self, rows: Floats, *, revives: bool = False) -> Gradients:
        """The gradients of the loss on hidden states [batch, width]: the share of the variance that is not
        explained. `revives`: with the loss of dead features.
        """
        sae = self.sae
        centred = rows - sae.b_dec
        scores = np.asarray(centred @ sae.w_enc + sae.b_enc, np.float32)
        active = top(scores, sae.k)
        error = np.asarray(active @ sae.w_dec + sae.b_dec - rows, np.float32)
        output = error * np.float32(2 / (len(rows) * self._variance))  # by the reconstruction
        hidden = np.asarray((output @ sae.w_dec.T) * (active > 0), np.float32)
        w_dec: Floats = active.T @ output
        # Before the dead ones are added: their loss does not reach the decoder's bias.
        b_dec: Floats = output.sum(0) - (hidden @ sae.w_enc.T).sum(0)
        self._idle[(active > 0).any(0)] = 0
        if revives:
            self._revive(scores, -error, w_dec, hidden)
        unexplained = float((error**2).sum(1).mean()) / self._variance
        w_enc: Floats = np.asarray(centred.T @ hidden, np.float32)
        return Gradients(w_enc, hidden.sum(0), w_dec, b_dec, unexplained)

    def _revive(self, scores: Floats, missing: Floats, w_dec: Floats, hidden: Floats) -> None:
        """Add the gradients of the dead features' loss: their k largest reconstruct what is missing."""
        dead = np.flatnonzero(self._idle > self._settings.dead_after)
        if not len(dead):
            return
        k = min(len(dead), missing.shape[1] // 2)
        active = top(scores[:, dead], k)
        rows = self.sae.w_dec[dead]
        error = active @ rows - missing
        size = float((missing**2).sum(1).mean()) or 1.0
        output = error * np.float32(2 * AUX_SHARE / (len(missing) * size))
        w_dec[dead] += active.T @ output
        hidden[:, dead] += (output @ rows.T) * (active > 0)

    def _apply(self, parts: Gradients, step: int, steps: int) -> None:
        """Take the optimizer's step, and give the decoder's rows length 1 again. The part of a row's gradient
        along the row would only change its length.
        """
        rows = self.sae.w_dec
        w_dec = parts.w_dec - (parts.w_dec * rows).sum(1, keepdims=True) * rows
        left = (steps - step) / max(1.0, steps * DECAY)
        rate = self._settings.learning_rate * min(1.0, left)
        gradients = (parts.w_enc, parts.b_enc, w_dec, parts.b_dec)
        for optimizer, gradient in zip(self._optimizers, gradients, strict=True):
            optimizer.step(gradient, rate, step + 1)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
