"""Where texts have gone on from the same tokens before: an index of their endings, for a few operations of a
dictionary a token.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

LONGEST = 6  # tokens of a repeated ending: more is not looked at
CANDIDATES = 8  # earlier places that are compared
SEPARATOR = -1  # between two texts: no token
MOST_NEW = 2048  # tokens that are indexed at a time, so that a long text does not delay others
# An entry of the index takes about 200 bytes: 25 MB in all.
MOST_OF_OWNER, MOST_OF_ALL = 2**15, 2**17  # tokens


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
        found = self._owners.get(owner)
        if found is None:
            return ()
        for half in (found.new, found.old):
            if not half.is_indexed:
                half.index()
        return found.new, found.old
