"""Notices when a model says the same over and over, and nothing else."""

from __future__ import annotations

GRAM = 16  # tokens: a repetition is looked for where so many come again
REPEATS = 3  # times, at least, that a loop is gone through after the first
MODULUS = (1 << 61) - 1
BASE = 1_000_003


class LoopDetector:
    """Give it the tokens of one answer, one by one; each costs the same, however many there were.

    It is a loop when the last `tokens` tokens each equal the one a fixed number of tokens before, and the
    loop has been gone through REPEATS times. Whatever counts, or differs from row to row, is none.
    """

    def __init__(self, tokens: int) -> None:
        self._wanted = tokens
        self._tokens: list[int] = []
        self._hash, self._lost = 0, pow(BASE, GRAM, MODULUS)
        self._seen: dict[int, int] = {}  # hash of GRAM tokens → where they ended last
        self._period = 0  # 0: nothing repeats itself now
        self._run = 0  # tokens, so far, that equal the one a period before

    def push(self, token: int) -> bool:
        """Whether the answer is in a loop with this token."""
        tokens = self._tokens
        tokens.append(token)
        if self._period and token == tokens[-1 - self._period]:
            self._run += 1
        else:
            self._period = self._run = 0
        self._remember(token)
        return self._run >= max(self._wanted, REPEATS * self._period, 1)

    def _remember(self, token: int) -> None:
        tokens = self._tokens
        self._hash = (self._hash * BASE + token + 1) % MODULUS
        if len(tokens) > GRAM:
            self._hash = (self._hash - (tokens[-1 - GRAM] + 1) * self._lost) % MODULUS
        if len(tokens) < GRAM:
            return
        last = self._seen.get(self._hash)
        if not self._period and last is not None and tokens[last - GRAM : last] == tokens[-GRAM:]:
            self._period, self._run = len(tokens) - last, GRAM
        self._seen[self._hash] = len(tokens)
