"""The pool of KV-cache blocks: which sequences hold which, and which can be found by content (the prefix
cache).

A block is free (its content is worthless), held (by one or more sequences), or idle (held by no sequence, but
its content stays findable until the space is needed; the least recently used goes first). A full block is
found by its key and then shared; any block is found by its first tokens and then copied. The tensors are the
runner's: a block is a number here, an index into them.

          allocate                  release, unfindable
    free ─────────→ held ──────────────────────────────────────→ free
    idle ─────────→ held (evicts: it is found no more)
    idle ── find ─→ held ── release, findable (see seal, keep) ─→ idle

`check` re-derives all of it; the tests call it after every step.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
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


class OutOfBlocks(Exception):
    """No block is free or idle. The scheduler counts first and preempts, so it never sees this."""


OnEvict = Callable[[int, bytes, bool], None]  # (block, its key, whether it is exact)


class BlockPool:
    """`num_blocks` blocks of `block_size` tokens each, numbered from 0. `on_evict` is called before an idle
    block is handed out to be overwritten.
    """

    # Invariants (`check` asserts each):
    # - Every block is in exactly one of `_free`, `_idle` or held (`_holders` > 0). A block in two of them
    #   would be handed out twice, and two sequences would overwrite each other's keys and values; a block in
    #   none is lost until the restart.
    # - `_holders[b]` is the number of live sequences whose block table contains b.
    # - `_key_of` and `_block_of` are inverses of each other: a key leads to one block, a block has one key.
    #   Held and idle blocks may have a key; free ones never do.
    # - A block with a key is full, and is not written again while it has it. So sequences may share it.
    # - A block with a beginning may be written, by its one holder, after those tokens.
    # - Idle blocks have a key or a beginning, free ones neither.

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        # A stack: the block that was freed last is used first, so a pool that is larger than the load leaves
        # its upper part untouched, and the operating system need not provide that memory.
        self._free = list(range(num_blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()  # the least recently used first
        self._holders = [0] * num_blocks
        self._key_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._beginnings = Beginnings()
        self.on_evict: OnEvict | None = None
        self._inexact: set[int] = set()  # blocks with a key whose content depends on rounding: see `seal`

    @property
    def num_available(self) -> int:
        """How many blocks `allocate` can return: idle ones count, because they can be evicted."""
        return len(self._free) + len(self._idle)

    @property
    def num_held(self) -> int:
        return self.num_blocks - self.num_available

    def allocate(self) -> int:
        """Return a block with worthless content, held once. Raises OutOfBlocks."""
        # Free blocks first: an idle one may save a later request its prefill.
        if self._free:
            block = self._free.pop()
        elif self._idle:
            block, _ = self._idle.popitem(last=False)
            if self.on_evict is not None and block in self._key_of:
                self.on_evict(block, self._key_of[block], self.is_exact(block))
            self._forget(block)  # before it is written: its key must not lead to the new content
        else:
            raise OutOfBlocks
        self._holders[block] = 1
        return block

    def find(self, key: bytes, *, exactly: bool = False) -> int | None:
        """Return the block with this content, held once more; None if there is none. `exactly`: ignore one
        that is not exact.
        """
        if not self.has(key, exactly=exactly):
            return None
        block = self._block_of[key]
        self._hold(block)
        return block

    def find_beginning(
        self, parent: bytes, tokens: list[int], *, exactly: bool = False
    ) -> tuple[int, int] | None:
        """Return the block after `parent` with the most of the first of `tokens`, held once more, to be
        copied and released; and how many it has. None if there is none. `exactly`: only exact tokens count.
        """
        best = self._beginnings.best(parent, tokens, exactly=exactly)
        if best is not None:
            self._hold(best[0])
        return best

    def num_exact(self, block: int) -> int:
        """How many of a block's first tokens are known to be exact."""
        return self._beginnings.of(block).num_exact if block in self._beginnings else 0

    def _hold(self, block: int) -> None:
        # Whether it was idle or already held by others, it is not to be evicted from now on.
        self._idle.pop(block, None)
        self._holders[block] += 1

    def has(self, key: bytes, *, exactly: bool = False) -> bool:
        """Whether `find` would return a block."""
        block = self._block_of.get(key)
        return block is not None and not (exactly and block in self._inexact)

    def sealed(self) -> Iterator[tuple[int, bytes, bool]]:
        """(block, key, whether it is exact) of all blocks that can be found: those in use, then the idle
        ones, the most recently used first.
        """
        in_use = (block for block in self._key_of if block not in self._idle)
        for block in (*in_use, *(block for block in reversed(self._idle) if block in self._key_of)):
            yield block, self._key_of[block], self.is_exact(block)

    def is_exact(self, block: int) -> bool:
        return block not in self._inexact

    def seal(self, block: int, key: bytes, *, is_exact: bool = True) -> None:
        """Make a full block findable by `key`. Its content must not change any more.

        `is_exact`: its keys and values equal, bit for bit, those of any other computation of a prompt with
        this beginning. When the key already leads to another block, that one stays (its holders share it, and
        this copy becomes free when released), unless only the new one is exact.
        """
        assert self._holders[block] > 0
        if block in self._key_of:
            return  # published already; the same content has the same key
        other = self._block_of.get(key)
        if other is not None:
            if not is_exact or other not in self._inexact:
                return
            # Replace the inexact copy. Sequences that hold it continue with it; it becomes free when the
            # last of them releases it, or now if it is idle, because an idle block must be findable.
            self._discard(other)
        self._block_of[key], self._key_of[block] = block, key
        if not is_exact:
            self._inexact.add(block)

    def keep(self, block: int, parent: bytes, tokens: list[int], *, num_exact: int) -> None:
        """Make a held block findable by its first tokens, which are written; more may follow in it later.
        Nothing happens if another block serves as well; one that this makes useless is not kept.
        """
        assert self._holders[block] > 0, f"block {block} has no holder"
        beginning = Beginning(parent, array("q", tokens), num_exact)
        for other in self._beginnings.after(parent):
            if other != block and self._beginnings.of(other).covers(beginning):
                self._beginnings.remove(block)
                return
            if other != block and other not in self._key_of and beginning.covers(self._beginnings.of(other)):
                self._discard(other)
        self._beginnings.add(block, beginning)

    def forget(self, blocks: Iterable[int]) -> None:
        """Make blocks unfindable whose content cannot be trusted (NaN). Their holders keep them."""
        for block in blocks:
            # Held, as the caller's sequence holds them: an idle block that is not findable would break the
            # invariant above.
            self._forget(block)

    def _forget(self, block: int) -> None:
        self._beginnings.remove(block)
        if block in self._key_of:
            del self._block_of[self._key_of.pop(block)]
            self._inexact.discard(block)

    def _discard(self, block: int) -> None:
        """Remove a block from the prefix cache. It is free at once unless a sequence uses it."""
        self._forget(block)
        if block in self._idle:
            del self._idle[block]
            self._free.append(block)

    def _is_findable(self, block: int) -> bool:
        return block in self._key_of or block in self._beginnings

    def release(self, blocks: Iterable[int]) -> None:
        """Drop one hold on each block. Pass a sequence's blocks last first, so that its tail is evicted
        before its head: a tail without its head can never be found again.
        """
        for block in blocks:
            assert self._holders[block] > 0, f"block {block} released twice"
            self._holders[block] -= 1
            if self._holders[block] == 0:
                # Appended, so most recently used. What cannot be found is worthless.
                if self._is_findable(block):
                    self._idle[block] = None
                else:
                    self._free.append(block)

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks this many tokens fill, the last perhaps in part."""
        return -(-num_tokens // self.block_size)

    def check(self, tables: Iterable[list[int]] | None = None) -> None:
        """Assert every invariant. `tables`: the block tables of all live sequences, to check the holders."""
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
        self._beginnings.check()
        assert all(map(self._is_findable, self._idle)), "an idle block cannot be found"
        assert not any(map(self._is_findable, self._free)), "a free block can be found"
        assert self._inexact <= set(self._key_of), "a block without a key is inexact"
        if tables is not None:
            expected = Counter(block for table in tables for block in table)
            assert expected == Counter({block: self._holders[block] for block in held}), "holders miscounted"


def block_key(parent: bytes, tokens: list[int], effect: bytes = b"") -> bytes:
    """The content key of a full block: BLAKE2b (16 bytes) over the parent's key, or the salt for a first
    block, its tokens, and the effect that steering has on them (Plan.effect), if any.
    """
    # 128 bits of a cryptographic hash: a caller must not be able to construct a prompt whose key equals that
    # of another one's. Python's hash() could be forged. `person` keeps an effect from being read as tokens.
    person = b"steered" if effect else b""
    return blake2b(parent + array("q", tokens).tobytes() + effect, digest_size=16, person=person).digest()
