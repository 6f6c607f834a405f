"""Drafts: guesses of a sequence's next tokens, which one forward pass verifies together.

Where a grammar allows one text only, its tokens are the draft. Otherwise, a sequence repeats itself, its
prompt, and a text that the caller expects (OpenAI's `prediction`). So where the last tokens have occurred
before, what followed them is a good guess of what follows now. How good, each sequence measures for
itself; the longer the repeated ending, the better.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log

MAX_ROWS = 16  # tokens of a step with drafts: one stream's step takes 1.4 times as long as with one token
SHORTEST, LONGEST = 2, 6  # tokens of a repeated ending: what is looked up, and what is long enough
CANDIDATES = 8  # earlier places that are compared
MOST_NEW = 2048  # tokens that are indexed in one step, so that a long prompt holds nobody up
# One more token makes a step about 3 % longer, for each of its sequences; and a step gives some three tokens
# where drafts are any good. So a token pays that is accepted once in ten times, with one sequence.
PAYS = 0.1
# The share of drafted tokens that is accepted, by length of the repeated ending, until it is measured.
PRIOR = {2: 0.35, 3: 0.5, 4: 0.6, 5: 0.7, 6: 0.8}
WEIGHT = 4.0  # of that, in tokens
FADING = 0.9  # what a measurement still counts after the next one
REST = 32  # drafts that are left out because they do not pay, before one token is tried again


class Rate:
    """How many of the drafted tokens are accepted, measured with more weight on the latest."""

    def __init__(self, share: float) -> None:
        self._tried, self._accepted, self._num_left_out = WEIGHT, WEIGHT * share, 0

    def worth(self, pays: float) -> int:
        """How many tokens to draft: the k-th is accepted with probability share^k, which must be `pays`."""
        share = self._accepted / self._tried
        if share >= pays:
            return int(log(pays) / log(min(share, 0.99)))
        self._num_left_out = (self._num_left_out + 1) % REST
        return int(self._num_left_out == 0)

    def record(self, drafted: int, accepted: int) -> None:
        # What follows a token that was rejected was not tried.
        self._tried = FADING * self._tried + min(accepted + 1, drafted)
        self._accepted = FADING * self._accepted + accepted


class Drafter:
    """Guesses for one sequence. `forced`: returns the tokens that its grammar forces, if it has one.

    It indexes, for each pair of tokens, the places after it. The text is: the prompt, the prediction, the
    prompt's last two tokens again, and the answer. So the prediction follows the prompt, and the answer
    follows it too.
    """

    def __init__(self, prediction: list[int], forced: Callable[[], list[int]] | None) -> None:
        self._prediction, self._forced = prediction, forced
        self._predicted = range(0)  # places of the prediction in the text
        self._text: list[int] = []
        self._num_read = 0  # tokens of the sequence that are in the text
        self._latest: dict[tuple[int, int], int] = {}  # pair → the latest place after it
        self._earlier = [0, 0]  # for each place, the place before it that follows the same pair; 0: none
        self._rates = {length: Rate(share) for length, share in PRIOR.items()}
        self._rate: Rate | None = None  # of the last proposal; None: it was forced
        self._is_predicted = False  # whether the last proposal is from the prediction
        self.num_accepted = self.num_rejected = 0  # tokens of the prediction that were proposed

    def propose(self, tokens: list[int], num_prompt: int, limit: int, num_sequences: int) -> list[int]:
        """Guess at most `limit` of the tokens that follow `tokens`, the first `num_prompt` of which are the
        prompt; none where no guess would pay, in a step of so many sequences.
        """
        forced = self._forced() if self._forced is not None else []
        if forced:
            self._rate, self._is_predicted = None, False
            return forced[:limit]
        if not self._read(tokens, num_prompt):
            return []
        place, length = self._best()
        if not place:
            return []
        self._rate, self._is_predicted = self._rates[length], place in self._predicted
        count, period = min(limit, self._rate.worth(PAYS * num_sequences)), len(self._text) - place
        return [self._text[place + i % period] for i in range(count)]  # what repeats itself goes on doing so

    def settle(self, drafted: int, accepted: int) -> None:
        """Record how many tokens of the last proposal were accepted."""
        if self._rate is not None:
            self._rate.record(drafted, accepted)
        if self._is_predicted:
            self.num_accepted += accepted
            self.num_rejected += drafted - accepted

    def _read(self, tokens: list[int], num_prompt: int) -> bool:
        """Index the text but for its last token, which nothing follows yet. False if that takes more steps,
        or there is no pair.
        """
        text = self._text
        if not text:
            self._predicted = range(num_prompt, num_prompt + len(self._prediction))
            text += tokens[:num_prompt] + self._prediction
            self._num_read = num_prompt - (SHORTEST if self._prediction else 0)
        text += tokens[max(0, self._num_read) :]
        self._num_read = len(tokens)
        begin = len(self._earlier)
        end = min(len(text), begin + MOST_NEW)
        for place in range(begin, end):
            pair = (text[place - 2], text[place - 1])
            self._earlier.append(self._latest.get(pair, 0))
            self._latest[pair] = place
        return end == len(text) >= SHORTEST

    def _best(self) -> tuple[int, int]:
        """The place after the longest repeated ending, the latest among equals, and the ending's length.
        (0, 0): the last pair is new.
        """
        text = self._text
        place, best = self._latest.get((text[-2], text[-1]), 0), (0, 0)
        for _ in range(CANDIDATES):
            if not place:
                break
            length = self._repeated(place)
            if length > best[1]:
                best = (place, length)
            if length == LONGEST:
                break
            place = self._earlier[place]
        return best

    def _repeated(self, place: int) -> int:
        """How many of the tokens before `place` are also the last ones of the text, LONGEST at most."""
        text, length = self._text, SHORTEST
        while length < min(LONGEST, place) and text[place - 1 - length] == text[-1 - length]:
            length += 1
        return length
