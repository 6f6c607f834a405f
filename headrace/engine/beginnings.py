"""Finds blocks by their first tokens: a text that ends, or goes another way, inside a block can copy the rest
of it instead of computing up to a block's length of tokens again.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

CANDIDATES = 16  # blocks after the same parent that are compared, the latest first


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first tokens of a block, whose keys and values are written and do not change. `parent`: the key of
    the block before, or the salt; `num_exact`: how many of the tokens are exact (see BlockPool.seal).
    """

    parent: bytes
    tokens: array[int]
    num_exact: int

    def shared_with(self, tokens: Sequence[int]) -> int:
        """How many of both are alike, from the first on."""
        pairs = enumerate(zip(self.tokens, tokens, strict=False))
        alike = min(len(self.tokens), len(tokens))
        return next((count for count, (one, other) in pairs if one != other), alike)

    def covers(self, other: Beginning) -> bool:
        """Whether this block can replace `other` in every search that finds `other`."""
        is_longer = self.shared_with(other.tokens) == len(other.tokens)
        return is_longer and self.num_exact >= other.num_exact


class Beginnings:
    """Blocks by the key of the block before."""

    def __init__(self) -> None:
        self._of: dict[int, Beginning] = {}
        self._after: dict[bytes, dict[int, None]] = {}  # parent → its blocks, the latest last

    def __contains__(self, block: int) -> bool:
        return block in self._of

    def __iter__(self) -> Iterator[int]:
        return iter(self._of)

    def of(self, block: int) -> Beginning:
        return self._of[block]

    def add(self, block: int, beginning: Beginning) -> None:
        """Record the block's beginning, instead of an earlier one."""
        self.remove(block)
        self._of[block] = beginning
        self._after.setdefault(beginning.parent, {})[block] = None

    def remove(self, block: int) -> None:
        beginning = self._of.pop(block, None)
        if beginning is not None:
            siblings = self._after[beginning.parent]
            del siblings[block]
            if not siblings:
                del self._after[beginning.parent]

    def after(self, parent: bytes) -> list[int]:
        """The blocks that continue the block with the hash `parent`, at most CANDIDATES, the newest first."""
        return list(islice(reversed(self._after.get(parent, {})), CANDIDATES))

    def best(self, parent: bytes, tokens: Sequence[int], *, exactly: bool) -> tuple[int, int] | None:
        """The block that has the most of the first of `tokens`, and how many; None if none has any.
        `exactly`: only tokens that are exact count.
        """
        best = None
        for block in self.after(parent):
            beginning = self._of[block]
            count = beginning.shared_with(tokens)
            count = min(count, beginning.num_exact) if exactly else count
            if count > (best[1] if best else 0):
                best = (block, count)
        return best

    def check(self) -> None:
        """Assert that both indices agree."""
        after = {(beginning.parent, block) for block, beginning in self._of.items()}
        assert after == {(parent, block) for parent, blocks in self._after.items() for block in blocks}
        assert all(self._after.values()), "a parent without blocks"
