"""Who runs in the next step, and with how many tokens. Knows tokens and blocks, not tensors.

Order within a step's token budget: sequences that decode (one token each) first, then prompts already begun,
then waiting ones, each by (priority, arrival). A prompt longer than the budget is computed in chunks over
several steps. When blocks run out, the last by (priority, arrival) gives its blocks back and is computed
again later (its full blocks stay in the prefix cache as long as nobody needs the space, so that is often
cheap). A waiting sequence is admitted when there is a seat, and blocks for all its tokens; it takes them from
running ones of lower priority, but from nobody else.

A chunk of one token takes another kernel of the runtime, whose sums are rounded otherwise. So a prompt is
never computed one token at a time, neither at a cut nor at its end; and blocks that hold such tokens, or come
after some, are no prefix for a sequence that is to be invariant (docs/determinism.md).
"""

from __future__ import annotations

import heapq

from headrace.engine.blocks import BlockPool, block_key
from headrace.engine.sequence import Sequence

Chunks = dict[Sequence, int]  # how many of its pending tokens each sequence computes in the step


class Scheduler:
    # Invariant: a waiting sequence holds no block; a running one holds exactly those for num_computed + its
    # chunk.

    def __init__(
        self, pool: BlockPool, *, max_num_seqs: int, max_batch_tokens: int, salt: bytes = b""
    ) -> None:
        assert max_batch_tokens >= max_num_seqs, "every running sequence must be able to decode in one step"
        self.pool, self.max_num_seqs, self.max_batch_tokens = pool, max_num_seqs, max_batch_tokens
        self.running: list[Sequence] = []
        self._waiting: list[tuple[tuple[int, int], Sequence]] = []
        self._salt = salt
        self.num_preemptions = 0

    @property
    def waiting(self) -> list[Sequence]:
        return [sequence for _, sequence in sorted(self._waiting, key=lambda entry: entry[0])]

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        return bool(self.running or self._waiting)

    def add(self, sequence: Sequence) -> None:
        heapq.heappush(self._waiting, (sequence.rank, sequence))

    def remove(self, sequence: Sequence) -> None:
        """Finished or given up: its place and blocks are free at once. Removing one that is not here does
        nothing.
        """
        if sequence in self.running:
            self.running.remove(sequence)
            self._give_back(sequence)
        else:
            self._waiting = [entry for entry in self._waiting if entry[1] is not sequence]
            heapq.heapify(self._waiting)

    def schedule(self) -> Chunks:
        """The next step's work; every chunk's blocks are reserved. Empty only when nothing can run."""
        chunks: Chunks = {}
        ordered = sorted(self.running, key=lambda sequence: sequence.rank)
        for sequence in [s for s in ordered if s.is_decoding] + [s for s in ordered if not s.is_decoding]:
            if sequence in self.running:  # it may have been preempted for one before it
                self._extend(sequence, chunks)
        self._admit(chunks)
        return chunks

    def commit(self, chunks: Chunks) -> None:
        """The step was computed: count its tokens and let full blocks be found."""
        for sequence, count in chunks.items():
            size, before = self.pool.block_size, sequence.num_computed
            sequence.num_computed += count
            if count > 1 and sequence.num_exact == before:
                sequence.num_exact = sequence.num_computed
            for position in range(before // size, sequence.num_computed // size):
                is_exact = (position + 1) * size <= sequence.num_exact
                self.pool.seal(sequence.blocks[position], self._key(sequence, position), is_exact=is_exact)

    def _admit(self, chunks: Chunks) -> None:
        later: list[tuple[tuple[int, int], Sequence]] = []
        while self._waiting and self._budget(chunks) > 0:
            sequence = self._waiting[0][1]
            if sequence.leader is not None and self._is_prefilling(sequence.leader):
                later.append(heapq.heappop(self._waiting))
                continue
            if not self._make_room(sequence, chunks):
                break
            heapq.heappop(self._waiting)
            self.running.append(sequence)
            self._extend(sequence, chunks)
        for entry in later:
            heapq.heappush(self._waiting, entry)

    def _is_prefilling(self, leader: Sequence) -> bool:
        return leader.finish_reason is None and leader.num_generated == 0

    def _make_room(self, sequence: Sequence, chunks: Chunks) -> bool:
        """A seat and blocks for a waiting sequence, which takes over what is already computed of it."""
        while len(self.running) >= self.max_num_seqs:
            if not self._preempt_below(sequence, chunks):
                return False
        self._adopt_prefix(sequence)
        while self._missing(sequence) > self.pool.num_available:
            if not self._preempt_below(sequence, chunks):
                self._give_back(sequence)
                return False
        return True

    def _preempt_below(self, sequence: Sequence, chunks: Chunks) -> bool:
        """Preempt the last running sequence of lower priority; False if there is none."""
        worst = max(self.running, key=lambda running: running.rank, default=sequence)
        if worst.priority <= sequence.priority:
            return False
        self._preempt(worst, chunks)
        return True

    def _missing(self, sequence: Sequence) -> int:
        """Blocks that it needs to compute all its tokens and, if it goes on, one more."""
        size = len(sequence.tokens) + bool(sequence.params.max_tokens)
        return self.pool.blocks_for(size) - len(sequence.blocks)

    def _extend(self, sequence: Sequence, chunks: Chunks) -> None:
        """Reserve a chunk for a running sequence, preempting others if need be; if none is left, itself."""
        count = self._chunk(sequence, self._budget(chunks))
        if count == 0 and chunks:
            return
        count = count or min(sequence.num_pending, self._budget(chunks))  # a budget of one or two
        needed = self.pool.blocks_for(sequence.num_computed + count) - len(sequence.blocks)
        while needed > self.pool.num_available:
            victim = max(self.running, key=lambda running: running.rank)
            self._preempt(victim, chunks)
            if victim is sequence:
                return
        sequence.blocks.extend(self.pool.allocate() for _ in range(needed))
        chunks[sequence] = count

    def _chunk(self, sequence: Sequence, budget: int) -> int:
        """How many of its tokens come next: all, or so many that neither they nor the rest are one token."""
        pending = sequence.num_pending
        if sequence.params.invariant and sequence.num_generated:
            # what a preempted one has generated is computed again as it was at first: one by one
            pending = max(1, sequence.num_prompt - sequence.num_computed)
        count = min(pending, budget)
        if pending - count == 1:
            count -= 1
        return 0 if count == 1 < pending else max(0, count)

    def _budget(self, chunks: Chunks) -> int:
        return self.max_batch_tokens - sum(chunks.values())

    def _preempt(self, victim: Sequence, chunks: Chunks) -> None:
        chunks.pop(victim, None)
        self.running.remove(victim)
        self._give_back(victim)
        victim.num_preemptions += 1
        self.num_preemptions += 1
        self.add(victim)

    def _give_back(self, sequence: Sequence) -> None:
        self.pool.release(reversed(sequence.blocks))
        sequence.blocks.clear()
        sequence.num_computed = sequence.num_exact = 0

    def _adopt_prefix(self, sequence: Sequence) -> None:
        """Take over every leading block that is already computed; at least two tokens are left to compute,
        and those of which more than keys and values is wanted.
        """
        size, is_invariant = self.pool.block_size, sequence.params.invariant
        known = sequence.num_prompt if is_invariant else len(sequence.tokens)
        wanted = sequence.num_observed if sequence.observes_prompt else known
        for position in range(min(wanted // size, max(0, known - 2) // size)):
            block = self.pool.find(self._key(sequence, position), exactly=is_invariant)
            if block is None:
                break
            if self.pool.is_exact(block) and sequence.num_exact == position * size:
                sequence.num_exact += size
            sequence.blocks.append(block)
        sequence.num_computed = len(sequence.blocks) * size
        if sequence.num_preemptions == 0:
            sequence.num_cached = sequence.num_computed

    def _key(self, sequence: Sequence, position: int) -> bytes:
        keys, size = sequence.keys, self.pool.block_size
        while len(keys) <= position:
            start = len(keys) * size
            parent = keys[-1] if keys else self._salt + sequence.salt
            keys.append(block_key(parent, sequence.tokens[start : start + size]))
        return keys[position]
