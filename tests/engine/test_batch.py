"""How a step's work is laid out for the runner."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.engine.batch import invariant, pack
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


@pytest.mark.parametrize("least", [1, 2, 3, 8])
def test_a_small_step_is_filled_up_with_tokens_that_nobody_reads(least: int) -> None:
    batch = pack({partly_computed([1, 2, 3], 2, [7]): 1, partly_computed([4, 5, 6, 7], 2, [1]): 2})
    filled = invariant(batch, 99, least)
    count, added = len(filled.input_ids), max(0, least - 3)
    assert count == 3 + added
    assert filled.input_ids[:3].tolist() == batch.input_ids.tolist()
    assert filled.position_ids[:3].tolist() == batch.position_ids.tolist()
    assert filled.past_lens.tolist() == [2, 2] + [0] * added
    assert filled.subsequence_begins.tolist() == [0, 1, *range(3, count + 1)]
    assert filled.block_indices.tolist() == [7, 1] + [99] * added
    assert filled.block_indices_begins.tolist() == list(range(3 + added))
    assert filled.rows.tolist() == [0, 2] + [2] * max(0, least - 2)
    for name in ("input_ids", "position_ids", "past_lens", "subsequence_begins", "block_indices", "rows"):
        assert getattr(filled, name).dtype == getattr(batch, name).dtype, name


def test_a_step_that_samples_nothing_gets_no_rows() -> None:
    filled = invariant(pack({partly_computed([1, 2, 3, 4], 0, [0]): 2}), 99, 8)
    assert len(filled.input_ids) == 8
    assert len(filled.rows) == 0
