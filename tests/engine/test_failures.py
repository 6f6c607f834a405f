"""A step that fails ends the sequences that make it fail, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headrace.engine.batch import Batch
from headrace.engine.engine import Engine, Output
from headrace.engine.sequence import SamplingParams, Sequence
from tests.engine.fakes import FakeOracle, FakeRunner

GREEDY = SamplingParams(max_tokens=12, temperature=0)
PROMPTS = [tuple(range(first, first + length)) for first, length in ((0, 9), (20, 3), (0, 14), (40, 30))]


class FaultyRunner(FakeRunner):
    """Raises, having half written its cache, for batches that `fault` has an exception for."""

    def __init__(self, fault: Callable[[Batch], Exception | None]) -> None:
        super().__init__(num_blocks=64)
        self.fault = fault

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        logits = super().forward(batch)
        exc = self.fault(batch)
        if exc is not None:
            raise exc
        return logits


class NaNRunner(FakeRunner):
    """Gives no distribution for one sequence."""

    bad: Sequence | None = None

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        logits = super().forward(batch)
        for sequence, rows in batch.sampled:
            if sequence is self.bad:
                logits[rows] = np.nan
        return logits


def never(batch: Batch) -> Exception | None:
    return None


def greedy(prompt: tuple[int, ...]) -> Sequence:
    return Sequence(list(prompt), GREEDY)


def serve(engine: Engine, sequences: list[Sequence]) -> list[Output]:
    for sequence in sequences:
        engine.add(sequence)
    outputs = []
    while engine.has_work:
        outputs += engine.step()
        engine.check()
    assert engine.pool.num_held == 0
    return outputs


def answer(sequence: Sequence) -> list[int]:
    return sequence.tokens[sequence.num_prompt :]


def expect_right(engine: Engine, sequences: list[Sequence]) -> None:
    for sequence in sequences:
        prompt = tuple(sequence.tokens[: sequence.num_prompt])
        assert answer(sequence) == FakeOracle().continuation(prompt, GREEDY.max_tokens)
        assert sequence.finish_reason == "length"


def expect_usable(engine: Engine) -> None:
    """It serves the same prompts again, and rightly: nothing half computed was kept."""
    again = [greedy(prompt) for prompt in PROMPTS]
    serve(engine, again)
    expect_right(engine, again)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    bad=st.sets(st.integers(0, len(PROMPTS) - 1)),
    after=st.integers(0, 8),
    seats=st.integers(1, 5),
    budget=st.sampled_from([5, 8, 100]),
)
def test_only_the_sequences_that_make_a_step_fail_end(
    bad: set[int], after: int, seats: int, budget: int
) -> None:
    sequences = [greedy(prompt) for prompt in PROMPTS]
    guilty = {sequences[i] for i in bad}
    runner = FaultyRunner(
        lambda batch: (
            RuntimeError("no")
            if any(s in guilty and s.num_generated >= after for s in batch.sequences)
            else None
        )
    )
    engine = Engine(runner, max_num_seqs=seats, max_batch_tokens=budget)
    outputs = serve(engine, sequences)
    expect_right(engine, [s for s in sequences if s not in guilty])
    for sequence in guilty:
        assert (sequence.finish_reason, sequence.error) == ("error", "RuntimeError")
        prompt = tuple(sequence.tokens[: sequence.num_prompt])
        assert answer(sequence) == FakeOracle().continuation(prompt, after)
    ends = [output.sequence for output in outputs if output.finish_reason is not None]
    assert len(ends) == len(sequences) == len(set(ends)), "everybody hears exactly one end"
    runner.fault = never
    expect_usable(engine)


def test_a_batch_too_big_for_the_memory_is_run_one_by_one() -> None:
    runner = FaultyRunner(lambda batch: MemoryError() if len(batch.sequences) > 1 else None)
    engine = Engine(runner)
    sequences = [greedy(prompt) for prompt in PROMPTS]
    serve(engine, sequences)
    expect_right(engine, sequences)


def test_no_memory_at_all_ends_everybody_with_an_error_and_leaves_an_engine() -> None:
    runner = FaultyRunner(lambda batch: MemoryError())
    engine = Engine(runner)
    sequences = [greedy(prompt) for prompt in PROMPTS]
    outputs = serve(engine, sequences)
    assert [(o.token, o.finish_reason, o.sequence.error) for o in outputs] == [
        (None, "error", "MemoryError")
    ] * 4
    runner.fault = never
    expect_usable(engine)


def test_siblings_of_a_failed_leader_go_on() -> None:
    leader = greedy(PROMPTS[0])
    siblings = [Sequence(list(PROMPTS[0]), GREEDY, index=i, leader=leader) for i in (1, 2)]
    runner = FaultyRunner(lambda batch: RuntimeError() if leader in batch.sequences else None)
    engine = Engine(runner)
    serve(engine, [leader, *siblings])
    assert leader.finish_reason == "error"
    expect_right(engine, siblings)


def test_a_failing_neighbour_does_not_disturb_a_seeded_draw() -> None:
    seeded = SamplingParams(max_tokens=12, temperature=3.0, seed=9)

    def drawn(neighbours: list[Sequence]) -> list[int]:
        sequence = Sequence(list(PROMPTS[0]), seeded)
        runner = FaultyRunner(
            lambda batch: RuntimeError() if any(s in batch.sequences for s in neighbours) else None
        )
        serve(Engine(runner), [*neighbours, sequence])
        return answer(sequence)

    assert drawn([]) == drawn([greedy(PROMPTS[1]), greedy(PROMPTS[3])])


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(max_tokens=12, temperature=0.01)], ids=str)
def test_logits_that_are_no_distribution_end_their_sequence_only(params: SamplingParams) -> None:
    runner = NaNRunner(64)
    engine = Engine(runner)
    sequences = [greedy(prompt) for prompt in PROMPTS]
    runner.bad = Sequence([3, 4, 5], params)
    serve(engine, [*sequences[:2], runner.bad, *sequences[2:]])
    expect_right(engine, sequences)
    assert (runner.bad.finish_reason, runner.bad.error) == ("error", "ArithmeticError")
    assert answer(runner.bad) == []
    runner.bad = None
    expect_usable(engine)


def test_aborting_what_has_ended_changes_nothing() -> None:
    engine = Engine(FakeRunner(64))
    sequence = greedy(PROMPTS[0])
    serve(engine, [sequence])
    engine.abort(sequence)
    assert sequence.finish_reason == "length"


def test_a_sequence_that_outgrows_the_cache_is_our_mistake() -> None:
    engine = Engine(FakeRunner(num_blocks=4))
    assert engine.max_tokens == 16
    engine.add(Sequence([1] * 4, GREEDY))
    with pytest.raises(AssertionError, match="outgrows"):
        engine.add(Sequence([1] * 5, GREEDY))


def test_a_mistake_of_ours_is_not_taken_for_the_runners() -> None:
    """Running a step again that was half committed would compute with wrong counts."""
    engine = Engine(FakeRunner(64))
    sequence = Sequence([1, 2], SamplingParams(max_tokens=2, temperature=0))
    engine.add(sequence)
    engine.step()
    engine.pool.release(sequence.blocks)
    with pytest.raises(AssertionError, match="has no holder"):
        engine.step()
