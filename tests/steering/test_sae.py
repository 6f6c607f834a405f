"""Folded SAEs compute what their definitions do, and so does an edit of one feature."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.steering.sae import fold
from headrace.steering.slot import Shape
from headrace.steering.types import Architecture, Normalization
from tests.steering.operation import edit
from tests.steering.synthetic import ARCHITECTURES, NORMALIZATIONS, WIDTH, Defined, info_of, random_weights

SHAPES = {
    "scale": Shape(2.5, 0.0),
    "clamp": Shape(0.0, 3.0),
    "floor": Shape(1.0, 0.0, low=1.5),
    "cap": Shape(1.0, 0.0, high=0.4),
    "ablate": Shape(0.0, 0.0),
}


def states(count: int = 40) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.random.default_rng(5).standard_normal((count, WIDTH)) * 3 + 0.5


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("subtracts_bias", [True, False])
def test_folding_changes_only_the_lengths(
    architecture: Architecture, normalization: Normalization, subtracts_bias: bool
) -> None:
    weights = random_weights(architecture, normalization, subtracts_bias=subtracts_bias)
    defined, sae, h = Defined(weights), fold(weights, info_of(weights)), states()
    expected = defined.encode(h) * defined.lengths
    found = sae.encode(h.astype(np.float32))
    assert (expected > 0).mean() > 0.05
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)
    whole = sae.decode(found, h.astype(np.float32))
    np.testing.assert_allclose(whole, defined.decode(defined.encode(h), h), rtol=1e-4, atol=1e-4)


def test_topk_that_ranks_by_norm_is_folded() -> None:
    weights = random_weights("topk", ranks_by_norm=True)
    defined, sae, h = Defined(weights), fold(weights, info_of(weights)), states()
    np.testing.assert_allclose(sae.encode(h.astype(np.float32)), defined.encode(h), rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(sae.decoder, axis=1), 1, rtol=1e-6)
    whole = sae.decode(sae.encode(h.astype(np.float32)), h.astype(np.float32))
    np.testing.assert_allclose(whole, defined.decode(defined.encode(h), h), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("mode", SHAPES)
def test_an_edit_is_encode_edit_decode_and_the_error_term(
    architecture: Architecture, normalization: Normalization, mode: str
) -> None:
    weights = random_weights(architecture, normalization)
    defined, sae, h = Defined(weights), fold(weights, info_of(weights)), states()
    activations, feature = defined.encode(h), 7
    shape = SHAPES[mode]
    length = defined.lengths[feature]
    changed = activations.copy()
    folded = activations[:, feature] * length
    changed[:, feature] = np.clip(shape.gain * folded + shape.offset, shape.low, shape.high) / length
    error = h - defined.decode(activations, h)
    expected = defined.decode(changed, h) + error
    found = edit(h, [sae.slot(feature, shape)], np.ones((len(h), 1)))
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-5
    if mode in ("clamp", "floor"):
        assert np.linalg.norm(expected - h) > 1


def test_only_if_active_leaves_other_tokens_alone() -> None:
    weights = random_weights("standard")
    sae, h = fold(weights, info_of(weights)), states()
    active = Defined(weights).encode(h)[:, 3] > 0
    found = edit(h, [sae.slot(3, SHAPES["clamp"], only_if_active=True)], np.ones((len(h), 1)))
    assert 0 < active.sum() < len(h)
    np.testing.assert_array_equal((found != h).any(axis=1), active)
