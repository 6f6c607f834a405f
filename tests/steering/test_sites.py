"""The graph computes the operation: every mode, architecture and normalization, in float32."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.engine.batch import pack
from headrace.engine.openvino import OpenVINORunner, RunnerOptions
from headrace.engine.probing import Source
from headrace.engine.runner import Runner
from headrace.engine.sequence import SamplingParams, Sequence
from headrace.steering.plan import Plan, Scope, Term
from headrace.steering.sae import LoadedSAE, fold
from headrace.steering.slot import Shape, SiteNeeds, Slot
from headrace.steering.types import Probe, Reading
from tests.engine.conftest import Files
from tests.steering.operation import edit
from tests.steering.synthetic import ARCHITECTURES, NORMALIZATIONS, info_of, random_weights
from tests.steering.test_sae import SHAPES

Floats = NDArray[np.float32]

TOKENS = list(range(5, 45))
LAYERS = (-1, 0, 1)


class Raw:
    """A prober that keeps the hidden states."""

    probe = Probe("")

    def __init__(self, layer: int) -> None:
        self.source = Source(("raw", layer), layer, lambda states: states)

    def read(self, numbers: Floats, start: int) -> list[Reading]:
        raise NotImplementedError


SAES = {
    (architecture, normalization): fold(weights, info_of(weights))
    for architecture in ARCHITECTURES
    for normalization in NORMALIZATIONS
    for weights in [random_weights(architecture, normalization, seed=len(architecture + normalization))]
}
RANKS = tuple(rank for sae in SAES.values() if (rank := sae.rank()) is not None)


@pytest.fixture(scope="module")
def runner(tiny: Files) -> OpenVINORunner:
    runner = OpenVINORunner(tiny.folder, RunnerOptions(kv_cache_bytes=2**26, max_tokens=1024, exact=True))
    runner.install_sites(runner.compile_sites({layer: SiteNeeds(layer, True, RANKS) for layer in LAYERS}))
    return runner


def run(runner: Runner, layer: int, plan: Plan | None, tokens: list[int] = TOKENS) -> tuple[Floats, Floats]:
    """(hidden states that leave the layer, last logits) of a prompt in one step."""
    sequence = Sequence(list(tokens), SamplingParams(1), plan=plan, probers=(Raw(layer),))
    sequence.blocks = list(range(-(-len(tokens) // runner.block_size)))
    batch = pack({sequence: len(tokens)})
    logits = runner.forward(batch).copy()
    return runner.states(layer)[batch.read[0].rows].copy(), logits


def everywhere(
    slots: list[Slot], layer: int, strengths: list[float] | None = None, preserve_norm: bool = False
) -> Plan:
    scope = Scope(np.ones(len(TOKENS), np.bool_), 0, 2**62)
    strengths = strengths or [1.0] * len(slots)
    pairs = zip(slots, strengths, strict=True)
    return Plan(tuple(Term(layer, slot, strength, 0, preserve_norm) for slot, strength in pairs), (scope,))


def unit(seed: int, width: int = 64) -> Floats:
    direction = np.random.default_rng(seed).standard_normal(width)
    return (direction / np.linalg.norm(direction)).astype(np.float32)


def expect(
    runner: Runner, layer: int, slots: list[Slot], strengths: list[float], preserve_norm: bool = False
) -> None:
    before, _ = run(runner, layer, None)
    after, _ = run(runner, layer, everywhere(slots, layer, strengths, preserve_norm))
    weights = np.tile(np.array(strengths), (len(before), 1))
    keep = np.ones(len(before), np.bool_) if preserve_norm else None
    expected = edit(before.astype(np.float64), slots, weights, keep)
    assert np.linalg.norm(after - expected) / np.linalg.norm(expected) < 1e-5
    assert np.abs(after - expected).max() < 1e-4 * np.abs(expected).max()
    np.testing.assert_array_equal(runner.unedited(layer), before)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("mode", SHAPES)
def test_modes_of_a_direction(runner: OpenVINORunner, layer: int, mode: str) -> None:
    slot = Slot("direction", unit(1), SHAPES[mode], unit(1))
    expect(runner, layer, [slot], [1.0])
    expect(runner, layer, [slot], [0.3])


@pytest.mark.parametrize("layer", LAYERS)
def test_add(runner: OpenVINORunner, layer: int) -> None:
    slots = [Slot("add", unit(seed), Shape(1.0, 1.0)) for seed in range(9)]
    expect(runner, layer, slots[:1], [2.5])
    expect(runner, layer, slots, list(np.linspace(-2, 2, 9)))


@pytest.mark.parametrize("mode", SHAPES)
@pytest.mark.parametrize("key", SAES)
def test_modes_of_a_feature(runner: OpenVINORunner, key: tuple[str, str], mode: str) -> None:
    sae = SAES[key]  # type: ignore[index]  # pytest gives the key back as it got it
    expect(runner, 0, [sae.slot(11, SHAPES[mode])], [1.0])


def test_all_groups_at_once_and_a_kept_norm(runner: OpenVINORunner) -> None:
    slots = [
        Slot("add", unit(1), Shape(1.0, 1.0)),
        *(sae.slot(feature, SHAPES["clamp"]) for sae in SAES.values() for feature in (2, 40)),
        SAES["standard", "none"].slot(5, SHAPES["floor"], only_if_active=True),
        Slot("direction", unit(2), Shape(1.0, 0.0, high=0.1), unit(2)),
    ]
    expect(runner, 0, slots, [0.5] * len(slots))
    expect(runner, 0, slots, [0.5] * len(slots), preserve_norm=True)


def test_a_bound_holds_on_what_leaves_the_site(runner: OpenVINORunner) -> None:
    cap = Slot("direction", unit(2), Shape(1.0, 0.0, high=0.05), unit(2))
    after, _ = run(runner, 1, everywhere([Slot("add", unit(2), Shape(1.0, 1.0)), cap], 1, [30.0, 1.0]))
    assert (after @ unit(2)).max() < 0.05 + 1e-4


def test_the_plain_graph_is_not_touched_and_idle_sites_change_no_bit(
    runner: OpenVINORunner, tiny: Files
) -> None:
    plain = OpenVINORunner(tiny.folder, RunnerOptions(kv_cache_bytes=2**26, max_tokens=1024, exact=True))
    sequence = Sequence(list(TOKENS), SamplingParams(1))
    sequence.blocks = [0, 1]
    expected = plain.forward(pack({sequence: len(TOKENS)})).copy()
    np.testing.assert_array_equal(runner.forward(pack({sequence: len(TOKENS)})), expected)
    _, read_only = run(runner, 0, None)
    np.testing.assert_array_equal(read_only, expected)


def test_a_layer_without_a_site_is_refused_by_the_runner(tiny: Files) -> None:
    plain = OpenVINORunner(tiny.folder, RunnerOptions(kv_cache_bytes=2**26, max_tokens=1024, exact=True))
    with pytest.raises(RuntimeError, match="not editable"):
        run(plain, 0, everywhere([Slot("add", unit(1), Shape(1.0, 1.0))], 0))


def test_features_of_a_topk_sae_count_only_among_the_largest(runner: OpenVINORunner) -> None:
    sae: LoadedSAE = SAES["topk", "none"]
    before, _ = run(runner, 0, None)
    activations = sae.encode(before)
    feature = int((activations > 0).sum(axis=0).argmax())
    shape = SHAPES["clamp"]
    after, _ = run(runner, 0, everywhere([sae.slot(feature, shape, only_if_active=True)], 0))
    np.testing.assert_array_equal((after != before).any(axis=1), activations[:, feature] > 0)
