"""Scored prompts and pooled hidden states: each row is looked at once, however it is chunked or preempted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.engine.batch import Batch
from headrace.engine.engine import Engine
from headrace.engine.openvino import OpenVINORunner, RunnerOptions
from headrace.engine.sampler import logprobs
from headrace.engine.scheduler import MAX_SCORED
from headrace.engine.sequence import BATCH, Logprobs, Pooling, SamplingParams, Sequence
from headrace.models.catalog import Model
from tests.engine.fakes import VOCABULARY, FakeOracle, FakeRunner
from tests.engine.plain import PlainModel
from tests.engine.test_failures import serve

SCORED = SamplingParams(max_tokens=2, temperature=0, logprobs=1, prompt_logprobs=True)
POOLED = SamplingParams(max_tokens=0)


class Observed(FakeRunner):
    """A hidden state says which token the row predicts."""

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        logits = super().forward(batch)
        both = super().forward(replace(batch, rows=batch.hidden_rows))
        self._hidden: NDArray[np.float32] = both.argmax(1).astype(np.float32)[:, None]
        return logits

    def hidden(self) -> NDArray[np.float32]:
        return self._hidden


class Counting(FakeRunner):
    """Counts the rows of logits of each step."""

    def __init__(self, num_blocks: int) -> None:
        super().__init__(num_blocks)
        self.counts: list[int] = []

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        self.counts.append(len(batch.rows))
        return super().forward(batch)


@pytest.mark.parametrize("sizes", [[900], [300, 300, 300], [5] * 200, [129, 128, 127, 2, 1, 130]])
def test_a_step_scores_a_bounded_number_of_tokens(sizes: list[int]) -> None:
    runner = Counting(512)
    engine = Engine(runner, max_num_seqs=8, max_batch_tokens=512)
    rng = np.random.default_rng(len(sizes))
    prompts = [rng.integers(0, VOCABULARY, size).tolist() for size in sizes]
    scored = [Sequence(list(prompt), SCORED, BATCH) for prompt in prompts]
    decoding = Sequence([1, 2, 3], SamplingParams(max_tokens=400, temperature=0))
    serve(engine, [decoding, *scored])
    for sequence, prompt in zip(scored, prompts, strict=True):
        assert [scores.top[0][0] for scores in sequence.prompt_logprobs] == predicted(prompt)[:-1]
    assert max(runner.counts) <= MAX_SCORED + 8 * 8  # and what is sampled, with drafts


def predicted(prompt: list[int]) -> list[int]:
    """For each token of the prompt what FakeRunner says comes after it."""
    oracle = FakeOracle()
    return [oracle.continuation(tuple(prompt[: end + 1]), 1)[0] for end in range(len(prompt))]


@pytest.mark.parametrize("blocks", [64, 13])
@pytest.mark.parametrize("budget", [4, 7, 512])
def test_prompts_are_scored_and_pooled_amid_everything_else(blocks: int, budget: int) -> None:
    engine = Engine(Observed(blocks), max_num_seqs=4, max_batch_tokens=budget)
    rng = np.random.default_rng(blocks + budget)
    shared = rng.integers(0, VOCABULARY, 9).tolist()
    prompts = [shared + rng.integers(0, VOCABULARY, size).tolist() for size in (0, 3, 8, 20, 5, 1, 13, 30)]
    poolings: list[Pooling] = ["mean", "last", "cls"]
    scored = [Sequence(list(prompt), SCORED, BATCH) for prompt in prompts]
    pooled = [Sequence(list(p), POOLED, BATCH, pooling=poolings[i % 3]) for i, p in enumerate(prompts)]
    plain = [Sequence(list(prompt), SamplingParams(max_tokens=12, temperature=0)) for prompt in prompts]
    order = [sequence for three in zip(scored, plain, pooled, strict=True) for sequence in three]
    serve(engine, order)
    for sequence, prompt in zip(scored, prompts, strict=True):
        tops = [scores.top[0][0] for scores in sequence.prompt_logprobs]
        assert tops == predicted(prompt)[:-1]
        assert tuple(sequence.tokens[len(prompt) :]) == tuple(FakeOracle().continuation(tuple(prompt), 2))
    for sequence, prompt in zip(pooled, prompts, strict=True):
        rows = predicted(prompt)
        expected = {"mean": sum(rows), "last": rows[-1], "cls": rows[0]}[sequence.pooling or ""]
        assert sequence.pooled is not None
        assert sequence.pooled.tolist() == [expected]
        assert (sequence.finish_reason, sequence.num_generated) == ("length", 0)
    for sequence, prompt in zip(plain, prompts, strict=True):
        assert tuple(sequence.tokens[len(prompt) :]) == tuple(FakeOracle().continuation(tuple(prompt), 12))


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_a_preempted_prompt_is_pooled_as_if_it_had_not_been(pooling: Pooling) -> None:
    """Those that decode beside it need its blocks, so that nothing of it is cached when it goes on."""
    engine = Engine(Observed(10), max_num_seqs=4, max_batch_tokens=4)
    prompt = np.random.default_rng(1).integers(0, VOCABULARY, 24).tolist()
    params = SamplingParams(max_tokens=20, temperature=0)
    growing = [Sequence(list(range(first, first + 6)), params) for first in (1, 5)]
    pooled = Sequence(list(prompt), POOLED, BATCH, pooling=pooling)
    serve(engine, [*growing, pooled])
    assert pooled.num_preemptions > 0
    rows = predicted(prompt)
    expected = {"mean": sum(rows), "last": rows[-1], "cls": rows[0]}[pooling]
    assert pooled.pooled is not None
    assert pooled.pooled.tolist() == [expected]


def test_hidden_states_that_are_not_finite_fail_their_sequence_alone() -> None:
    class Broken(Observed):
        def hidden(self) -> NDArray[np.float32]:
            return np.where(self._hidden == bad, np.nan, self._hidden).astype(np.float32)

    prompts = [[1, 2, 3], [7, 8, 9, 10]]
    bad = predicted(prompts[0])[0]
    assert bad not in predicted(prompts[1])
    sequences = [Sequence(list(prompt), POOLED, pooling="mean") for prompt in prompts]
    serve(Engine(Broken(16)), sequences)
    assert [sequence.finish_reason for sequence in sequences] == ["error", "length"]


class Even:
    """Allows even tokens only, and is done after three."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.accepted: list[int] = []
        self.breaks = breaks

    def fill(self, mask: NDArray[np.int32]) -> None:
        if self.breaks and len(self.accepted) == 1:
            raise RuntimeError("too complex")
        mask[:] = 0x55555555

    def forced(self) -> list[int]:
        return []

    def accept(self, token: int) -> bool:
        self.accepted.append(token)
        return len(self.accepted) == 3


