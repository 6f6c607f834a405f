"""A sparse autoencoder in memory: the numbers of any architecture, brought into one form.

    z = ρ(h) · (h @ encoder) + bias,  a = z where z > threshold (and, of topk, among the k largest), else 0
    reconstruction = κ(h) · (a @ decoder + decoder bias) + what ρ took away

A gated SAE is of this form: both of its paths read the same product, so its gate is a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from headrace.errors import SteeringRefused
from headrace.steering.slot import EPSILON, Rank, Shape, Slot
from headrace.steering.types import Architecture, Normalization, SAEInfo

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """What a file has, in the orientation of the formula, before anything is folded."""

    encoder: Floats  # [width, features]
    decoder: Floats  # [features, width]
    encoder_bias: Floats  # [features]
    decoder_bias: Floats  # [width]
    architecture: Architecture
    threshold: Floats | None = None  # [features], of jumprelu
    gate_bias: Floats | None = None  # [features], of gated; then also the next two
    magnitude_bias: Floats | None = None
    magnitude_scale: Floats | None = None  # r: the logarithm of the scale
    k: int | None = None  # of topk
    subtracts_bias: bool = False  # from h, before it is encoded
    ranks_by_norm: bool = False  # topk: z · ‖decoder row‖ is ranked
    normalization: Normalization = "none"


@dataclass(frozen=True, slots=True, eq=False)
class LoadedSAE:
    """A loaded SAE's numbers, in float32, with unit decoder rows (but for topk without rescaling)."""

    info: SAEInfo
    encoder: Floats = field(repr=False)  # [width, features], for h; orthogonal to 1 with layer_norm
    decoder: Floats = field(repr=False)  # [features, width]
    bias: Floats = field(repr=False)  # [features]
    threshold: Floats = field(repr=False)  # [features]
    decoder_bias: Floats = field(repr=False)  # [width]

    def encode(self, states: Floats) -> Floats:
        """The activations [tokens, features] of states[tokens, width]."""
        z = states @ self.encoder
        if self.info.normalization != "none":
            z *= row_scales(states, self.info.normalization)[0][:, None]
        z += self.bias
        active = z > self.threshold
        k = self.info.k
        if k is not None and k < z.shape[1]:
            active &= z > _boundary(z, k)[:, None]
        np.putmask(z, ~active, 0)
        activations: Floats = z.astype(np.float32, copy=False)
        return activations

    def decode(self, activations: Floats, states: Floats) -> Floats:
        """The reconstruction [tokens, width] of `states`, from their activations."""
        _, outgoing = row_scales(states, self.info.normalization)
        decoded = (activations @ self.decoder + self.decoder_bias) * outgoing[:, None]
        if self.info.normalization == "layer_norm":
            decoded = decoded + states.mean(axis=1, keepdims=True)
        whole: Floats = decoded.astype(np.float32, copy=False)
        return whole

    def slot(self, feature: int, shape: Shape, *, only_if_active: bool = False) -> Slot:
        """The slot that reads and edits a feature."""
        info = self.info
        return Slot(
            "sae",
            np.ascontiguousarray(self.decoder[feature]),
            shape,
            np.ascontiguousarray(self.encoder[:, feature]),
            float(self.bias[feature]),
            float(self.threshold[feature]),
            only_if_active,
            info.normalization,
            self.rank(),
        )

    def rank(self) -> Rank | None:
        """The parameters with which a runner finds the k largest activations of a row; None if the SAE keeps
        all activations.
        """
        info = self.info
        if info.k is None or info.k >= info.num_features:
            return None
        return Rank(bytes.fromhex(info.digest), self.encoder, self.bias, info.k, info.normalization)


