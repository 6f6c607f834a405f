"""Drafts: guesses of a sequence's next tokens, which one forward pass verifies together.

Where a grammar allows one text only, its tokens are the draft. Otherwise, a sequence repeats itself, its
prompt, a text that the caller expects (OpenAI's `prediction`), and what was answered to others. So where the
last tokens have occurred before, what followed them is a good guess of what follows now. How good, is
measured: by where they occurred, and by how many of them are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.engine.repeats import LONGEST, Memory, Repeats

LEAST = 0.02  # a token that is less probable is not guessed
# The share of guesses that is right, by length of the repeated ending, until it is measured.
PRIOR = {1: 0.2, 2: 0.35, 3: 0.5, 4: 0.6, 5: 0.7, 6: 0.8}
WEIGHT = 4.0  # of what others have measured, in guesses
FADING, SLOWLY = 0.95, 0.995  # what a measurement of a sequence, and of all, still counts after the next one


class Rate:
    """The share of guesses that is right, measured with more weight on the latest. `wider`: the rate of all
    sequences.
    """

    def __init__(self, share: float, fading: float, wider: Rate | None = None) -> None:
        self._tried, self._right = WEIGHT, WEIGHT * share
        self._fading, self._wider = fading, wider

    @property
    def share(self) -> float:
        return self._right / self._tried

    def record(self, *, is_right: bool) -> None:
        self._tried = self._fading * self._tried + 1
        self._right = self._fading * self._right + is_right
        if self._wider is not None:
            self._wider.record(is_right=is_right)


Rates = dict[int, Rate]  # by length of the repeated ending


class Experience:
    """The experience that all sequences share: earlier answers, and how often guesses were right."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.of_own, self.of_others = (
            {length: Rate(share, SLOWLY) for length, share in PRIOR.items()} for _ in range(2)
        )


def _narrower(rates: Rates) -> Rates:
    return {length: Rate(rate.share, FADING, rate) for length, rate in rates.items()}


@dataclass(frozen=True, slots=True)
class Guess:
    token: int
    rate: Rate | None  # None: the grammar forces it
    place: int = 0  # in the sequence's own text; 0: not from there


class Drafter:
    """Guesses the next tokens of one sequence. `forced`: returns the tokens that its grammar forces, if any.

    Guesses are looked up in a text of its own: the prompt, the prediction, the prompt's last two tokens
    again, and the answer. So both the prediction and the answer follow the end of the prompt there.
    """

    def __init__(self, prediction: list[int], forced: Callable[[], list[int]] | None) -> None:
        self._prediction, self._forced = prediction, forced
        self._predicted = range(0)  # places of the prediction in the text
        self._place = 0  # where the text goes on that the answer has followed last; 0: none
        self._own = Repeats()
        self._num_read = 0  # tokens of the sequence that are in the text
        self._of_own: Rates = {}
        self._of_others: Rates = {}
        self.guesses: list[Guess] = []
        self.chances: list[float] = []  # that the guesses up to this one are right
        self.usual: dict[int, float] = {}  # for the scheduler's choice of lengths (speculation.py)
        self.num_accepted = self.num_rejected = 0  # tokens of the prediction that were proposed

    def guess(
        self, tokens: list[int], num_prompt: int, limit: int, experience: Experience, owner: bytes = b""
    ) -> list[int]:
        """Guess at most `limit` of the tokens that follow `tokens`, the first `num_prompt` of which are the
        prompt. `owner`: whose earlier answers may help.
        """
        self.guesses, self.chances = [], []
        forced = self._forced() if self._forced is not None else []
        if forced:
            self.guesses = [Guess(token, None) for token in forced[:limit]]
            self.chances = [1.0] * len(self.guesses)
        elif self._read(tokens, num_prompt):
            if not self._of_own:
                self._of_own, self._of_others = map(_narrower, (experience.of_own, experience.of_others))
            self._guess(tokens[-LONGEST:], limit, experience.memory.texts(owner))
        return [guess.token for guess in self.guesses]

    def settle(self, drafted: int, sampled: Sequence[int | None]) -> None:
        """Record which guesses were right. The first `drafted` were verified; the tokens that were sampled
        tell about the one after them, too.
        """
        first = self.guesses[0].place if self.guesses else 0
        if first or self._place:  # also where a token was replaced by another
            self._place = (first or self._place) + len(sampled)
        for place, (guess, token) in enumerate(zip(self.guesses, sampled, strict=False)):
            is_right = guess.token == token
            if guess.rate is not None:
                guess.rate.record(is_right=is_right)
            if is_right:
                self.num_accepted += place < drafted and guess.place in self._predicted
            else:  # what follows was not tried
                rejected = self.guesses[place:drafted]
                self.num_rejected += sum(guess.place in self._predicted for guess in rejected)
                break
        self.guesses, self.chances = [], []

    def _guess(self, ending: list[int], limit: int, others: Sequence[Repeats]) -> None:
        """Guess token by token, each after those before it, while they are probable enough together."""
        chance, following = 1.0, self._place
        while len(self.guesses) < limit:
            guess = self._best(ending, following, others)
            if guess is None or guess.rate is None:
                break
            chance *= guess.rate.share
            if chance < LEAST:
                break
            self.guesses.append(guess)
            self.chances.append(chance)
            ending = [*ending[1 - LONGEST :], guess.token]
            following = guess.place + 1 if guess.place else 0

    def _best(self, ending: list[int], following: int, others: Sequence[Repeats]) -> Guess | None:
        """The token after the longest repeated ending. Among equals, text that the answer follows already
        comes first, and the sequence's own before that of others.
        """
        own = self._own
        place, longest = own.find(ending)
        if 0 < following < len(own.tokens) and (length := own.repeated(following, ending)) >= longest:
            place, longest = following, length
        best = Guess(own.tokens[place], self._of_own[longest], place) if longest else None
        for text in others:
            if longest == LONGEST or not text.tokens:
                break
            place, length = text.find(ending)
            if length > longest and (token := text.tokens[place]) >= 0:
                longest, best = length, Guess(token, self._of_others[length])
        return best

    def _read(self, tokens: list[int], num_prompt: int) -> bool:
        """Add the sequence's new tokens to its own text. Returns whether all of the text is indexed."""
        text = self._own.tokens
        if not text:
            self._predicted = range(num_prompt, num_prompt + len(self._prediction))
            text += tokens[:num_prompt] + self._prediction
            self._num_read = num_prompt - (2 if self._prediction else 0)
            self._place = len(tokens) if self._prediction else 0
        text += tokens[max(0, self._num_read) :]
        self._num_read = len(tokens)
        self._own.index()
        return self._own.is_indexed
