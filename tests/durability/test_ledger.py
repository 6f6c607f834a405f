"""That the ledger finds what it is there for."""

from __future__ import annotations

import pytest

from tests.durability.ledger import ANSWER, Ledger, Said

A, B, C = ("user", "a"), ("user", "b"), ("user", "c")
HELLO = ("assistant", ANSWER)


def ledger() -> Ledger:
    """Two acknowledged, one not."""
    ledger = Ledger()
    ledger.items("a").is_acknowledged = True
    ledger.turn("b").is_acknowledged = True
    ledger.turn("c")
    return ledger


@pytest.mark.parametrize("path", [[A, B, HELLO], [A, B, HELLO, C, HELLO]])
def test_what_is_right(path: list[Said]) -> None:
    checked = ledger()
    checked.check(path)
    assert checked.acknowledged == path


@pytest.mark.parametrize(
    "path",
    [
        pytest.param([B, HELLO], id="lost"),
        pytest.param([A], id="the last is lost"),
        pytest.param([A, B], id="torn"),
        pytest.param([A, B, HELLO, C], id="one that was not acknowledged is torn"),
        pytest.param([A, A, B, HELLO], id="twice"),
        pytest.param([B, HELLO, A], id="out of order"),
        pytest.param([A, B, HELLO, HELLO], id="nobody wrote it"),
    ],
)
def test_what_is_wrong(path: list[Said]) -> None:
    with pytest.raises(AssertionError):
        ledger().check(path)


def test_what_was_not_there_never_comes() -> None:
    checked = ledger()
    checked.check([A, B, HELLO])
    with pytest.raises(AssertionError):
        checked.check([A, B, HELLO, C, HELLO])
