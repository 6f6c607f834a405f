"""Drafts: guesses of a sequence's next tokens, which one forward pass verifies together. An index of the
endings of texts finds where they went on from the same tokens before, for a few operations of a dictionary a
token.

Where a grammar allows one text only, its tokens are the draft. Otherwise, a sequence repeats itself, its
prompt, a text that the caller expects (OpenAI's `prediction`), and what was answered to others. So where the
last tokens have occurred before, what followed them is a good guess of what follows now. How good, is
measured: by where they occurred, and by how many of them are the same. Phrases that the model is known to
write (phrases.py) are guessed where not even two tokens have occurred before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.engine.phrases import CLASSES, Phrases

LONGEST = 6  # tokens of a repeated ending: more is not looked at
CANDIDATES = 8  # earlier places that are compared
SEPARATOR = -1  # between two texts: no token
MOST_NEW = 2048  # tokens that are indexed at a time, so that a long text does not delay others
# An entry of the index takes about 200 bytes: 25 MB in all.
MOST_OF_OWNER, MOST_OF_ALL = 2**15, 2**17  # tokens
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

    def __init__(self, phrases: Phrases | None = None) -> None:
        self.memory, self.phrases = Memory(), phrases
        self.of_own, self.of_others = (
            {length: Rate(share, SLOWLY) for length, share in PRIOR.items()} for _ in range(2)
        )
        self.of_phrases = {number: Rate((number + 0.5) / CLASSES, SLOWLY) for number in range(CLASSES)}


def _narrower(rates: Rates) -> Rates:
    return {length: Rate(rate.share, FADING, rate) for length, rate in rates.items()}


@dataclass(frozen=True, slots=True)
class Guess:
    token: int
    rate: Rate | None  # None: the grammar forces it
    place: int = 0  # in the sequence's own text; 0: not from there
    other: Guess | None = None  # another source's, which was not tried


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
        self._of_phrases: Rates = {}
        self._phrases: Phrases | None = None
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
                self._of_phrases, self._phrases = _narrower(experience.of_phrases), experience.phrases
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
            for one in (guess, guess.other):
                if one is not None and one.rate is not None:
                    one.rate.record(is_right=one.token == token)
            if guess.token == token:
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
        phrase = None if self._phrases is None else self._phrases.find(ending)
        return best if phrase is None else self._compared(best, longest, *phrase)

    def _compared(self, best: Guess | None, length: int, token: int, number: int) -> Guess:
        """The better one of a guess after an ending of this length, and of a phrase's token. A single token
        that is repeated proves little: then the one counts that comes true more often in this sequence.
        """
        rate = self._of_phrases[number]
        if best is None or (length == 1 and best.rate is not None and rate.share > best.rate.share):
            return Guess(token, rate, other=best)
        return Guess(best.token, best.rate, best.place, Guess(token, rate))

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


class Repeats:
    """A text, and for each one and two of its tokens the places after them."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._after_one: dict[int, int] = {}  # token → the latest place after it
        self._after_two: dict[tuple[int, int], int] = {}
        self._earlier = [0]  # for each place, the place before it that follows the same two tokens; 0: none

    @property
    def is_indexed(self) -> bool:
        return len(self._earlier) >= len(self.tokens)

    def index(self) -> None:
        """Index tokens that were added to the text. The last one of the text is followed by nothing yet, so
        it is indexed as what follows the one before it.
        """
        tokens, begin = self.tokens, len(self._earlier)
        for place in range(begin, min(len(tokens), begin + MOST_NEW)):
            one = tokens[place - 1]
            two = (tokens[place - 2] if place > 1 else SEPARATOR, one)
            self._earlier.append(self._after_two.get(two, 0))
            self._after_one[one] = self._after_two[two] = place

    def find(self, ending: Sequence[int]) -> tuple[int, int]:
        """The place in the text after the longest repeated part of `ending`, the latest among equals, and the
        part's length, LONGEST at most. (0, 0) if its last token is new.
        """
        last = ending[-1]
        place = self._after_two.get((ending[-2], last), 0) if len(ending) > 1 else 0
        best = (place, 0)
        for _ in range(CANDIDATES):
            if not place or best[1] == LONGEST:
                break
            length = self.repeated(place, ending)
            if length > best[1]:
                best = (place, length)
            place = self._earlier[place]
        if best[0]:
            return best
        place = self._after_one.get(last, 0)
        return (place, 1) if place else (0, 0)

    def repeated(self, place: int, ending: Sequence[int]) -> int:
        """How many of the tokens before `place` are also the last ones of `ending`, LONGEST at most."""
        tokens, length, most = self.tokens, 0, min(LONGEST, place, len(ending))
        while length < most and tokens[place - 1 - length] == ending[-1 - length]:
            length += 1
        return length


class _Owner:
    """The latest texts of one owner, in two halves: when the new one is full, the old one is dropped."""

    def __init__(self) -> None:
        self.old, self.new = Repeats(), Repeats()

    def __len__(self) -> int:
        return len(self.old.tokens) + len(self.new.tokens)

    def add(self, tokens: list[int]) -> None:
        if len(self.new.tokens) + len(tokens) > MOST_OF_OWNER // 2:
            self.old, self.new = self.new, Repeats()
        self.new.tokens += [*tokens, SEPARATOR]


class Memory:
    """The latest answers to all requests, by owner: many begin, or go on, as others did. Owners do not find
    each other's.
    """

    def __init__(self) -> None:
        self._owners: OrderedDict[bytes, _Owner] = OrderedDict()  # the least recently used first

    def add(self, owner: bytes, tokens: list[int]) -> None:
        """Remember a text, its end at least."""
        self._owners.setdefault(owner, _Owner()).add(tokens[-MOST_OF_OWNER // 2 :])
        self._owners.move_to_end(owner)
        while len(self._owners) > 1 and sum(map(len, self._owners.values())) > MOST_OF_ALL:
            self._owners.popitem(last=False)

    def texts(self, owner: bytes) -> tuple[Repeats, ...]:
        """What the owner's answers are found in, the latest first."""
        halves = self._owners.get(owner)
        if halves is None:
            return ()
        for half in (halves.new, halves.old):
            if not half.is_indexed:
                half.index()
        return halves.new, halves.old
