"""With the runtime's fast types, as a server computes by default: steered neighbours change no bit of an
unsteered sequence, nor of a seeded one.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.engine.engine import Engine
from headrace.engine.openvino import OpenVINORunner, RunnerOptions
from headrace.engine.sequence import SamplingParams, Sequence
from headrace.models.catalog import Model
from headrace.steering.plan import Plan, PromptFacts, Term, resolve
from headrace.steering.sae import fold
from headrace.steering.slot import Shape, SiteNeeds, Slot
from headrace.steering.types import Apply
from tests.steering.synthetic import info_of, random_weights
from tests.steering.test_engine import Recorder
from tests.steering.test_sites import unit

LAYER, WIDTH = 15, 576
SAE = fold(random_weights("topk", width=WIDTH), info_of(random_weights("topk", width=WIDTH)))
SLOTS = [
    Slot("add", unit(1, WIDTH), Shape(1.0, 40.0)),
    SAE.slot(3, Shape(0.0, 60.0)),
    Slot("direction", unit(2, WIDTH), Shape(1.0, 0.0, high=-20.0), unit(2, WIDTH)),
    SAE.slot(9, Shape(2.0, 5.0)),
    Slot("add", unit(5, WIDTH), Shape(1.0, -60.0)),
]


@pytest.fixture(scope="module")
def runner(default_model: Model) -> OpenVINORunner:
    runner = OpenVINORunner(default_model.folder, RunnerOptions(kv_cache_bytes=2**27))
    rank = SAE.rank()
    assert rank is not None
    runner.install_sites(runner.compile_sites({LAYER: SiteNeeds(LAYER, ranks=(rank,))}))
    return runner


def prompt(index: int) -> list[int]:
    return [100 + (37 * index + 11 * place) % 4000 for place in range(40 + 3 * index)]


def sequence(index: int, slots: list[Slot], *, seed: int | None = None) -> Sequence:
    tokens = prompt(index)
    scope = resolve(Apply(), PromptFacts(tokens))
    plan = Plan(tuple(Term(LAYER, slot, 1.0, 0) for slot in slots), (scope,)) if slots else None
    params = SamplingParams(12, temperature=1.0, seed=seed, invariant=seed is not None)
    return Sequence(tokens, params, plan=plan, index=index, salt=bytes([index]))


def run(runner: OpenVINORunner, sequences: list[Sequence]) -> dict[int, NDArray[np.float32]]:
    """The logits that each was sampled from. Without the prefix cache."""
    recorder = Recorder(runner)
    engine = Engine(recorder, max_num_seqs=16, max_batch_tokens=4096, speculates=False)
    for each in sequences:
        engine.add(each)
    while engine.has_work:
        engine.step()
    return {index: np.concatenate(rows) for index, rows in recorder.rows.items()}


@pytest.mark.parametrize("slots", [[], SLOTS[:1], SLOTS[:3], SLOTS[1:4]])
def test_a_seeded_sequence_is_the_same_among_others(runner: OpenVINORunner, slots: list[Slot]) -> None:
    others = [sequence(index, SLOTS[index % 5 :]) for index in range(1, 8)]
    alone = run(runner, [sequence(0, slots, seed=7)])[0]
    among = run(runner, [sequence(0, slots, seed=7), *others])[0]
    np.testing.assert_array_equal(alone, among)


def test_unsteered_rows_have_the_same_bits(runner: OpenVINORunner) -> None:
    def mixed(*, steers: bool) -> dict[int, NDArray[np.float32]]:
        steered = [
            sequence(index, SLOTS[index % 5 :] if steers else [], seed=index) for index in range(0, 8, 2)
        ]
        return run(runner, [*steered, *(sequence(index, [], seed=index) for index in range(1, 8, 2))])

    plain, beside = mixed(steers=False), mixed(steers=True)
    for index in range(8):
        if index % 2:
            np.testing.assert_array_equal(plain[index], beside[index])
        else:
            assert np.abs(plain[index] - beside[index]).max() > 0.1
