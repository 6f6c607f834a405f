"""Training a sparse autoencoder: gradients are those of the loss, and known features are found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headrace.errors import ConfigError
from headrace.steering.quality import measure
from headrace.steering.site import Floats, no_report
from headrace.steering.train_sae import SAE, SAESettings, Trainer, top, train, usable

WIDTH, FEATURES, ACTIVE = 32, 48, 3


def dictionary() -> Floats:
    """Directions of length 1, [features, width]."""
    rows = np.random.default_rng(7).standard_normal((FEATURES, WIDTH)).astype(np.float32)
    unit: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def states(count: int, seed: int = 0) -> Floats:
    """Hidden states that are sums of ACTIVE directions and a constant."""
    rng = np.random.default_rng(seed)
    activations = np.zeros((count, FEATURES), np.float32)
    chosen = rng.random((count, FEATURES)).argsort(1)[:, :ACTIVE]
    np.put_along_axis(activations, chosen, rng.uniform(1, 3, (count, ACTIVE)).astype(np.float32), 1)
    return activations @ dictionary() + np.float32(0.5)


SETTINGS = SAESettings(FEATURES, k=ACTIVE, epochs=60, batch=256, learning_rate=5e-3, dead_after=1000)


def loss(sae: SAE, rows: Floats, variance: float) -> float:
    """The share of the variance that is not explained, in float64."""
    x, w_enc, w_dec = (array.astype(np.float64) for array in (rows, sae.w_enc, sae.w_dec))
    scores = (x - sae.b_dec) @ w_enc + sae.b_enc
    kept = np.zeros_like(scores)
    for row, values in enumerate(scores):
        for feature in sorted(range(len(values)), key=lambda index: -values[index])[: sae.k]:
            kept[row, feature] = max(values[feature], 0.0)
    return float(((kept @ w_dec + sae.b_dec - x) ** 2).sum(1).mean()) / variance


@pytest.mark.parametrize("name", ["w_enc", "b_enc", "w_dec", "b_dec"])
def test_the_gradients_are_those_of_the_loss(name: str) -> None:
    rows = states(40)
    trainer = Trainer(states(512), SETTINGS)
    found = getattr(trainer.gradients(rows), name)
    variance = float(((states(512) - states(512).mean(0)) ** 2).sum(1).mean())
    array = getattr(trainer.sae, name)
    rng = np.random.default_rng(1)
    for _ in range(8):
        place = tuple(int(rng.integers(size)) for size in array.shape)
        step = 1e-3
        values = []
        for sign in (1, -1):
            changed = array.astype(np.float64)
            changed[place] += sign * step
            values.append(loss(replace(trainer.sae, **{name: changed}), rows, variance))
        assert found[place] == pytest.approx((values[0] - values[1]) / (2 * step), rel=2e-2, abs=2e-4)


@pytest.fixture(scope="module")
def trained() -> SAE:
    return train(states(6000), SETTINGS, no_report)


def test_it_explains_what_it_was_not_trained_on(trained: SAE) -> None:
    quality = measure(trained, states(2000, seed=1), no_report)
    assert quality.explained_variance > 0.9
    assert quality.l0 <= ACTIVE
    assert quality.num_dead <= FEATURES // 10


def test_it_finds_the_directions_that_the_data_was_made_from(trained: SAE) -> None:
    cosines = dictionary() @ trained.w_dec.T
    assert (cosines.max(1) > 0.95).mean() > 0.8


def test_the_rows_of_the_decoder_have_length_1(trained: SAE) -> None:
    np.testing.assert_allclose(np.linalg.norm(trained.w_dec, axis=1), 1, atol=1e-5)


def test_the_scale_of_the_data_is_the_scale_of_the_activations() -> None:
    settings = replace(SETTINGS, epochs=4)
    small, large = train(states(2000), settings, no_report), train(100 * states(2000), settings, no_report)
    rows = states(50, seed=3)
    np.testing.assert_allclose(100 * small.encode(rows), large.encode(100 * rows), rtol=1e-2, atol=0.05)
    np.testing.assert_allclose(
        100 * small.decode(small.encode(rows)), large.decode(large.encode(100 * rows)), rtol=1e-2, atol=0.5
    )


def test_the_same_seed_gives_the_same_weights() -> None:
    settings = replace(SETTINGS, epochs=1)
    first, second = (train(states(1000), settings, no_report) for _ in range(2))
    np.testing.assert_array_equal(first.w_dec, second.w_dec)
    assert not np.array_equal(first.w_dec, train(states(1000), replace(settings, seed=1), no_report).w_dec)


def test_dead_features_are_revived() -> None:
    rows = states(2000)
    settings = replace(SETTINGS, epochs=1, aux_after=0, dead_after=0)
    trainer = Trainer(rows, settings)
    trainer.sae.b_enc[:8] = -100  # these are never among the largest
    plain = trainer.gradients(rows[:256])
    assert not plain.w_enc[:, :8].any()
    trainer._idle += 1
    assert trainer.gradients(rows[:256], revives=True).w_dec.shape == plain.w_dec.shape


def test_top_keeps_the_largest_positive_ones() -> None:
    scores = np.array([[3, -1, 2, 1], [-1, -2, -3, -4]], np.float32)
    np.testing.assert_array_equal(top(scores, 2), [[3, 0, 2, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(top(scores, 4), np.maximum(scores, 0))


def test_hidden_states_of_huge_norm_are_left_out() -> None:
    rows = states(100)
    rows[[3, 50]] *= 100
    rows[7] = np.nan
    assert sorted(np.flatnonzero(~usable(rows)).tolist()) == [3, 7, 50]


@pytest.mark.parametrize(
    ("settings", "count", "words"),
    [
        (replace(SETTINGS, k=0), 1000, "k is 0"),
        (replace(SETTINGS, k=FEATURES + 1), 1000, "k is 49"),
        (SETTINGS, 100, "at least 256"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: SAESettings, count: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        train(states(count), settings, no_report)
