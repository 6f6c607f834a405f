"""Steered sequences in an engine: batched, chunked, preempted, drafted, with the prefix cache shared by all,
and yet each gives what it would give alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray

from headrace.engine.batch import Batch
from headrace.engine.capture import HiddenStates
from headrace.engine.engine import Engine
from headrace.engine.openvino import OpenVINORunner, RunnerOptions
from headrace.engine.runner import Runner
from headrace.engine.sequence import SamplingParams, Sequence
from headrace.steering.plan import Plan, PromptFacts, Term, resolve
from headrace.steering.sae import fold
from headrace.steering.slot import Shape, SiteNeeds, Slot
from headrace.steering.types import Apply
from tests.engine.conftest import Files
from tests.engine.fakes import PassingRunner
from tests.engine.random_load import Drive, Job, Mix, mixes
from tests.engine.test_openvino import prompts
from tests.steering.oracle import SteeredOracle
from tests.steering.synthetic import info_of, random_weights
from tests.steering.test_sites import unit

LAYER = 0
LENGTHS = (2, 17, 32, 33, 64, 65, 100, 130)
STANDARD = fold(random_weights("standard", "layer_norm"), info_of(random_weights("standard", "layer_norm")))
TOPK = fold(random_weights("topk"), info_of(random_weights("topk")))

ADD = Slot("add", unit(1), Shape(1.0, 1.0))
CAP = Slot("direction", unit(2), Shape(1.0, 0.0, high=-0.1), unit(2))
CLAMP = STANDARD.slot(7, Shape(0.0, 4.0))
RANKED = TOPK.slot(3, Shape(3.0, 0.0))
# How a request may be steered: (slots with strengths, scope); None: not.
STYLES: tuple[tuple[list[tuple[Slot, float]], Apply] | None, ...] = (
    None,
    ([(ADD, 3.0)], Apply()),
    ([(ADD, -2.0)], Apply()),
    ([(ADD, 3.0)], Apply(prompt=False)),
    ([(CLAMP, 1.0)], Apply(exceptions=frozenset())),
    ([(CLAMP, 1.0), (CAP, 1.0)], Apply(window=(20, 70))),
    ([(ADD, 2.0), (RANKED, 1.0)], Apply(generation=False)),
    ([(CAP, 1.0), (ADD, 1.0)], Apply(prompt=False, generation=False, prompt_last=True)),
    ([(ADD, 1.0), (CLAMP, 0.5)], Apply()),
)


def plan_of(style: int, tokens: list[int]) -> Plan | None:
    found = STYLES[style]
    if found is None:
        return None
    slots, apply = found
    scope = resolve(apply, PromptFacts(tokens))
    if scope.is_empty:
        return None
    return Plan(tuple(Term(LAYER, slot, strength, 0) for slot, strength in slots), (scope,))


def steerable(files: Files, num_blocks: int) -> OpenVINORunner:
    runner = OpenVINORunner(
        files.folder, RunnerOptions(kv_cache_bytes=2**30, max_tokens=32 * num_blocks, exact=True)
    )
    rank = TOPK.rank()
    assert rank is not None
    runner.install_sites(runner.compile_sites({LAYER: SiteNeeds(LAYER, True, (rank,))}))
    return runner


class SteeredDrive(Drive):
    """A drive whose jobs are steered, each in its style."""

    def __init__(self, runner: OpenVINORunner, mix: Mix, oracle: SteeredOracle) -> None:
        self.steered = oracle
        super().__init__(runner, mix, _Never())

    def answer(self, job: Job) -> list[int]:
        return self.steered.continuation(job.prompt, job.max_tokens, self.plan(job))

    def plan(self, job: Job) -> Plan | None:
        return plan_of(job.style, list(job.prompt))

    def gap(self, job: Job, tokens: list[int]) -> float:
        return self.steered.gap(tokens, self.plan(job))


class _Never:
    def continuation(self, prompt: tuple[int, ...], count: int) -> list[int]:
        raise AssertionError

    def gap(self, tokens: list[int]) -> float:
        raise AssertionError


def test_random_steered_mixes_give_the_oracles_tokens(tiny: Files) -> None:
    oracle, runner = SteeredOracle(HiddenStates(tiny.folder, exact=True)), steerable(tiny, 24)
    seen: Counter[str] = Counter()

    @settings(
        max_examples=40, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(mix=mixes(prompts(1, 256, LENGTHS), most_spare=6, longest=24, num_styles=len(STYLES)))
    def holds(mix: Mix) -> None:
        seen.update(SteeredDrive(runner, mix, oracle).run())

    holds()
    print(dict(seen))
    assert seen["near ties"] <= seen["sequences"] / 200
    for kind in ("preemptions", "chunks", "mixed steps", "prefix hits", "drafted", "accepted"):
        assert seen[kind] > 10, f"the mixes are too tame: {kind}"


def test_styles_differ(tiny: Files) -> None:
    oracle = SteeredOracle(HiddenStates(tiny.folder, exact=True))
    prompt = tuple(range(40))
    rows = [oracle.logits(list(prompt), plan_of(style, list(prompt)))[-1] for style in range(len(STYLES))]
    for index, row in enumerate(rows):
        for other in rows[:index]:
            assert np.abs(row - other).max() > 1e-3


class Recorder(PassingRunner):
    """Keeps the rows of logits of each step, by sequence."""

    def __init__(self, runner: Runner, change: Callable[[Batch], Batch] = lambda batch: batch) -> None:
        super().__init__(runner)
        self.rows: dict[int, list[NDArray[np.float32]]] = {}
        self._change = change

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        logits = self.runner.forward(self._change(batch))
        for sequence, rows in batch.sampled:
            self.rows.setdefault(sequence.index, []).append(logits[rows].copy())
        return logits


def rows_of(runner: Runner, plans: list[Plan | None]) -> dict[int, NDArray[np.float32]]:
    """The logits of 8 tokens of each, whose prompts differ, in one batch, without the prefix cache."""
    recorder = Recorder(runner)
    engine = Engine(recorder, max_num_seqs=16, max_batch_tokens=2048, speculates=False)
    for index, plan in enumerate(plans):
        tokens = [(7 * index + 3 * place) % 250 for place in range(20 + index)]
        params = SamplingParams(8, temperature=0, logit_bias=((9, 1e4),))  # the same token, always
        engine.add(Sequence(tokens, params, index=index, plan=plan, salt=bytes([index])))
    while engine.has_work:
        engine.step()
    return {index: np.concatenate(rows) for index, rows in recorder.rows.items()}


@pytest.fixture(scope="module")
def mixed_plans() -> list[Plan | None]:
    """16 sequences, of which 8 are steered in 8 ways."""
    return [plan_of(1 + index // 2, [0] * (20 + index)) if index % 2 == 0 else None for index in range(16)]


def test_unsteered_rows_of_a_mixed_batch_have_the_same_bits(
    tiny: Files, mixed_plans: list[Plan | None]
) -> None:
    runner = steerable(tiny, 64)
    mixed, plain = rows_of(runner, mixed_plans), rows_of(runner, [None] * 16)
    for index, plan in enumerate(mixed_plans):
        if plan is None:
            np.testing.assert_array_equal(mixed[index], plain[index])
        else:
            assert np.abs(mixed[index] - plain[index]).max() > 1e-3


def test_steered_rows_of_a_mixed_batch_equal_their_solo_run(
    tiny: Files, mixed_plans: list[Plan | None]
) -> None:
    runner = steerable(tiny, 64)
    mixed = rows_of(runner, mixed_plans)
    for index in range(0, 16, 2):
        alone = rows_of(runner, [plan if i == index else None for i, plan in enumerate(mixed_plans)])
        assert np.abs(mixed[index] - alone[index]).max() < 1e-4


def test_blocks_that_steering_does_not_touch_are_shared(tiny: Files) -> None:
    engine = Engine(steerable(tiny, 64))
    prompt = list(range(100))

    def cached(style: int) -> int:
        sequence = Sequence(list(prompt), SamplingParams(2, temperature=0), plan=plan_of(style, prompt))
        engine.add(sequence)
        while engine.has_work:
            engine.step()
        return sequence.num_cached

    assert cached(0) == 0
    assert cached(0) == 98  # three blocks, and the beginning of the last
    assert cached(3) == 98  # only what is generated is steered, from the prompt's last token on
    assert cached(1) == 0  # all is steered
    assert cached(1) == 96
    assert cached(2) == 0
    assert cached(5) == 0  # steered from position 20 on
    assert cached(0) == 98


def test_a_sequence_whose_layer_was_detached_ends_with_an_error(tiny: Files) -> None:
    runner = steerable(tiny, 64)
    engine, plan = Engine(runner), plan_of(1, list(range(40)))
    runner.install_sites(runner.compile_sites({}))
    steered = Sequence(list(range(40)), SamplingParams(4, temperature=0), plan=plan)
    plain = Sequence(list(range(40)), SamplingParams(4, temperature=0))
    for sequence in (steered, plain):
        engine.add(sequence)
    ends: dict[Sequence, str | None] = {}
    while engine.has_work:
        ends |= {output.sequence: output.finish_reason for output in engine.step()}
    assert (ends[steered], steered.error) == ("error", "DetachedError")
    assert (ends[plain], plain.num_generated) == ("length", 4)
