"""Trains a steering vector: the direction from a model's hidden states on some texts to those on others.

The default is the difference of means (Marks and Tegmark 2023; Rimsky et al. 2024, "Steering Llama 2 via
Contrastive Activation Addition"). The first principal component of the pairs' differences (Zou et al. 2023,
"Representation Engineering") is the alternative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ConfigError

Method = Literal["mean", "pca"]
Tokens = Literal["all", "last"]
States = NDArray[np.float32]  # [tokens, width] of one text at one site


def direction(
    positive: Sequence[States],
    negative: Sequence[States],
    *,
    method: Method = "mean",
    tokens: Tokens = "all",
) -> NDArray[np.float32]:
    """The direction [width] from the negative texts to the positive ones, in the units of the hidden states:
    adding it once moves the mean of the one to the mean of the other.

    Each text counts once, however long it is. `tokens`: which of its hidden states are averaged. With `pca`
    text i of one side belongs to text i of the other. Raises ConfigError.
    """
    if not positive or not negative:
        raise ConfigError("a steering vector needs at least one positive and one negative text")
    above = np.stack([_summary(states, tokens) for states in positive])
    below = np.stack([_summary(states, tokens) for states in negative])
    difference = above.mean(0) - below.mean(0)
    if method == "pca":
        difference = _first_component(above, below, difference)
    if not np.isfinite(difference).all() or not difference.any():
        raise ConfigError("the positive and the negative texts do not differ at this layer")
    found: NDArray[np.float32] = difference.astype(np.float32)
    return found


def _summary(states: States, tokens: Tokens) -> NDArray[np.float64]:
    """One vector [width] for a text. Position 0 is left out: its hidden state is a large constant, to which
    later tokens attend when they need nothing (Xiao et al. 2023, "attention sinks").
    """
    rows = states[-1:] if tokens == "last" or len(states) == 1 else states[1:]
    summary: NDArray[np.float64] = rows.mean(0, dtype=np.float64)
    return summary


def _first_component(
    above: NDArray[np.float64], below: NDArray[np.float64], mean: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The first principal component of the pairs' differences, with the sign and the norm of `mean`."""
    if len(above) != len(below):
        raise ConfigError(
            f"the method pca compares pairs, but there are {len(above)} positive and {len(below)} negative "
            "texts; use the method mean, or as many of each"
        )
    if len(above) < 2:
        raise ConfigError("the method pca needs at least two pairs")
    differences = above - below
    _, _, axes = np.linalg.svd(differences - differences.mean(0), full_matrices=False)
    component: NDArray[np.float64] = axes[0] * np.linalg.norm(mean)
    return component if component @ mean >= 0 else -component


def random_like(vector: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """A random direction with the norm of `vector`, to compare its effect with."""
    drawn = np.random.default_rng(seed).standard_normal(vector.shape)
    scaled: NDArray[np.float32] = (drawn * np.linalg.norm(vector) / np.linalg.norm(drawn)).astype(np.float32)
    return scaled
