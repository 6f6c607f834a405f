"""Finds what ends an answer: stop strings, and loops. Text is held back while it may begin a stop string."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

GRAM = 16  # tokens: a repetition is detected once this many recur
REPEATS = 3  # how often a loop must recur at least
MODULUS = (1 << 61) - 1
BASE = 1_000_003
CHARACTERS = 0x110000  # of Unicode


class Stops:
    """An automaton for all stop strings (Aho and Corasick 1975): the cost per character does not depend on
    their number. It is built once per request and shared by its matchers.

    A state stands for the longest suffix of the text that is a prefix of a stop string. State 0: no suffix.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        # One mapping for all states: a mapping for each would take long to free.
        self._next: dict[int, int] = {}  # _edge(state, character) → next state
        self._depth = array("i", [0])  # state → length of its suffix
        self._word: list[str | None] = [None]  # state → the longest stop string that ends there
        for stop in stops:
            self._add(stop)
        # state → the state of the next shorter suffix that is a prefix of a stop string
        self._fall = array("i", bytes(4 * len(self._depth)))
        self._link()

    def __bool__(self) -> bool:
        return len(self._depth) > 1

    def step(self, state: int, character: str) -> int:
        while (after := self._next.get(_edge(state, character))) is None:
            if not state:
                return 0
            state = self._fall[state]
        return after

    def depth(self, state: int) -> int:
        return self._depth[state]

    def word(self, state: int) -> str | None:
        return self._word[state]

    def _add(self, stop: str) -> None:
        state = 0
        for depth, character in enumerate(stop, start=1):
            after = self._next.setdefault(_edge(state, character), len(self._depth))
            if after == len(self._depth):
                self._depth.append(depth)
                self._word.append(None)
            state = after
        self._word[state] = stop

    def _link(self) -> None:
        fall = self._fall  # the shorter ones are complete before the longer ones
        for edge, after in sorted(self._next.items(), key=lambda pair: self._depth[pair[1]]):
            state, code = divmod(edge, CHARACTERS)
            if state:
                fall[after] = self.step(fall[state], chr(code))
            if self._word[after] is None:
                self._word[after] = self._word[fall[after]]


def _edge(state: int, character: str) -> int:
    return state * CHARACTERS + ord(character)


NO_STOPS = Stops(())


class StopMatcher:
    """Finds the first stop string in one stream."""

    def __init__(self, stops: Stops) -> None:
        self._stops, self._state = stops, 0
        self._pending = ""
        self.stop: str | None = None  # the stop string that was found

    @property
    def stopped(self) -> bool:
        return self.stop is not None

    def push(self, text: str) -> str:
        """Add text. Returns the text that can be shown now; from a stop string on everything is dropped."""
        if not self._stops:
            return text
        if self.stopped:
            return ""
        stops, state = self._stops, self._state
        pending = self._pending + text
        for end, character in enumerate(text, start=len(self._pending) + 1):
            state = stops.step(state, character)
            word = stops.word(state)
            if word is not None:  # the longest of those that end first
                self.stop, self._pending = word, ""
                return pending[: end - len(word)]
        self._state = state
        keep = stops.depth(state)
        shown, self._pending = pending[: len(pending) - keep], pending[len(pending) - keep :]
        return shown

    def flush(self) -> str:
        """End the stream. Returns the text that was held back."""
        pending, self._pending, self._state = self._pending, "", 0
        return pending


def overlap(text: str, stop: str) -> int:
    """The length of the longest suffix of `text` that is a proper prefix of `stop`, which is not empty."""
    if stop[0] not in text:
        return 0
    sizes = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)


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
