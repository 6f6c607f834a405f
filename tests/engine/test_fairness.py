"""Callers take turns: the many requests of one do not delay the few of another."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.blocks import BlockPool
from headrace.engine.fairness import CALM, LATELY, Presence
from headrace.engine.prefix import PrefixCache
from headrace.engine.scheduler import Chunks, Scheduler
from headrace.engine.sequence import BATCH, INTERACTIVE, SamplingParams, Sequence
from tests.engine.test_scheduler import finish, step

SIZE = 4  # tokens a block
SALTS = itertools.count()


def scheduler_of(seats: int, num_blocks: int = 5000) -> Scheduler:
    pool = BlockPool(num_blocks, SIZE)
    return Scheduler(pool, PrefixCache(pool, b"", None), max_num_seqs=seats, max_batch_tokens=1024)


def add(
    scheduler: Scheduler, flow: str, count: int = 1, priority: int = INTERACTIVE, length: int = 5
) -> list[Sequence]:
    """Add this many waiting sequences of a flow, which share no block."""
    added = []
    for _ in range(count):
        tokens, salt = list(range(length)), str(next(SALTS)).encode()
        sequence = Sequence(tokens, SamplingParams(max_tokens=50), priority, flow=flow, salt=salt)
        scheduler.add(sequence)
        added.append(sequence)
    return added


def served(scheduler: Scheduler) -> list[Sequence]:
    """All sequences in the order in which their first tokens come, when each has two."""
    order: list[Sequence] = []
    while scheduler.has_work:
        for sequence in step(scheduler):
            if sequence.num_generated == 1 and sequence not in order:
                order.append(sequence)
            elif sequence.num_generated >= 2:
                finish(scheduler, sequence)
    return order


def test_within_a_flow_the_order_is_that_of_arrival() -> None:
    scheduler = scheduler_of(seats=2)
    added = [add(scheduler, "one", length=3 + 7 * (number % 3))[0] for number in range(20)]
    assert served(scheduler) == added


def test_the_one_request_of_another_comes_before_the_queue_of_a_flood() -> None:
    scheduler = scheduler_of(seats=4)
    flood = add(scheduler, "flood", 100)
    for _ in range(3):
        step(scheduler)
    (other,) = add(scheduler, "other")
    order = served(scheduler)
    assert order.index(other) == 0  # of those that had no token yet
    assert set(order) == {other, *flood[4:]}


def test_two_floods_take_turns() -> None:
    scheduler = scheduler_of(seats=2)
    first, second = add(scheduler, "first", 30), add(scheduler, "second", 30)
    order = served(scheduler)
    for count in range(4, 60):
        ahead = order[:count]
        assert abs(sum(s in first for s in ahead) - sum(s in second for s in ahead)) <= 3


def test_longer_requests_have_fewer_turns() -> None:
    scheduler = scheduler_of(seats=1)
    long, short = add(scheduler, "long", 10, length=400), add(scheduler, "short", 60)
    order = served(scheduler)
    assert sum(sequence in short for sequence in order[: order.index(long[4])]) > 25


def test_a_newcomer_gets_a_seat_at_once_and_nobody_gives_one_up_for_his_second() -> None:
    scheduler = scheduler_of(seats=3)
    flood = add(scheduler, "flood", 10)
    step(scheduler)
    assert scheduler.running == flood[:3]
    first, second = add(scheduler, "other", 2)
    step(scheduler)
    assert (first in scheduler.running, second in scheduler.running) == (True, False)
    assert flood[2].num_preemptions == 1
    (third,) = add(scheduler, "third")
    step(scheduler)
    assert scheduler.running == [flood[0], first, third]
    (fourth,) = add(scheduler, "fourth")  # each has one seat: it waits
    step(scheduler)
    assert fourth not in scheduler.running
    assert len(served(scheduler)) >= 9


def test_the_prompt_of_a_newcomer_waits_for_nobody_in_a_crowd() -> None:
    """Its step has no other sequences, the next one has, though another has come."""
    scheduler = scheduler_of(seats=32)
    flood = add(scheduler, "flood", 20)
    step(scheduler)
    add(scheduler, "flood", 5)
    (other,) = add(scheduler, "other")
    assert list(step(scheduler)) == [other]
    (third,) = add(scheduler, "third")
    assert set(step(scheduler)) >= {*flood, other}
    (batch,) = add(scheduler, "fourth", priority=BATCH)
    assert set(step(scheduler)) >= {*flood, other, third, batch}


def of_prompts(chunks: Chunks, flow: str) -> int:
    """The tokens of prompts that the step computed for a flow, the step over."""
    return sum(count for sequence, count in chunks.items() if sequence.flow == flow and count > 1)


def test_the_prompts_of_a_crowd_are_computed_in_small_pieces_while_another_is_there() -> None:
    scheduler = scheduler_of(seats=32)
    add(scheduler, "crowd", 20, length=100)
    assert of_prompts(step(scheduler), "crowd") > 900  # it is alone
    (other,) = add(scheduler, "other", length=300)
    assert step(scheduler) == {other: 300}
    finish(scheduler, other)
    for _ in range(30):  # others of the crowd come and go
        finish(scheduler, scheduler.running[0])
        add(scheduler, "crowd", length=100)
        assert of_prompts(step(scheduler), "crowd") <= CALM


def test_a_caller_counts_as_there_for_a_while_and_while_he_runs() -> None:
    scheduler = scheduler_of(seats=32)
    crowd, (other,) = add(scheduler, "crowd", 20), add(scheduler, "other")
    presence = Presence()
    assert presence.crowds(crowd) == set()
    presence.add("other")
    for _ in range(LATELY - 1):
        assert presence.crowds(crowd) == {"crowd"}
    assert presence.crowds([*crowd[:7], other]) == set()  # too few for a crowd
    assert presence.crowds(crowd) == set()
    assert presence.crowds([*crowd, other]) == {"crowd"}


def test_the_prompts_of_a_few_are_computed_at_once() -> None:
    scheduler = scheduler_of(seats=32)
    add(scheduler, "one", 3)
    step(scheduler)
    add(scheduler, "one", 3, length=200)
    add(scheduler, "other", length=100)
    assert of_prompts(step(scheduler), "one") == 600


def test_beside_a_few_sequences_a_newcomers_prompt_is_part_of_their_step() -> None:
    scheduler = scheduler_of(seats=32)
    few = add(scheduler, "one", 3)
    step(scheduler)
    (other,) = add(scheduler, "other")
    assert set(step(scheduler)) == {*few, other}


def test_an_interactive_newcomer_takes_the_seat_of_a_batch_first() -> None:
    scheduler = scheduler_of(seats=3)
    (interactive,), batch = add(scheduler, "one"), add(scheduler, "two", 5, BATCH)
    step(scheduler)
    (newcomer,) = add(scheduler, "three")
    step(scheduler)
    assert set(scheduler.running) == {interactive, batch[0], newcomer}


def test_a_batch_takes_no_seat_of_an_interactive_one() -> None:
    scheduler = scheduler_of(seats=2)
    flood = add(scheduler, "flood", 5)
    step(scheduler)
    add(scheduler, "other", 1, BATCH)
    step(scheduler)
    assert scheduler.running == flood[:2]


def test_a_flows_batch_does_not_delay_its_interactive_requests() -> None:
    scheduler = scheduler_of(seats=1)
    (running,) = add(scheduler, "other")
    step(scheduler)
    add(scheduler, "one", 50, BATCH, length=300)
    (mine,), (theirs,) = add(scheduler, "one"), add(scheduler, "third")
    finish(scheduler, running)
    assert served(scheduler)[:2] in ([mine, theirs], [theirs, mine])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 30)), min_size=1, max_size=40))
def test_every_flow_has_a_seat_while_there_are_enough(work: list[tuple[str, int]]) -> None:
    scheduler = scheduler_of(seats=4)
    for flow, length in work:
        add(scheduler, flow, length=length)
        step(scheduler)
        waiting = {sequence.flow for sequence in scheduler.waiting}
        assert waiting <= {sequence.flow for sequence in scheduler.running}
    assert len(set(served(scheduler))) <= len(work)
    assert not scheduler.has_work
    scheduler.pool.check([])
