from __future__ import annotations

from headrace.breaker import COOL_DOWN_S, MAX_FAILURES, Breaker, Permit
from tests.gateway.gateways import ManualClock


def taken(breaker: Breaker) -> Permit:
    permit = breaker.take()
    assert permit is not None
    return permit


def opened(clock: ManualClock) -> Breaker:
    breaker = Breaker(clock.now)
    for _ in range(MAX_FAILURES):
        taken(breaker).failed()
    return breaker


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(ManualClock().now)
    for _ in range(3):
        for _ in range(MAX_FAILURES - 1):
            taken(breaker).failed()
        taken(breaker).succeeded()
    assert breaker.state == "closed"


def test_open_it_lets_nothing_through_until_it_has_cooled_down() -> None:
    clock = ManualClock()
    breaker = opened(clock)
    assert (breaker.state, breaker.take(), breaker.retry_after_s) == ("open", None, COOL_DOWN_S)
    clock.time += COOL_DOWN_S - 1
    assert (breaker.take(), breaker.retry_after_s) == (None, 1)


def test_half_open_it_lets_one_probe_through_that_decides() -> None:
    clock = ManualClock()
    breaker = opened(clock)
    clock.time += COOL_DOWN_S
    assert breaker.state == "half-open"
    probe = taken(breaker)
    assert breaker.take() is None
    probe.failed()
    assert (breaker.state, breaker.take()) == ("open", None)
    clock.time += COOL_DOWN_S
    taken(breaker).succeeded()
    assert (breaker.state, breaker.retry_after_s) == ("closed", 0)


def test_abandoned_probe_gives_its_place_to_another() -> None:
    clock = ManualClock()
    breaker = opened(clock)
    clock.time += COOL_DOWN_S
    taken(breaker).abandoned()
    assert breaker.state == "half-open"
    assert taken(breaker).is_probe


def test_late_word_of_an_earlier_attempt_neither_ends_a_probe_nor_prolongs_the_pause() -> None:
    clock = ManualClock()
    breaker = Breaker(clock.now)
    early = [taken(breaker) for _ in range(MAX_FAILURES + 2)]
    for permit in early[:MAX_FAILURES]:
        permit.failed()
    clock.time += COOL_DOWN_S
    taken(breaker)
    early[-1].abandoned()
    early[-2].failed()
    assert breaker.take() is None
    assert breaker.retry_after_s == 0
