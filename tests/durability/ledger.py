"""What was written to one path of items, and what of it was acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Said = tuple[str, str]  # role, text

ANSWER = "Hello world"  # of the fake provider


@dataclass(slots=True)
class Attempt:
    """Items that go to the path together. The text of the first is nobody else's."""

    said: tuple[Said, ...]
    is_acknowledged: bool = False


class Ledger:
    def __init__(self) -> None:
        self.attempts: list[Attempt] = []

    def items(self, *texts: str) -> Attempt:
        return self._begin(*(("user", text) for text in texts))

    def turn(self, text: str) -> Attempt:
        return self._begin(("user", text), ("assistant", ANSWER))

    @property
    def acknowledged(self) -> list[Said]:
        return [said for attempt in self.attempts if attempt.is_acknowledged for said in attempt.said]

    def check(self, path: Sequence[Said]) -> None:
        """Each attempt is there once and whole, or, if it was never acknowledged, not at all. From now on
        that is how it stays.
        """
        complete, at = [], 0
        for attempt in self.attempts:
            end = at + len(attempt.said)
            if tuple(path[at:end]) == attempt.said:
                attempt.is_acknowledged, at = True, end
                complete.append(attempt)
            else:
                assert not attempt.is_acknowledged, f"lost: {attempt.said} is not at {at} of {path}"
        assert at == len(path), f"twice, torn or out of order from {at} on: {path}"
        self.attempts = complete

    def _begin(self, *said: Said) -> Attempt:
        attempt = Attempt(said)
        self.attempts.append(attempt)
        return attempt
