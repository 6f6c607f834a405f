"""Random SAEs of every architecture, and what they compute by their definitions, in float64 and unfolded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from headrace.steering.sae import Weights
from headrace.steering.types import Architecture, Normalization, SAEInfo

Doubles = NDArray[np.float64]

WIDTH, FEATURES, K = 64, 96, 8
ARCHITECTURES: tuple[Architecture, ...] = ("standard", "jumprelu", "topk", "gated")
NORMALIZATIONS: tuple[Normalization, ...] = ("none", "layer_norm", "constant_norm_rescale")


def random_weights(
    architecture: Architecture,
    normalization: Normalization = "none",
    *,
    subtracts_bias: bool = True,
    ranks_by_norm: bool = False,
    seed: int = 0,
    width: int = WIDTH,
) -> Weights:
    """Decoder rows have lengths from 0.5 to 2."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 1.0) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    decoder = normal(FEATURES, width)
    decoder *= (rng.uniform(0.5, 2, (FEATURES, 1)) / np.linalg.norm(decoder, axis=1, keepdims=True)).astype(
        "f4"
    )
    weights = Weights(
        encoder=normal(width, FEATURES, scale=width**-0.5),
        decoder=decoder,
        encoder_bias=normal(FEATURES, scale=0.1),
        decoder_bias=normal(width, scale=0.3),
        architecture=architecture,
        subtracts_bias=subtracts_bias,
        ranks_by_norm=ranks_by_norm,
        normalization=normalization,
    )
    if architecture == "jumprelu":
        return replace(weights, threshold=rng.uniform(0, 0.6, FEATURES).astype(np.float32))
    if architecture == "topk":
        return replace(weights, k=K)
    if architecture == "gated":
        return replace(
            weights,
            gate_bias=normal(FEATURES, scale=0.2),
            magnitude_bias=normal(FEATURES, scale=0.2),
            magnitude_scale=normal(FEATURES, scale=0.2),
        )
    return weights


def info_of(weights: Weights, id: str = "sae", layer: int = 0) -> SAEInfo:
    return SAEInfo(id, weights.architecture, 0, 0, layer)


class Defined:
    """An SAE by the words of its papers and of SAELens: nothing folded, everything in float64."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.encoder, self.decoder = weights.encoder.astype(np.float64), weights.decoder.astype(np.float64)
        self.decoder_bias = weights.decoder_bias.astype(np.float64)

    def normalized(self, states: Doubles) -> tuple[Doubles, Doubles, Doubles]:
        """(x, scale, shift): the states are x · scale + shift."""
        kind = self.weights.normalization
        if kind == "layer_norm":
            mean = states.mean(1, keepdims=True)
            deviation = (states - mean).std(1, keepdims=True, ddof=1)
            return (states - mean) / (deviation + 1e-5), deviation, mean
        if kind == "constant_norm_rescale":
            scale = states.shape[1] ** 0.5 / np.linalg.norm(states, axis=1, keepdims=True)
            return states * scale, 1 / scale, np.zeros((len(states), 1))
        return states, np.ones((len(states), 1)), np.zeros((len(states), 1))

    def encode(self, states: Doubles) -> Doubles:
        weights = self.weights
        x, _, _ = self.normalized(states)
        x = x - (self.decoder_bias if weights.subtracts_bias else 0)
        if weights.architecture == "gated":
            assert weights.gate_bias is not None
            assert weights.magnitude_bias is not None
            assert weights.magnitude_scale is not None
            is_open = x @ self.encoder + weights.gate_bias > 0
            magnitude = x @ (self.encoder * np.exp(weights.magnitude_scale.astype(np.float64)))
            return np.where(is_open, np.maximum(magnitude + weights.magnitude_bias, 0), 0)
        z = x @ self.encoder + weights.encoder_bias
        if weights.architecture == "jumprelu":
            assert weights.threshold is not None
            return np.where(z > weights.threshold, np.maximum(z, 0), 0)
        if weights.architecture == "topk":
            assert weights.k is not None
            z = z * np.linalg.norm(self.decoder, axis=1) if weights.ranks_by_norm else z
            order = np.argsort(-z, axis=1)[:, : weights.k]
            kept = np.zeros_like(z)
            np.put_along_axis(kept, order, np.maximum(np.take_along_axis(z, order, 1), 0), 1)
            return kept
        return np.maximum(z, 0)

    def decode(self, activations: Doubles, states: Doubles) -> Doubles:
        weights = self.weights
        if weights.architecture == "topk" and weights.ranks_by_norm:
            activations = activations / np.linalg.norm(self.decoder, axis=1)
        _, scale, shift = self.normalized(states)
        decoded: Doubles = (activations @ self.decoder + self.decoder_bias) * scale + shift
        return decoded

    @property
    def lengths(self) -> Doubles:
        """By how much a folded activation is larger than this one: the decoder rows' lengths."""
        is_folded = self.weights.architecture != "topk"
        lengths: Doubles = np.linalg.norm(self.decoder, axis=1) if is_folded else np.ones(FEATURES)
        return lengths
