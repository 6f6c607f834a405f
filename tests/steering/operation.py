"""The one operation of steering (its formula is in slot.py) in NumPy float64: the oracle of every runner."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headrace.steering.slot import EPSILON, GROUPS, Slot
from headrace.steering.types import Normalization

Doubles = NDArray[np.float64]


def edit(
    states: Doubles, slots: Sequence[Slot], weights: Doubles, keep_norm: NDArray[np.bool_] | None = None
) -> Doubles:
    """The edited states[tokens, width]. `weights`[tokens, slots]: the strength of each slot on each token;
    `keep_norm`[tokens]: rows that are rescaled to the norm they had.
    """
    edited = states.astype(np.float64)
    for group in GROUPS:
        chosen = [index for index, slot in enumerate(slots) if slot.group == group]
        changes = [_change(edited, slots[index]) * weights[:, index : index + 1] for index in chosen]
        edited = edited + sum(changes) if changes else edited
    if keep_norm is not None:
        scale = np.linalg.norm(states, axis=1) / np.linalg.norm(edited, axis=1)
        edited = np.where(keep_norm[:, None], edited * scale[:, None], edited)
    return edited


def activation(states: Doubles, slot: Slot) -> Doubles:
    """a[tokens] of a slot that reads."""
    assert slot.read is not None
    incoming, _ = scales(states, slot.normalization)
    z = incoming * (states @ slot.read.astype(np.float64)) + slot.bias
    active = z > slot.threshold
    if slot.rank is not None:
        encoder, bias, k = slot.rank.encoder.astype(np.float64), slot.rank.bias, slot.rank.k
        ranked = np.sort(incoming[:, None] * (states @ encoder) + bias, axis=1)
        # Half-way between the last that counts and the next one, so that rounding decides near ties only.
        active &= z > (ranked[:, -k] + ranked[:, -k - 1]) / 2
    return np.where(active, z, 0.0)


def scales(states: Doubles, normalization: Normalization) -> tuple[Doubles, Doubles]:
    """(ρ, κ)[tokens]: what a product with a row of h is multiplied by, and an edit of the row.

    For layer_norm the mean of the row is not subtracted here: `read` is orthogonal to it (see sae.py).
    """
    ones = np.ones(len(states))
    if normalization == "layer_norm":
        deviation = states.std(axis=1, ddof=1)
        return 1 / (deviation + EPSILON), deviation
    if normalization == "constant_norm_rescale":
        norm = np.linalg.norm(states, axis=1) / np.sqrt(states.shape[1])
        return 1 / norm, norm
    return ones, ones


def _change(states: Doubles, slot: Slot) -> Doubles:
    """Δ / weight: [tokens, width]."""
    shape, write = slot.shape, slot.write.astype(np.float64)
    if slot.read is None:
        return np.full((len(states), 1), shape.offset) * write
    a = activation(states, slot)
    change = np.clip(shape.gain * a + shape.offset, shape.low, shape.high) - a
    if slot.only_if_active:
        change = np.where(a > 0, change, 0.0)
    _, outgoing = scales(states, slot.normalization)
    return (outgoing * change)[:, None] * write
