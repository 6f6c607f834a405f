"""The prefix cache: which blocks a sequence takes from the pool before it is computed, and which of its own
it makes findable.
"""

from __future__ import annotations

from collections.abc import Callable

from headrace.engine.blocks import BlockPool, block_key
from headrace.engine.sequence import Sequence

Copy = Callable[[int, int], None]  # (from block, to block)


class PrefixCache:
    """Reads and writes sequences' `blocks`, `keys` and counts. `salt`: what else blocks' content depends on;
    `copy`: copies a block's keys and values; None: only whole blocks are reused.
    """

    def __init__(self, pool: BlockPool, salt: bytes, copy: Copy | None) -> None:
        self._pool, self._salt, self._copy, self._size = pool, salt, copy, pool.block_size

    def attach(self, sequence: Sequence) -> None:
        """Add to `sequence.blocks` the leading blocks whose content is already cached."""
        size, is_invariant = self._size, sequence.params.invariant
        for position in range(self._num_reusable(sequence) // size):
            block = self._pool.find(self._key(sequence, position), exactly=is_invariant)
            if block is None:
                # Later blocks may be cached, but the attention needs all tokens before them.
                break
            if self._pool.is_exact(block) and sequence.num_exact == position * size:
                sequence.num_exact += size
            sequence.blocks.append(block)  # `find` holds it: it cannot be evicted for another sequence
        sequence.num_computed = len(sequence.blocks) * size

    def attach_beginning(self, sequence: Sequence) -> None:
        """After `attach`: copy a block that begins as the sequence goes on, so that less than a block's
        length of tokens is computed again. It takes a block that the sequence needs anyway.
        """
        start, size = sequence.num_computed, self._size
        room = min(self._num_reusable(sequence) - start, size)
        if room <= 0 or self._copy is None or sequence.effect(start, start + room):
            return
        parent, tokens = self._parent(sequence, start // size), sequence.tokens[start : start + room]
        beginning = self._pool.find_beginning(parent, tokens, exactly=sequence.params.invariant)
        if beginning is None:
            return
        source, count = beginning
        if self._pool.num_available:  # holding the source may have taken the last one
            sequence.blocks.append(self._pool.allocate())
            self._copy(source, sequence.blocks[-1])
            if sequence.num_exact == start:
                sequence.num_exact += min(count, self._pool.num_exact(source))
            sequence.num_computed += count
        self._pool.release([source])

    def publish(self, sequence: Sequence, before: int) -> None:
        """Make the blocks findable that became full, or got the last of the prompt, since `before` tokens
        were computed.
        """
        # Only blocks whose keys and values are written: the scheduler calls this after the forward pass.
        size, end = self._size, sequence.num_computed
        for position in range(before // size, end // size):
            is_exact = (position + 1) * size <= sequence.num_exact
            self.publish_block(sequence, position, sequence.blocks[position], is_exact=is_exact)
        if before < sequence.num_prompt <= end:
            self.publish_end(sequence)

    def publish_block(self, sequence: Sequence, position: int, block: int, *, is_exact: bool) -> None:
        """Make a full block findable, by its key and by its first tokens."""
        parent, key, size = self._parent(sequence, position), self._key(sequence, position), self._size
        self._pool.seal(block, key, is_exact=is_exact)
        num_exact = size if is_exact else sequence.num_exact - position * size
        self._keep(sequence, position * size, size, block, parent, num_exact)

    def publish_end(self, sequence: Sequence) -> None:
        """Make the last block, if it is filled in part, findable by the tokens that it has."""
        position, count = divmod(sequence.num_computed, self._size)
        if count:
            start, block = position * self._size, sequence.blocks[position]
            parent = self._parent(sequence, position)
            self._keep(sequence, start, count, block, parent, sequence.num_exact - start)

    def _keep(
        self, sequence: Sequence, start: int, count: int, block: int, parent: bytes, num_exact: int
    ) -> None:
        """Make a block findable by its tokens, `count` from `start` on, unless they are steered."""
        if self._copy is not None and not sequence.effect(start, start + count):
            # Steered blocks are found by their whole key only: tokens alone do not say how they were steered.
            tokens = sequence.tokens[start : start + count]
            self._pool.keep(block, parent, tokens, num_exact=min(max(0, num_exact), count))

    def shareable(self, sequence: Sequence) -> list[bytes]:
        """The keys of the full blocks that `attach` and `attach_beginning` may find."""
        count = self._num_known(sequence) // self._size
        return [self._key(sequence, position) for position in range(count)]

    def _num_known(self, sequence: Sequence) -> int:
        """How many of the sequence's tokens may be taken from the cache, if others follow.

        Prompt tokens whose logits or hidden states are requested are computed, because the cache has only
        their keys and values. An invariant sequence reuses the prompt only: its answer was, or will be,
        computed one token at a time.
        """
        if sequence.observes_prompt:
            return sequence.num_observed
        return sequence.num_prompt if sequence.params.invariant else len(sequence.tokens)

    def _num_reusable(self, sequence: Sequence) -> int:
        """Two tokens at least are left to compute: the last one's logits are needed to sample, and a chunk of
        one token is inexact.
        """
        end = sequence.num_prompt if sequence.params.invariant else len(sequence.tokens)
        return max(0, min(self._num_known(sequence), end - 2))

    def _parent(self, sequence: Sequence, position: int) -> bytes:
        """The key of the block before. For the first one, salts: owners do not find each other's prompts."""
        return self._key(sequence, position - 1) if position else self._salt + sequence.salt

    def _key(self, sequence: Sequence, position: int) -> bytes:
        """The content key of a full block: a hash of its tokens, of what steering does to them, and of all
        that before it.

        Keys are chained (each hashes its parent) because equal tokens have equal keys and values only after
        equal beginnings.
        """
        keys, size = sequence.keys, self._size
        while len(keys) <= position:
            start = len(keys) * size
            parent = keys[-1] if keys else self._salt + sequence.salt
            effect = sequence.effect(start, start + size)
            keys.append(block_key(parent, sequence.tokens[start : start + size], effect))
        return keys[position]
