"""The default model in its default precision: a sequence that is to be invariant has the same tokens,
whatever else runs, whatever is cached, however its prompt is cut.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.engine.batch import Batch
from headrace.engine.draft import Drafter
from headrace.engine.engine import Engine
from headrace.engine.openvino import OpenVINORunner, RunnerOptions
from headrace.engine.sequence import BATCH, INTERACTIVE, SamplingParams, Sequence
from headrace.models.catalog import Model
from tests.engine.fakes import FakeRunner

ANSWER = 20  # tokens
LENGTHS = (1, 2, 33, 64, 65, 97, 230, 321)  # about a block of 32, and long enough to be split between threads


@pytest.fixture(scope="module")
def runner(default_model: Model) -> OpenVINORunner:
    return OpenVINORunner(default_model.folder, RunnerOptions(kv_cache_bytes=2**28))


def prompt(length: int) -> list[int]:
    return random.Random(length).choices(range(100, 40_000), k=length)


def sequence_of(tokens: list[int], priority: int = INTERACTIVE, **params: object) -> Sequence:
    all_params = {
        "max_tokens": ANSWER,
        "temperature": 1.0,
        "top_p": 0.95,
        "seed": 7,
        "invariant": True,
        **params,
    }
    return Sequence(list(tokens), SamplingParams(**all_params), priority)  # type: ignore[arg-type]


def others(count: int) -> Iterator[Sequence]:
    """Of all kinds: long and short prompts, drawn and greedy."""
    for number in range(count):
        yield sequence_of(
            prompt(1000 + 40 * number)[: 3 + 17 * number],
            seed=None, invariant=False, temperature=number % 2, max_tokens=5 + 3 * number,
        )  # fmt: skip


def answers(engine: Engine, *sequences: Sequence) -> list[list[int]]:
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_work:
        engine.step()
    assert all(sequence.finish_reason == "length" for sequence in sequences)
    engine.check()
    return [sequence.tokens[sequence.num_prompt :] for sequence in sequences]


@pytest.fixture(scope="module")
def alone(runner: OpenVINORunner) -> dict[int, list[int]]:
    """What each prompt gets, without drafts, in an engine of its own that has computed nothing."""
    return {
        length: answers(Engine(runner, speculates=False), sequence_of(prompt(length)))[0]
        for length in LENGTHS
    }


def test_l15_alone_again_and_again(runner: OpenVINORunner, alone: dict[int, list[int]]) -> None:
    engine = Engine(runner)
    for length in LENGTHS:
        assert answers(engine, sequence_of(prompt(length))) == [alone[length]]
        again = sequence_of(prompt(length))
        assert answers(engine, again) == [alone[length]], length
        assert again.num_cached == max(0, length - 2)


@pytest.mark.parametrize("count", [1, 15])
def test_l15_beside_others(runner: OpenVINORunner, alone: dict[int, list[int]], count: int) -> None:
    engine = Engine(runner)
    beside = list(others(count))
    together = answers(
        engine, *beside[: count // 2], *map(sequence_of, map(prompt, LENGTHS)), *beside[count // 2 :]
    )
    assert together[count // 2 : count // 2 + len(LENGTHS)] == list(alone.values())


@pytest.mark.parametrize("count", [0, 2])
def test_l15_with_drafts_right_and_wrong(
    runner: OpenVINORunner, alone: dict[int, list[int]], count: int
) -> None:
    engine = Engine(runner)
    accepted = rejected = 0
    for length in LENGTHS:
        guessed = list(alone[length])
        guessed[ANSWER // 2] += 1
        sequence = sequence_of(prompt(length))
        sequence.drafter = Drafter(guessed, None)
        assert answers(engine, sequence, *others(count))[0] == alone[length], length
        accepted += sequence.drafter.num_accepted
        rejected += sequence.drafter.num_rejected
    assert accepted > ANSWER
    assert rejected


@pytest.mark.parametrize("budget", [34, 48, 100])
def test_l15_in_chunks(runner: OpenVINORunner, alone: dict[int, list[int]], budget: int) -> None:
    engine = Engine(runner, max_num_seqs=8, max_batch_tokens=budget)
    for length in LENGTHS[-3:]:
        assert answers(engine, sequence_of(prompt(length))) == [alone[length]]


def test_l15_after_others_have_said_the_same(runner: OpenVINORunner, alone: dict[int, list[int]]) -> None:
    """Those are computed the fastest way: alone, their answers' blocks are made by decoding."""
    engine = Engine(runner)
    tokens = prompt(321)
    answers(engine, sequence_of(tokens[:100], seed=None, invariant=False, max_tokens=40))
    usual = sequence_of(tokens[:230], seed=None, invariant=False, temperature=0, max_tokens=100)
    said = answers(engine, usual)[0]
    assert answers(engine, sequence_of(tokens)) == [alone[321]]
    turn = [*tokens[:230], *said, *prompt(33)]
    assert answers(engine, sequence_of(turn)) == answers(Engine(runner), sequence_of(turn))


def test_l15_preempted(runner: OpenVINORunner, alone: dict[int, list[int]]) -> None:
    engine = Engine(runner, max_num_seqs=1)
    sequence = sequence_of(prompt(97), BATCH)
    engine.add(sequence)
    while sequence.num_generated < ANSWER // 2:
        engine.step()
    for other in others(3):
        engine.add(other)
    assert answers(engine)[:0] == []
    assert sequence.num_preemptions
    assert sequence.tokens[97:] == alone[97]


class SmallSteps(FakeRunner):
    """A runtime that rounds steps of more than 8 tokens differently."""

    max_invariant_tokens = 8

    def __init__(self) -> None:
        super().__init__(64)
        self.invariant_steps: list[int] = []  # the tokens of each step with an invariant sequence

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        if any(sequence.params.invariant for sequence in batch.sequences):
            self.invariant_steps.append(len(batch.input_ids))
        return super().forward(batch)


def test_large_steps_that_round_differently_are_avoided() -> None:
    runner = SmallSteps()
    engine = Engine(runner, max_num_seqs=4, max_batch_tokens=64)
    tokens = [1, 2, 3, 4, 5] * 6
    beside = [Sequence(tokens[number:], SamplingParams(max_tokens=9)) for number in range(3)]
    careful = Sequence([*tokens], SamplingParams(max_tokens=9, seed=7, invariant=True))
    answers(engine, *beside[:1])
    answers(engine, careful, *beside[1:])
    assert careful.num_cached == 0, "it took what a large step had computed"
    assert max(runner.invariant_steps) <= 8
    again = Sequence([*tokens], SamplingParams(max_tokens=9, seed=7, invariant=True))
    assert answers(engine, again) == [careful.tokens[30:]]
    assert again.num_cached == 28, "small steps make blocks that may be reused"


class Apart(FakeRunner):
    """A runtime that rounds steps without an invariant sequence differently, however small they are."""

    rounds_apart = True


def test_steps_that_round_differently_make_no_blocks_for_invariant_sequences() -> None:
    engine = Engine(Apart(64), max_num_seqs=4, max_batch_tokens=64)
    tokens = [1, 2, 3, 4, 5] * 6
    usual = [Sequence([*tokens], SamplingParams(max_tokens=9)) for _ in range(2)]
    careful = [Sequence([*tokens], SamplingParams(max_tokens=9, seed=7, invariant=True)) for _ in range(2)]
    for sequence in (usual[0], careful[0], careful[1], usual[1]):
        answers(engine, sequence)
    assert careful[0].num_cached == 0, "it took what another kind of step had computed"
    assert careful[1].num_cached == usual[1].num_cached == 28
