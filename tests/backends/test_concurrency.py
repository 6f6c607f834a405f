"""Who gets a place, in which order, and that none is lost."""

from __future__ import annotations

import random

import pytest

from headrace.backends.concurrency import Places
from headrace.errors import Overloaded


class Request:
    """A request of so many sequences."""

    def __init__(self, count: int, flow: str = "") -> None:
        self.coming, self.num_running, self.flow = count, 0, flow

    @property
    def has_more(self) -> bool:
        return self.coming > 0


class Table:
    """Places, and what has begun in them."""

    def __init__(self, seats: int, queue: int) -> None:
        self.started: list[Request] = []
        self.places: Places[Request] = Places(seats, queue, self.begin)

    def begin(self, request: Request) -> None:
        request.coming -= 1
        self.started.append(request)

    def enter(self, count: int, flow: str = "") -> Request:
        self.places.take(flow)
        request = Request(count, flow)
        self.places.enter(request)
        return request

    def end(self, request: Request) -> None:
        self.places.ended(request)
        if not request.num_running and not request.has_more:
            self.places.leave(request)


def test_alone_a_request_has_every_seat_and_one_more_waits_for_each_that_becomes_free() -> None:
    table = Table(8, 100)
    request = table.enter(50)
    assert request.num_running == table.places.num_taken == 11
    table.end(request)
    assert request.num_running == 11


@pytest.mark.parametrize(("seats", "queue"), [(8, 100), (2, 2), (4, 0), (2, 0)])
def test_one_request_never_has_the_last_place(seats: int, queue: int) -> None:
    table = Table(seats, queue)
    table.enter(1000)
    assert table.places.num_taken < seats + queue
    table.enter(1)


def test_while_others_wait_a_large_request_shrinks_to_one_place() -> None:
    table = Table(4, 20)
    large = table.enter(100)
    assert large.num_running == 6
    others = [table.enter(1) for _ in range(10)]
    while large.num_running > 1:
        table.end(large)
    for _ in range(5):
        table.end(large)  # it goes on, one at a time
        assert large.num_running == 1
    for other in others:
        table.end(other)
    assert large.num_running == 6


def test_large_requests_take_turns() -> None:
    table = Table(6, 20)
    first = table.enter(100)
    second = table.enter(100)
    for ended in range(30):  # first come, first served
        table.end(table.started[ended])
    assert abs(first.num_running - second.num_running) <= 1


def test_a_full_table_is_refused_with_when_to_come_again() -> None:
    table = Table(2, 10)
    for _ in range(12):
        table.enter(1)
    with pytest.raises(Overloaded) as raised:
        table.enter(1)
    assert 1 <= int(raised.value.headers["Retry-After"]) <= 30


def test_whatever_happens_every_place_comes_back() -> None:
    for seed in range(50):
        chance, table, here = random.Random(seed), Table(3, 7), list[Request]()
        for _ in range(300):
            act = chance.random()
            running = [request for request in here if request.num_running]
            if act < 0.3:
                try:
                    here.append(table.enter(chance.choice([1, 1, 2, 30])))
                except Overloaded:
                    assert table.places.num_taken == 10
            elif act < 0.4 and here:
                table.places.leave(here.pop(chance.randrange(len(here))))
            elif running:
                table.end(chance.choice(running))
            here = [request for request in here if request.num_running]
            assert table.places.num_taken == sum(request.num_running for request in here) <= 10
        for request in here:
            table.places.leave(request)
        assert table.places.num_taken == 0


def fill(table: Table, flow: str) -> int:
    """How many requests of a flow get places."""
    count = 0
    try:
        while True:
            table.enter(1, flow)
            count += 1
    except Overloaded:
        return count


def test_alone_a_flow_has_all_places_and_no_more() -> None:
    assert fill(Table(4, 20), "one") == 24


def test_where_one_flow_has_all_places_others_get_an_equal_share() -> None:
    table = Table(4, 20)
    assert fill(table, "flood") == 24
    assert fill(table, "second") == 12
    assert fill(table, "third") == 8
    assert fill(table, "flood") == 0
    assert table.places.num_taken == 44


def test_many_flows_get_twice_the_places_and_no_more() -> None:
    table = Table(4, 20)
    assert sum(fill(table, str(number)) for number in range(500)) <= 48
    assert table.places.num_taken <= 48


def test_a_share_is_free_again_when_its_requests_end() -> None:
    table = Table(2, 2)
    flood = [table.enter(1, "flood") for _ in range(4)]
    other = [table.enter(1, "other") for _ in range(2)]
    with pytest.raises(Overloaded):
        table.enter(1, "other")
    table.places.leave(other.pop())
    other.append(table.enter(1, "other"))
    for asked in (*flood, *other):
        table.places.leave(asked)
    assert table.places.num_taken == 0
    assert fill(table, "flood") == 4
