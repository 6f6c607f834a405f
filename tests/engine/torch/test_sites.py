"""The hooks compute the operation, as the compiled graph does: in float32, against the oracle in float64."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.engine.torch.runner import TorchRunner
from headrace.errors import ModelError
from headrace.steering.slot import Shape, SiteNeeds, Slot
from tests.engine.torch.test_runner import runner as runner
from tests.steering.test_sae import SHAPES
from tests.steering.test_sites import RANKS, SAES, everywhere, expect, run, unit

LAYERS = (-1, 0, 1)


@pytest.fixture
def steerable(runner: TorchRunner) -> TorchRunner:
    runner.install_sites(runner.compile_sites({layer: SiteNeeds(layer, True, RANKS) for layer in LAYERS}))
    return runner


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("mode", SHAPES)
def test_modes_of_a_direction(steerable: TorchRunner, layer: int, mode: str) -> None:
    expect(steerable, layer, [Slot("direction", unit(1), SHAPES[mode], unit(1))], [0.7])
    expect(steerable, layer, [Slot("add", unit(seed), Shape(1.0, 1.0)) for seed in range(5)], [0.5] * 5)


@pytest.mark.parametrize("key", SAES)
def test_modes_of_a_feature(steerable: TorchRunner, key: tuple[str, str]) -> None:
    sae = SAES[key]  # type: ignore[index]  # pytest gives the key back as it got it
    for shape in SHAPES.values():
        expect(steerable, 0, [sae.slot(11, shape)], [1.0])
        expect(steerable, 0, [sae.slot(12, shape, only_if_active=True)], [1.0], preserve_norm=True)


def test_all_groups_at_once(steerable: TorchRunner) -> None:
    slots = [
        Slot("add", unit(1), Shape(1.0, 1.0)),
        *(sae.slot(feature, SHAPES["clamp"]) for sae in SAES.values() for feature in (2, 40)),
        Slot("direction", unit(2), Shape(1.0, 0.0, high=0.1), unit(2)),
    ]
    expect(steerable, 0, slots, [0.5] * len(slots), preserve_norm=True)


def test_hooks_that_do_nothing_change_no_bit(runner: TorchRunner, steerable: TorchRunner) -> None:
    _, read_only = run(steerable, 0, None)
    runner.install_sites({})
    with pytest.raises(RuntimeError, match="not editable"):
        run(runner, 0, None)
    steerable.install_sites({0: SiteNeeds(0), 1: SiteNeeds(1)})
    _, other = run(steerable, 1, None)
    np.testing.assert_array_equal(read_only, other)


def test_a_steered_layer_moves_the_logits(steerable: TorchRunner) -> None:
    _, plain = run(steerable, 0, None)
    _, steered = run(steerable, 0, everywhere([Slot("add", unit(1), Shape(1.0, 1.0))], 0, [3.0]))
    assert np.abs(steered - plain).max() > 1e-3


def test_a_layer_that_the_model_does_not_have(runner: TorchRunner) -> None:
    with pytest.raises(ModelError, match="no layer 9"):
        runner.compile_sites({9: SiteNeeds(9)})