def test_a_constraint_holds_ends_its_sequence_and_fails_alone() -> None:
    params = SamplingParams(max_tokens=10, temperature=0)
    good, free = Sequence([1, 2, 3], params, constraint=Even()), Sequence([1, 2, 3], params)
    bad = Sequence([4, 5, 6], params, constraint=Even(breaks=True))
    outputs = serve(Engine(FakeRunner(16)), [good, bad, free])
    answer = good.tokens[3:]
    assert len(answer) == 3
    assert all(token % 2 == 0 for token in answer)
    assert good.finish_reason == "stop"
    assert (bad.finish_reason, bad.error) == ("error", "RuntimeError")
    assert tuple(free.tokens[3:]) == tuple(FakeOracle().continuation((1, 2, 3), 10))
    assert [output.finish_reason for output in outputs if output.sequence is bad] == [None, "error"]


def test_keys_of_a_sequence_that_ended_in_nan_are_not_found_again() -> None:
    class Poisoned(FakeRunner):
        def forward(self, batch: Batch) -> NDArray[np.float32]:
            return super().forward(batch) * np.float32(np.nan if self.is_poisoned else 1)

        is_poisoned = True

    runner = Poisoned(16)
    engine = Engine(runner)
    prompt = list(range(20))
    first, second = (Sequence(list(prompt), SamplingParams(4, temperature=0)) for _ in range(2))
    serve(engine, [first])
    runner.is_poisoned = False
    serve(engine, [second])
    assert first.finish_reason == "error"
    assert second.num_cached == 0
    assert tuple(second.tokens[20:]) == tuple(FakeOracle().continuation(tuple(prompt), 4))


def test_logprobs_of_the_real_model_are_those_of_the_plain_graph(default_model: Model) -> None:
    rng = np.random.default_rng(5)
    prompt = rng.integers(20, 40_000, 75).tolist()
    options = RunnerOptions(kv_cache_bytes=2**26, exact=True)
    engine = Engine(OpenVINORunner(default_model.folder, options), max_batch_tokens=32)
    params = SamplingParams(max_tokens=6, temperature=0, logprobs=5, prompt_logprobs=True)
    sequence = Sequence(list(prompt), params)
    others = [Sequence(rng.integers(20, 40_000, 9).tolist(), SamplingParams(30, seed=i)) for i in range(5)]
    outputs = serve(engine, [*others[:3], sequence, *others[3:]])
    exact = PlainModel(default_model.folder).logits(sequence.tokens)
    expected = [logprobs(row, token, 5) for row, token in zip(exact, sequence.tokens[1:], strict=False)]
    found = [*sequence.prompt_logprobs, *(o.logprobs for o in outputs if o.sequence is sequence)]
    assert len(found) == len(expected) == 80
    for ours, theirs in zip(found, expected, strict=True):
        assert isinstance(ours, Logprobs)
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-3)
        assert [v for _, v in ours.top] == pytest.approx([v for _, v in theirs.top], abs=1e-3)
