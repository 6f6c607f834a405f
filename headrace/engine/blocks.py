"""The pool of KV-cache blocks: who holds which, and which of them can be found again by content (the prefix
cache).

A block is free (content worthless), held (by one or more sequences), or idle (held by nobody, content kept
under its key until the space is needed, least recently used first). Tensors live in the runner; here are
only numbers.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable
from hashlib import blake2b


class OutOfBlocks(Exception):
    """No block is free or idle. The scheduler answers by preempting a sequence."""


class BlockPool:
    # Invariant: every block is in exactly one of `_free`, `_idle`, or held (`_holders` > 0).

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        # a stack: memory that was touched is used again first
        self._free = list(range(num_blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._holders = [0] * num_blocks
        self._key_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._inexact: set[int] = set()  # of those that have a key: see `seal`

    @property
    def num_available(self) -> int:
        return len(self._free) + len(self._idle)

    @property
    def num_held(self) -> int:
        return self.num_blocks - self.num_available

    def allocate(self) -> int:
        """A block with worthless content, held once. Raises OutOfBlocks."""
        if self._free:
            block = self._free.pop()
        elif self._idle:
            block, _ = self._idle.popitem(last=False)
            self._forget(block)
        else:
            raise OutOfBlocks
        self._holders[block] = 1
        return block

    def find(self, key: bytes, *, exactly: bool = False) -> int | None:
        """The block that holds this content, held once more; None if there is none. `exactly`: only one that
        is exact.
        """
        block = self._block_of.get(key)
        if block is not None and exactly and block in self._inexact:
            return None
        if block is not None:
            self._idle.pop(block, None)
            self._holders[block] += 1
        return block

    def is_exact(self, block: int) -> bool:
        return block not in self._inexact

    def seal(self, block: int, key: bytes, *, is_exact: bool = True) -> None:
        """`block` is full and will not change: let it be found. A second copy of the same content stays
        anonymous. `is_exact`: its keys and values are, bit for bit, those of any other computation of a
        prompt that begins so; such a copy takes the place of one that is not.
        """
        assert self._holders[block] > 0
        if block in self._key_of:
            return
        other = self._block_of.get(key)
        if other is not None:
            if not is_exact or other not in self._inexact:
                return
            self._forget(other)
            if other in self._idle:
                del self._idle[other]
                self._free.append(other)
        self._block_of[key], self._key_of[block] = block, key
        if not is_exact:
            self._inexact.add(block)

    def forget(self, blocks: Iterable[int]) -> None:
        """Their content is not to be trusted: whoever holds them goes on, nobody finds them from now on."""
        for block in blocks:
            if block in self._key_of:
                self._forget(block)

    def _forget(self, block: int) -> None:
        del self._block_of[self._key_of.pop(block)]
        self._inexact.discard(block)

    def release(self, blocks: Iterable[int]) -> None:
        """Give up one hold on each. Pass a sequence's blocks last first, so that its tail is evicted before
        its head.
        """
        for block in blocks:
            assert self._holders[block] > 0, f"block {block} released twice"
            self._holders[block] -= 1
            if self._holders[block] == 0:
                if block in self._key_of:
                    self._idle[block] = None
                else:
                    self._free.append(block)

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def check(self, tables: Iterable[list[int]] | None = None) -> None:
        """Re-derive what must hold; with the block tables of all live sequences, who holds what too."""
        held = {block for block, count in enumerate(self._holders) if count}
        assert all(count >= 0 for count in self._holders)
        assert len(self._free) == len(set(self._free)), "a block is free twice"
        assert held.isdisjoint(self._free), "a free block is held"
        assert held.isdisjoint(self._idle), "an idle block is held"
        assert set(self._free).isdisjoint(self._idle), "an idle block is free"
        assert len(held) + len(self._free) + len(self._idle) == self.num_blocks, "a block is lost"
        assert {key: block for block, key in self._key_of.items()} == self._block_of, (
            "keys and blocks disagree"
        )
        assert set(self._idle) <= set(self._key_of), "an idle block has no key"
        assert self._inexact <= set(self._key_of), "a block without a key is inexact"
        assert set(self._free).isdisjoint(self._key_of), "a free block has a key"
        if tables is not None:
            expected = Counter(block for table in tables for block in table)
            assert expected == Counter({block: self._holders[block] for block in held}), "holders miscounted"


def block_key(parent: bytes, tokens: list[int]) -> bytes:
    """The content hash of a full block: its tokens, chained over all that came before (and what `parent`
    started from).
    """
    return blake2b(parent + array("q", tokens).tobytes(), digest_size=16).digest()