def fold(weights: Weights, info: SAEInfo) -> LoadedSAE:
    """Bring the weights into the one form; `info` gets what follows from them. Raises SteeringRefused for
    numbers that are too large for it.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        arrays = [np.ascontiguousarray(array, np.float32) for array in _folded(weights)]
    if not all(np.isfinite(array).all() for array in arrays):
        raise SteeringRefused(
            f"the SAE {info.id} has numbers that are too large", code="steering_file_refused", param="path"
        )
    info = replace(
        info,
        architecture=weights.architecture,
        width=arrays[0].shape[0],
        num_features=arrays[0].shape[1],
        k=weights.k,
        normalization=weights.normalization,
        digest=_digest(arrays, weights),
    )
    return LoadedSAE(info, *arrays)


def _folded(weights: Weights) -> tuple[NDArray[np.floating], ...]:
    """Encoder, decoder, bias, threshold and decoder bias, see LoadedSAE.

    Decoder rows get length 1 and activations the length they had, so that strengths mean the same for every
    SAE; but not of a topk SAE that ranks z itself, because that would change the order.
    """
    encoder, decoder = weights.encoder.astype(np.float64), weights.decoder.astype(np.float64)
    bias, threshold = weights.encoder_bias.astype(np.float64), np.zeros(encoder.shape[1])
    if weights.architecture == "jumprelu":
        assert weights.threshold is not None
        # A negative threshold lets a negative z through, in SAELens' code too, where relu follows: none.
        threshold = np.maximum(weights.threshold.astype(np.float64), 0.0)
    elif weights.architecture == "gated":
        encoder, bias, threshold = _ungated(weights, encoder)
    if weights.subtracts_bias:
        # Of layer_norm and others, the bias is subtracted after ρ, so the product with it is a constant.
        bias = bias - weights.decoder_bias.astype(np.float64) @ encoder
    if weights.normalization == "layer_norm":
        encoder = encoder - encoder.mean(axis=0)  # (h - mean) @ encoder, without the subtraction
    if weights.architecture != "topk" or weights.ranks_by_norm:
        norms = np.linalg.norm(decoder, axis=1)
        norms[norms == 0] = 1.0
        encoder, bias, threshold, decoder = (
            encoder * norms,
            bias * norms,
            threshold * norms,
            decoder / norms[:, None],
        )
    return encoder, decoder, bias, threshold, weights.decoder_bias


def _ungated(weights: Weights, encoder: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """(encoder, bias, threshold) of a gated SAE's magnitudes. With p = x @ W: the gate is open where
    p + b_gate > 0, the magnitude is z = e^r · p + b_mag; so it is open where z > b_mag - e^r · b_gate.
    """
    assert weights.gate_bias is not None
    assert weights.magnitude_bias is not None
    assert weights.magnitude_scale is not None
    scale = np.exp(weights.magnitude_scale.astype(np.float64))
    bias = weights.magnitude_bias.astype(np.float64)
    threshold = np.maximum(bias - scale * weights.gate_bias.astype(np.float64), 0.0)
    return encoder * scale, bias, threshold


def row_scales(states: Floats, normalization: Normalization) -> tuple[Floats, Floats]:
    """(ρ, κ)[tokens], see `scales` in tests/steering/operation.py; in the precision of the states."""
    if normalization == "layer_norm":
        deviation = states.std(axis=1, ddof=1)
        return 1 / (deviation + states.dtype.type(EPSILON)), deviation
    if normalization == "constant_norm_rescale":
        norm = np.linalg.norm(states, axis=1) / states.dtype.type(np.sqrt(states.shape[1]))
        return 1 / norm, norm
    ones = np.ones(len(states), states.dtype)
    return ones, ones


def _boundary(z: Floats, k: int) -> Floats:
    """[tokens]: half-way between the k-th largest of a row and the next one."""
    largest = np.partition(z, z.shape[1] - k - 1, axis=1)  # for one place five times as fast as for two
    middle: Floats = ((largest[:, -k:].min(axis=1) + largest[:, -k - 1]) / 2).astype(np.float32)
    return middle


def _digest(arrays: list[Floats], weights: Weights) -> str:
    digest = blake2b(digest_size=16)
    digest.update(f"{weights.architecture} {weights.k} {weights.normalization}".encode())
    for array in arrays:
        digest.update(array.data)
    return digest.hexdigest()
