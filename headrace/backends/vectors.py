"""Reads a provider's embedding vectors. Imported on first use: a gateway needs numpy for nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def matrix(rows: Sequence[object]) -> NDArray[np.float32]:
    """Return an array of shape (rows, dimensions). A row is a list, or little-endian float32 in base64, which
    some providers send whatever was requested. Raises ValueError, TypeError or OverflowError.
    """
    # row by row, as numpy holds the GIL for as long as one call takes
    vectors = np.array([np.asarray(_vector(row), np.float32) for row in rows], np.float32)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ValueError(f"{vectors.shape} is not one vector of numbers for each row")
    return vectors


def _vector(row: object) -> object:
    return np.frombuffer(base64.b64decode(row, validate=True), "<f4") if isinstance(row, str) else row
