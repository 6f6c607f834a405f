"""How the features of an SAE lie to each other."""

from __future__ import annotations

import numpy as np

from headrace.steering.types import SAE


def neighbours(sae: SAE, feature: int, count: int) -> list[tuple[int, float]]:
    """The features whose decoder directions are most alike, with the cosines, most alike first."""
    direction = sae.decoder[feature]
    norms = np.linalg.norm(sae.decoder, axis=1) * np.linalg.norm(direction)
    cosines = (sae.decoder @ direction) / np.maximum(norms, 1e-12)
    cosines[feature] = -np.inf
    order = np.argsort(-cosines)[: min(count, len(cosines) - 1)]
    return [(int(index), float(cosines[index])) for index in order]


def lengths(sae: SAE, feature: int) -> tuple[float, float]:
    """The lengths of a feature's encoder and decoder directions."""
    return float(np.linalg.norm(sae.encoder[:, feature])), float(np.linalg.norm(sae.decoder[feature]))
