"""Who runs when: one rule a test, and that everybody's turn comes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.blocks import BlockPool
from headrace.engine.prefix import PrefixCache
from headrace.engine.scheduler import Chunks, Scheduler
from headrace.engine.sequence import BATCH, INTERACTIVE, SamplingParams, Sequence
from headrace.engine.work import START

SIZE = 4  # tokens a block


def scheduler_of(num_blocks: int = 100, *, seats: int = 8, budget: int = 64) -> Scheduler:
    pool = BlockPool(num_blocks, SIZE)
    prefixes = PrefixCache(pool, b"", lambda source, target: None)
    return Scheduler(pool, prefixes, max_num_seqs=seats, max_batch_tokens=budget)


def add(
    scheduler: Scheduler,
    length: int,
    priority: int = INTERACTIVE,
    *,
    first: int = 0,
    leader: Sequence | None = None,
    salt: bytes = b"",
    invariant: bool = False,
) -> Sequence:
    """A waiting sequence whose tokens count up from `first`."""
    tokens = list(range(first, first + length))
    sequence = Sequence(
        tokens, SamplingParams(max_tokens=50, invariant=invariant), priority, leader=leader, salt=salt
    )
    scheduler.add(sequence)
    return sequence


def step(scheduler: Scheduler) -> Chunks:
    """One step, as the engine would do it; every sampled token is 0."""
    chunks = scheduler.schedule()
    assert sum(chunks.values()) <= scheduler.max_batch_tokens
    assert len(scheduler.running) <= scheduler.max_num_seqs
    for sequence, count in chunks.items():
        if sequence.num_pending == count:
            sequence.accept(0)
    scheduler.commit(chunks)
    scheduler.pool.check([sequence.blocks for sequence in scheduler.running])
    return chunks


def finish(scheduler: Scheduler, sequence: Sequence) -> None:
    sequence.finish_reason = "stop"
    scheduler.remove(sequence)


def test_a_running_decode_gets_one_token_and_comes_before_prompts() -> None:
    scheduler = scheduler_of(budget=10)
    old = add(scheduler, 3)
    step(scheduler)
    prompt = add(scheduler, 30, first=100)
    for _ in range(3):
        assert list(step(scheduler).items()) == [(old, 1), (prompt, 9)]


def test_a_long_prompt_is_computed_in_chunks() -> None:
    scheduler = scheduler_of(budget=10)
    prompt = add(scheduler, 25)
    assert [step(scheduler)[prompt] for _ in range(4)] == [10, 10, 5, 1]


def test_what_one_prompt_leaves_of_the_budget_goes_to_the_next() -> None:
    scheduler = scheduler_of(budget=10)
    first, second, third = add(scheduler, 6), add(scheduler, 8, first=100), add(scheduler, 5, first=200)
    assert step(scheduler) == {first: 6, second: 4}
    assert step(scheduler) == {first: 1, second: 4, third: 5}


def test_arrival_decides_within_a_priority_and_priority_between_them() -> None:
    scheduler = scheduler_of(seats=1)
    batch, late, later = add(scheduler, 3, BATCH), add(scheduler, 3), add(scheduler, 3)
    order = []
    while scheduler.has_work:
        (running,) = step(scheduler)
        order.append(running)
        finish(scheduler, running)
    assert order == [late, later, batch]


def test_an_interactive_sequence_takes_the_seat_of_the_last_batch_sequence() -> None:
    scheduler = scheduler_of(seats=2)
    first, second = add(scheduler, 3, BATCH), add(scheduler, 3, BATCH, first=100)
    step(scheduler)
    urgent = add(scheduler, 3, first=200)
    assert step(scheduler) == {first: 1, urgent: 3}
    assert scheduler.waiting == [second]


def test_an_interactive_sequence_takes_the_blocks_of_a_batch_sequence() -> None:
    scheduler = scheduler_of(num_blocks=4)
    batch = add(scheduler, 11, BATCH)
    step(scheduler)
    urgent = add(scheduler, 7, first=100)
    assert step(scheduler) == {urgent: 7}
    assert batch.num_preemptions == 1


def test_a_long_prompt_that_preempts_another_in_the_same_step_gets_its_tokens() -> None:
    scheduler = scheduler_of(seats=2, budget=64)
    writer = add(scheduler, 3, BATCH)
    step(scheduler)
    batch = add(scheduler, 100, BATCH, first=100)
    assert step(scheduler) == {writer: 1, batch: START}
    urgent = add(scheduler, 100, first=300)
    assert step(scheduler) == {writer: 1, urgent: START}


def test_nobody_takes_a_place_of_the_same_priority() -> None:
    scheduler = scheduler_of(num_blocks=4, seats=2)
    first = add(scheduler, 11, BATCH)
    step(scheduler)
    second = add(scheduler, 7, BATCH, first=100)
    assert step(scheduler) == {first: 1}
    assert scheduler.waiting == [second]


def test_when_blocks_run_out_the_last_to_arrive_is_preempted_and_resumes_where_its_cache_ends() -> None:
    scheduler = scheduler_of(num_blocks=4)
    first, second = add(scheduler, 7), add(scheduler, 7, first=100)
    assert [step(scheduler) for _ in range(3)] == [{first: 7, second: 7}, {first: 1, second: 1}, {first: 1}]
    assert (second.num_preemptions, second.blocks, second.num_computed) == (1, [], 0)
    finish(scheduler, first)
    assert step(scheduler) == {second: 5}, "of nine, because its first block was still there"
    assert second.num_cached == 0, "that is not what the client sent twice"


def test_a_prompt_seen_before_is_not_computed_again() -> None:
    scheduler = scheduler_of()
    first = add(scheduler, 10)
    step(scheduler)
    again, longer, other = add(scheduler, 10), add(scheduler, 20), add(scheduler, 10, first=1)
    assert step(scheduler) == {first: 1, again: 2, longer: 10, other: 10}
    assert [s.num_cached for s in (first, again, longer, other)] == [0, 8, 10, 0]


def test_a_prompt_is_found_only_by_those_with_the_same_salt() -> None:
    scheduler = scheduler_of()
    first = add(scheduler, 10, salt=b"one")
    step(scheduler)
    same, other, bare = (add(scheduler, 10, salt=salt) for salt in (b"one", b"two", b""))
    step(scheduler)
    assert [s.num_cached for s in (first, same, other, bare)] == [0, 8, 0, 0]


@pytest.mark.parametrize("length", range(2, 13))
def test_of_a_prompt_that_is_cached_whole_two_tokens_are_computed(length: int) -> None:
    scheduler = scheduler_of()
    add(scheduler, length)
    step(scheduler)
    again = add(scheduler, length)
    assert step(scheduler)[again] == 2
    assert again.num_cached == again.num_exact - 2 == length - 2


def test_siblings_wait_for_the_leaders_prompt_and_share_its_blocks() -> None:
    scheduler = scheduler_of(budget=8)
    leader = add(scheduler, 12)
    siblings = [add(scheduler, 12, leader=leader) for _ in range(2)]
    assert [list(step(scheduler)), list(step(scheduler))] == [[leader], [leader]]
    assert step(scheduler) == {leader: 1, siblings[0]: 2, siblings[1]: 2}
    assert leader.blocks[:2] == siblings[0].blocks[:2] == siblings[1].blocks[:2]


def test_siblings_hold_up_nobody_else() -> None:
    scheduler = scheduler_of(budget=8)
    leader = add(scheduler, 6)
    add(scheduler, 6, leader=leader)
    stranger = add(scheduler, 6, first=100)
    assert step(scheduler) == {leader: 6, stranger: 2}


def test_siblings_of_a_leader_that_is_gone_start_by_themselves() -> None:
    scheduler = scheduler_of()
    leader = add(scheduler, 6)
    sibling = add(scheduler, 6, leader=leader)
    finish(scheduler, leader)
    assert step(scheduler) == {sibling: 6}


def test_removing_frees_everything_at_once_wherever_the_sequence_is() -> None:
    scheduler = scheduler_of(seats=1)
    running, waiting = add(scheduler, 9), add(scheduler, 9)
    step(scheduler)
    for sequence in (waiting, running, running):
        scheduler.remove(sequence)
    assert not scheduler.has_work
    assert scheduler.num_waiting == 0
    assert scheduler.pool.num_held == 0


def test_waiting_is_in_order_of_service() -> None:
    scheduler = scheduler_of()
    batch, first, second = add(scheduler, 2, BATCH), add(scheduler, 2), add(scheduler, 2)
    assert scheduler.waiting == [first, second, batch]


shapes = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 20)), min_size=1, max_size=10)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(shapes=shapes, seats=st.integers(1, 4), extra=st.integers(0, 20), spare=st.integers(0, 6))
def test_the_first_in_line_advances_in_every_step(
    shapes: list[tuple[int, int]], seats: int, extra: int, spare: int
) -> None:
    """So nobody starves: whoever is first finishes, and then somebody else is first."""
    num_blocks = max(-(-(length + count) // SIZE) for length, count in shapes) + spare
    scheduler = scheduler_of(num_blocks, seats=seats, budget=seats + 2 + extra)
    live = {add(scheduler, length, first=i % 3): count for i, (length, count) in enumerate(shapes)}
    while live:
        first = min(live, key=lambda sequence: sequence.rank)
        assert first in step(scheduler)
        for sequence, count in list(live.items()):
            if sequence.num_generated == count:
                finish(scheduler, sequence)
                del live[sequence]
    assert scheduler.pool.num_held == 0


@pytest.mark.parametrize("invariant", [True, False])
@pytest.mark.parametrize("length", [2, 3, 8, 9, 10, 33])
@pytest.mark.parametrize("budget", [8, 9, 10, 11])
def test_l15_no_prompt_is_computed_one_token_at_a_time(invariant: bool, length: int, budget: int) -> None:
    scheduler = scheduler_of(budget=budget)
    for _ in range(3):  # cold, cached, beside one that decodes
        sequence = add(scheduler, length, invariant=invariant)
        while sequence.num_generated == 0:
            assert step(scheduler).get(sequence, 2) > 1
    assert sequence.num_exact == length


def test_l15_what_was_generated_is_no_prefix_for_an_invariant_sequence() -> None:
    scheduler = scheduler_of()
    first = add(scheduler, 9)
    while first.num_computed < 17:
        step(scheduler)
    finish(scheduler, first)
    tokens = first.tokens[:20]
    usual = Sequence(list(tokens), SamplingParams(max_tokens=9))
    invariant = Sequence(list(tokens), SamplingParams(max_tokens=9, invariant=True))
    for sequence in (usual, invariant):
        scheduler.add(sequence)
        step(scheduler)
    assert (usual.num_cached, invariant.num_cached) == (16, 9)
    assert usual.num_exact == 8, "what was computed after generated tokens depends on them"
    again = Sequence(list(tokens), SamplingParams(max_tokens=9, invariant=True))
    scheduler.add(again)
    step(scheduler)
    assert again.num_cached == 16, "the exact blocks have taken the others' place"
    scheduler.pool.check([sequence.blocks for sequence in scheduler.running])


def test_l15_a_preempted_invariant_sequence_is_computed_again_as_it_was() -> None:
    scheduler = scheduler_of(seats=1)
    sequence = add(scheduler, 10, BATCH, invariant=True)
    while sequence.num_generated < 7:
        step(scheduler)
    urgent = add(scheduler, 30)
    step(scheduler)
    assert sequence.num_preemptions == 1
    finish(scheduler, urgent)
    counts = []
    while sequence.num_generated < 8:
        counts.append(step(scheduler)[sequence])
    assert counts[0] + sequence.num_cached >= 2
    assert counts[1:] == [1] * 7, "each token that was generated by itself"


def copied(scheduler: Scheduler, chunks: Chunks) -> int:
    """The tokens whose keys the runtime copies, by the longest of the sequences of several tokens."""
    ends = [one.num_computed for one in chunks if chunks[one] + len(one.draft) > 1]
    return len(ends) * max(ends, default=0)


@pytest.mark.parametrize("budget", [64, 256])
def test_sequences_that_share_a_prefix_copy_no_more_than_the_cache_holds(budget: int) -> None:
    scheduler = scheduler_of(num_blocks=100, seats=16, budget=budget)
    step_until_done(scheduler, add(scheduler, 80))
    for number in range(40):
        sequence = Sequence([*range(80), 1000 + number, *range(5)], SamplingParams(max_tokens=3), INTERACTIVE)
        scheduler.add(sequence)
    counts = []
    while scheduler.has_work:
        several = step_until_done(scheduler)
        assert several <= 100 * SIZE
        counts.append(several)
    assert max(counts) > 100 * SIZE // 2, "most of it is used"


def step_until_done(scheduler: Scheduler, first: Sequence | None = None) -> int:
    """A step, after which answers of three tokens end; with `first`, steps until it has ended."""
    while True:
        chunks = step(scheduler)
        several = copied(scheduler, chunks)
        for sequence in list(scheduler.running):
            if sequence.num_generated >= 3:
                finish(scheduler, sequence)
        if first is None or first.finish_reason is not None:
            return several
