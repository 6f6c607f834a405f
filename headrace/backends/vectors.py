"""Reads a provider's embedding vectors. Imported on first use: a gateway needs numpy for nothing else."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ProviderError
from headrace.types import Embeddings


def embeddings(
    provider: str, read: Callable[[], tuple[Iterable[object], int]], num_inputs: int
) -> Embeddings:
    """Read a provider's embeddings. `read` returns a vector for each input, and the number of tokens. A
    vector is a list of numbers, or little-endian float32 in base64, which some providers send unasked. Raises
    ProviderError for all else.
    """
    try:
        rows, num_tokens = read()
        # row by row, as numpy holds the GIL for as long as one call takes
        vectors = np.array([np.asarray(_vector(row), np.float32) for row in rows], np.float32)
        if len(vectors) != num_inputs or vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise ValueError(f"{vectors.shape} is not one vector of numbers for each of {num_inputs} inputs")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as exc:
        raise ProviderError(f"{provider} answered with something that is no embeddings") from exc
    return Embeddings(vectors, num_tokens)


def _vector(row: object) -> object | NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(row, validate=True), "<f4") if isinstance(row, str) else row
