"""Long prompts beside sequences that decode: small chunks, whose size follows the measured times."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.engine.work import LEAST, MOST, START, Pace, Work
from tests.engine.test_scheduler import add, scheduler_of, step


def learned(usual_s: float, token_s: float, steps: int = 100) -> Pace:
    """After steps that take so long without a prompt, and so much longer for each token of one."""
    pace = Pace()
    for _ in range(20):
        pace.record(Work(3, 0, 0, 0), usual_s)
    for _ in range(2 * steps):  # every other one may be the first of its size
        pace.record(Work(3, pace.allowance, 0, 0), usual_s + token_s * pace.allowance)
    return pace


@pytest.mark.parametrize("token_ms", [0.05, 0.1, 0.3])
def test_a_step_with_a_chunk_takes_less_than_twice_as_long(token_ms: float) -> None:
    pace = learned(0.010, token_ms / 1000)
    assert 10 + token_ms * pace.allowance < 2 * 10
    assert pace.allowance >= 0.25 * 10 / token_ms, "and not much less"


def test_chunks_have_a_least_and_a_largest_size() -> None:
    assert learned(0.010, 0.5).allowance == LEAST
    assert learned(0.010, 0.0).allowance == MOST


def test_one_odd_measurement_does_not_stop_a_prompt() -> None:
    pace = learned(0.010, 0.0001)
    before = pace.allowance
    for _ in range(2):
        pace.record(Work(3, before, 0, 0), 60.0)
    assert pace.allowance >= before // 2


def test_the_first_step_of_a_size_says_nothing() -> None:
    scheduler = scheduler_of(num_blocks=10, budget=100)
    for _ in range(20):
        scheduler.record(Work(3, 0, 0, 0), 0.010)
    before = scheduler.pace.allowance
    for _ in range(20):
        scheduler.record(Work(3, 0, 0, 0), 0.010)
        scheduler.record(Work(3, before, 0, 0), 0.030)
    assert scheduler.pace.allowance == before


def test_nothing_is_learned_from_steps_that_say_nothing() -> None:
    pace = Pace()
    pace.record(Work(3, START, 0, 0), 1.0)  # what is usual is not known yet
    pace.record(Work(1, 0, 0, 0), 0.01)
    pace.record(Work(0, 400, 0, 0), 9.0)  # nobody decodes
    pace.record(Work(1, START + 1, 0, 0), 9.0)  # a short prompt was there, too
    pace.record(Work(1, 2, 0, 0), 0.01)  # the end of a prompt
    assert pace.allowance == START


def step_ms(rows: int, context: int, last_rows: int) -> float:
    """As measured on two cores with AVX-512: by tokens, by the length of the prompt's context, and more where
    the step before had another number of tokens.
    """
    of_rows = float(np.interp(rows, [1, 4, 8, 16, 32, 256, 512], [1.0, 1.1, 1.22, 1.55, 2.6, 14, 29]))
    return of_rows + 9e-5 * context + 0.5 * (rows != last_rows)


@pytest.mark.parametrize("drafts", [0, 3])
def test_of_20_gaps_beside_a_long_prompt_19_are_less_than_twice_as_long_as_usual(drafts: int) -> None:
    pace, rows = Pace(), 4 + 4 * drafts
    for _ in range(20):
        pace.record(Work(4, 0, 4 * drafts, 0), step_ms(rows, 0, rows))
    computed, last, gaps = 0, rows, []
    while computed < 6000:
        count = min(pace.allowance, 6000 - computed)
        gaps.append(step_ms(4 + count, computed, last))
        pace.record(Work(4, count, 0, 0), gaps[-1])
        computed, last = computed + count, 4 + count
    assert sorted(gaps)[len(gaps) * 19 // 20] < 2 * step_ms(rows, 0, rows)
    assert len(gaps) < 6000 / LEAST, "and the chunks are not all of the least size"


def test_a_long_prompt_takes_small_chunks_while_others_decode() -> None:
    scheduler = scheduler_of(num_blocks=1000, budget=100)
    long = add(scheduler, 500)
    assert step(scheduler) == {long: 100}, "alone it takes whole steps"
    reader, other = add(scheduler, 3, first=100), add(scheduler, 500, first=200)
    assert step(scheduler) == {long: 100}
    while long.num_pending > 1:
        step(scheduler)
    step(scheduler)
    assert reader.num_generated
    late = add(scheduler, 60, first=900)
    chunks = step(scheduler)
    assert (chunks[reader], chunks[other]) == (1, START)
    assert chunks[late] > 60 - START, "a prompt of one step is computed at once"


def test_several_long_prompts_share_the_allowance_and_none_is_one_token_long() -> None:
    scheduler = scheduler_of(num_blocks=1000, budget=100)
    reader = add(scheduler, 3, first=100)
    step(scheduler)
    longs = [add(scheduler, length, first=first) for length, first in ((129, 200), (131, 300), (170, 400))]
    while any(long.num_pending > 1 for long in longs):
        chunks = step(scheduler)
        assert chunks[reader] == 1
        counts = [chunks[long] for long in longs if long in chunks and not long.num_generated]
        assert sum(counts) <= START + 1
        assert 1 not in counts
