"""Detects answers that only repeat themselves."""

from __future__ import annotations

GRAM = 16  # tokens: a repetition is detected once this many recur
REPEATS = 3  # how often a loop must recur at least
MODULUS = (1 << 61) - 1
BASE = 1_000_003


class LoopDetector:
    """Takes the tokens of one answer, one by one, each in constant time.

    An answer is in a loop when each of its last `tokens` tokens equals the one a period before, and the
    period has recurred REPEATS times. Text that counts, or differs from row to row, is not a loop. GRAM
    tokens that recur suggest the period: a rolling hash (Rabin and Karp) finds where they occurred before.
    """

    def __init__(self, tokens: int) -> None:
        self._min_tokens = tokens
        self._tokens: list[int] = []
        self._hash, self._oldest_factor = 0, pow(BASE, GRAM, MODULUS)
        self._seen: dict[int, int] = {}  # hash of GRAM tokens → the index after their last occurrence
        self._period = 0  # in tokens; 0: no repetition
        self._run = 0  # how many tokens in a row equal the one a period before

    def push(self, token: int) -> bool:
        """Take a token. Returns whether the answer is in a loop now."""
        tokens = self._tokens
        tokens.append(token)
        if self._period and token == tokens[-1 - self._period]:
            self._run += 1
        else:
            self._period = self._run = 0
        self._remember(token)
        return self._run >= max(self._min_tokens, REPEATS * self._period, 1)

    def _remember(self, token: int) -> None:
        tokens = self._tokens
        self._hash = (self._hash * BASE + token + 1) % MODULUS
        if len(tokens) > GRAM:
            self._hash = (self._hash - (tokens[-1 - GRAM] + 1) * self._oldest_factor) % MODULUS
        if len(tokens) < GRAM:
            return
        last = self._seen.get(self._hash)
        if not self._period and last is not None and tokens[last - GRAM : last] == tokens[-GRAM:]:
            self._period, self._run = len(tokens) - last, GRAM
        self._seen[self._hash] = len(tokens)
