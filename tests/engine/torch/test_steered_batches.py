"""Steered sequences in the PyTorch runner: batched, chunked and cached, and yet each as by itself."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.engine.engine import Engine
from headrace.engine.sequence import SamplingParams, Sequence
from headrace.engine.torch.load import choose
from headrace.engine.torch.runner import TorchRunner
from headrace.steering.plan import Plan
from headrace.steering.slot import SiteNeeds
from tests.engine.architectures import random_model
from tests.steering.test_engine import LAYER, STYLES, TOPK, plan_of, rows_of


@pytest.fixture(scope="module")
def runner() -> TorchRunner:
    found = choose(random_model("llama"), kv_cache_bytes=2**24, max_model_len=256, max_num_seqs=16)
    assert isinstance(found, TorchRunner)
    rank = TOPK.rank()
    assert rank is not None
    found.install_sites(found.compile_sites({LAYER: SiteNeeds(LAYER, True, (rank,))}))
    return found


@pytest.fixture(scope="module")
def plans() -> list[Plan | None]:
    """16 sequences, of which 8 are steered in 8 ways."""
    return [plan_of(1 + index // 2, [0] * (20 + index)) if index % 2 == 0 else None for index in range(16)]


def test_unsteered_rows_of_a_mixed_batch_have_the_same_bits(
    runner: TorchRunner, plans: list[Plan | None]
) -> None:
    mixed, plain = rows_of(runner, plans), rows_of(runner, [None] * 16)
    for index, plan in enumerate(plans):
        if plan is None:
            np.testing.assert_array_equal(mixed[index], plain[index])
        else:
            assert np.abs(mixed[index] - plain[index]).max() > 1e-3


def test_steered_rows_equal_their_solo_run(runner: TorchRunner, plans: list[Plan | None]) -> None:
    mixed = rows_of(runner, plans)
    for index in range(0, 16, 2):
        alone = rows_of(runner, [plan if i == index else None for i, plan in enumerate(plans)])
        assert np.abs(mixed[index] - alone[index]).max() < 1e-4


def test_interleaved_with_the_cache_as_without(runner: TorchRunner) -> None:
    """Steered, unsteered, steered: each answer is what a new engine gives, in chunks of another size."""
    prompt = [5 + 7 * place % 283 for place in range(90)]
    shared = Engine(runner, max_batch_tokens=64)

    def tokens(engine: Engine, style: int) -> list[int]:
        sequence = Sequence(list(prompt), SamplingParams(10, temperature=0), plan=plan_of(style, prompt))
        engine.add(sequence)
        while engine.has_work:
            engine.step()
        return sequence.tokens

    styles = [*range(len(STYLES)), *range(len(STYLES)), 0, 1, 0, 2]
    assert [tokens(shared, style) for style in styles] == [
        tokens(Engine(runner, max_batch_tokens=512), style) for style in styles
    ]
