"""Any decoder of transformers under the engine: in mixes of chunks, aborts and preemptions, each row of
logits is the one that the model itself gives for the whole sequence.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray

from headrace.engine.batch import Batch
from headrace.engine.runner import Runner
from headrace.engine.torch import load
from headrace.engine.torch.decoder import Decoder
from headrace.engine.torch.runner import TorchRunner
from headrace.engine.torch.sequential import SequentialRunner
from tests.engine.architectures import PAGED, SEQUENTIAL, VOCABULARY, random_model
from tests.engine.fakes import PassingRunner
from tests.engine.random_load import Drive, Mix, Prompt, mixes, shared_prefixes

TOLERANCE = 1e-4  # of the largest logit
LONGEST = 12  # tokens of an answer
BASES = [tuple(5 + 7 * i % 283 for i in range(70)), tuple(290 - 3 * i for i in range(70))]
MIXES = mixes(shared_prefixes(BASES, most=70), longest=LONGEST)
Floats = NDArray[np.float32]


class Oracle:
    """The model without a cache: every prompt is computed from its start, once."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._known: dict[Prompt, Floats] = {}
        self.largest = 0.0

    def logits(self, tokens: Prompt) -> Floats:
        """Of the whole sequence: [tokens, vocabulary]."""
        if tokens not in self._known:
            found: Floats = self._decoder.plain(torch.tensor(tokens)).numpy()
            self._known[tokens] = found
            self.largest = max(self.largest, float(np.abs(found).max()))
        return self._known[tokens]

    def continuation(self, prompt: Prompt, count: int) -> list[int]:
        tokens = prompt
        for _ in range(count):
            tokens = (*tokens, int(self.logits(tokens)[-1].argmax()))
        return list(tokens[len(prompt) :])

    def gap(self, tokens: list[int]) -> float:
        second, best = np.sort(self.logits(tuple(tokens))[-1])[-2:].tolist()
        return float(best - second)


class Compared(PassingRunner):
    """A runner whose every row is compared with the oracle's."""

    def __init__(self, runner: Runner, oracle: Oracle) -> None:
        super().__init__(runner)
        self._oracle = oracle
        self.largest_error = 0.0

    def forward(self, batch: Batch) -> Floats:
        logits = self.runner.forward(batch)
        for index, sequence in enumerate(batch.sequences):
            begin, end = batch.subsequence_begins[index : index + 2].tolist()
            before = sequence.tokens[: sequence.num_computed]
            wanted = self._oracle.logits((*before, *batch.input_ids[begin:end].tolist()))
            rows = np.flatnonzero((batch.rows >= begin) & (batch.rows < end))
            errors = np.abs(logits[rows] - wanted[batch.rows[rows] - begin + len(before)])
            self.largest_error = max(self.largest_error, float(errors.max(initial=0)))
        return logits


def chosen(model: Any) -> Runner:
    return load.choose(model, kv_cache_bytes=2**25, max_model_len=96, max_num_seqs=8)


def serve(runner: TorchRunner | SequentialRunner, examples: int) -> Counter[str]:
    """Serve random mixes, and count what happened."""
    oracle = Oracle(runner.decoder)
    compared = Compared(runner, oracle)
    seen: Counter[str] = Counter()

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(mix=MIXES)
    def holds(mix: Mix) -> None:
        seen.update(Drive(compared, mix, oracle).run())

    holds()
    assert compared.largest_error <= TOLERANCE * oracle.largest
    return seen


def test_there_are_at_least_45_architectures() -> None:
    assert len(set(PAGED)) >= 45


@pytest.mark.parametrize("name", PAGED)
def test_paged_equals_plain(name: str) -> None:
    runner = chosen(random_model(name))
    assert isinstance(runner, TorchRunner)
    seen = serve(runner, examples=5)
    assert seen["chunks"]
    assert seen["mixed steps"]
    assert seen["preemptions"] + seen["aborts"]


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_what_cannot_be_paged_is_served_one_sequence_at_a_time(name: str) -> None:
    runner = chosen(random_model(name))
    assert isinstance(runner, SequentialRunner)
    assert runner.name == "torch, one sequence at a time"
    serve(runner, examples=2)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bloom", "its attention cannot be replaced"),
        ("minimax", "its logits differ by"),
        ("doge", "AttributeError"),
    ],
)
def test_the_log_says_why_a_model_is_slow(name: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """In one line: the traceback of an error that was not foreseen is for those who debug."""
    chosen(random_model(name))
    warnings = [each for each in caplog.records if (each.name, each.levelname) == (load.__name__, "WARNING")]
    assert f"not in a paged cache, because {reason}" in warnings[-1].getMessage()
    assert [entry.exc_info for entry in warnings] == [None]


assert max(map(max, BASES)) < VOCABULARY
