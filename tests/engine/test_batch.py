"""How a step's work is laid out for the runner."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.engine.batch import pack
from headrace.engine.sequence import Pooling, SamplingParams, Sequence


def partly_computed(tokens: list[int], num_computed: int, blocks: list[int]) -> Sequence:
    sequence = Sequence(tokens, SamplingParams(max_tokens=9))
    sequence.num_computed, sequence.blocks = num_computed, blocks
    return sequence


def test_chunks_lie_one_after_another_and_each_last_token_that_is_computed_gives_a_row() -> None:
    decode = partly_computed([10, 11, 12, 13, 14], 4, [7, 2])
    unfinished = partly_computed([20, 21, 22, 23], 1, [5])
    whole = partly_computed([30, 31, 32], 0, [3])
    batch = pack({decode: 1, unfinished: 2, whole: 3})
    assert batch.sequences == (decode, unfinished, whole)
    assert batch.sampled == ((decode, slice(0, 1)), (whole, slice(1, 2)))
    assert batch.input_ids.tolist() == [14, 21, 22, 30, 31, 32]
    assert batch.position_ids.tolist() == [4, 1, 2, 0, 1, 2]
    assert batch.past_lens.tolist() == [4, 1, 0]
    assert batch.subsequence_begins.tolist() == [0, 1, 3, 6]
    assert batch.block_indices.tolist() == [7, 2, 5, 3]
    assert batch.block_indices_begins.tolist() == [0, 2, 3, 4]
    assert batch.max_context_len.tolist() == 5
    assert batch.rows.tolist() == [0, 5]


@pytest.mark.parametrize(
    ("pooling", "num_observed", "rows"),
    [
        ("mean", 0, [0, 1, 2, 3, 4]),
        ("mean", 3, [3, 4]),  # preempted when three had been added up
        ("mean", 5, []),
        ("cls", 0, [0]),
        ("cls", 1, []),  # preempted when it had been seen
        ("cls", 4, []),
        ("last", 0, []),  # its chunk is yet to come
    ],
)
def test_a_hidden_state_is_looked_at_once_though_a_preempted_prompt_is_computed_twice(
    pooling: Pooling, num_observed: int, rows: list[int]
) -> None:
    before, pooled = partly_computed([1, 2], 0, [3]), partly_computed(list(range(8)), 0, [0, 1])
    pooled.pooling, pooled.num_observed = pooling, num_observed
    batch = pack({before: 2, pooled: 5})
    assert batch.hidden_rows.tolist() == [2 + row for row in rows]


@pytest.mark.parametrize(("num_observed", "rows"), [(0, [3]), (7, [3]), (8, [])])
def test_the_last_hidden_state_is_looked_at_once(num_observed: int, rows: list[int]) -> None:
    pooled = partly_computed(list(range(8)), 4, [0, 1])
    pooled.pooling, pooled.num_observed = "last", num_observed
    assert pack({pooled: 4}).hidden_rows.tolist() == rows


def test_a_step_may_have_nothing_to_sample() -> None:
    batch = pack({partly_computed([1, 2, 3], 0, [0]): 2})
    assert batch.sampled == ()
    assert batch.rows.tolist() == []
    assert batch.rows.dtype == np.int64
