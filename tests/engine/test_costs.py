"""What steps of few tokens cost: expected from a table, corrected by what is measured."""

from __future__ import annotations

import pytest

from headrace.engine.speculation import EXPECTED, Costs


def learned(seconds: dict[int, float], steps: int = 60) -> Costs:
    """After so many steps of each size."""
    costs = Costs()
    for _ in range(steps):
        for tokens, took_s in seconds.items():
            costs.record(tokens, took_s)
    return costs


@pytest.mark.parametrize("speed", [0.001, 0.1, 10.0])
def test_a_slower_machine_has_the_same_costs(speed: float) -> None:
    costs = learned({tokens: cost * speed for tokens, cost in EXPECTED})
    assert [costs.of(tokens) for tokens, _ in EXPECTED] == pytest.approx([cost for _, cost in EXPECTED])
    assert costs.of(12) == pytest.approx(Costs().of(12))


def test_one_size_that_is_measured_says_nothing_of_the_others() -> None:
    assert learned({1: 0.1}).of(16) == pytest.approx(EXPECTED[-1][1])


def test_what_is_measured_counts_also_between_the_sizes() -> None:
    costs = learned({1: 0.010, 4: 0.020, 16: 0.060})
    assert costs.of(1) == pytest.approx(1)
    assert costs.of(4) == pytest.approx(2, rel=0.1)
    assert costs.of(16) == pytest.approx(6, rel=0.1)
    assert 2 < costs.of(8) < 6


def test_the_context_of_drafts_counts() -> None:
    costs = Costs()
    assert costs.of(4, context=10_000) > costs.of(4) + 0.5
    for _ in range(60):
        costs.record(1, 0.010)
        costs.record(4, 0.020, context=10_000)
    assert costs.of(4) == pytest.approx(Costs().of(4), rel=0.05)


def test_an_odd_step_counts_little_and_is_forgotten_even_if_there_is_no_other_of_its_size() -> None:
    costs = learned({1: 0.010, 4: 0.011})
    costs.record(4, 60.0)
    assert costs.of(4) < 1.3
    for _ in range(40):
        costs.record(4, 60.0)
    assert costs.of(4) > 10
    for _ in range(3000):
        costs.record(1, 0.010)
    assert costs.of(4) < 1.2


def test_large_steps_are_not_recorded() -> None:
    costs = learned({1: 0.010, 17: 9.0})
    assert costs.of(16) == pytest.approx(EXPECTED[-1][1])
