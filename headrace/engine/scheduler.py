"""The scheduler: decides which sequences run in the next step, and how many tokens of each are computed.

It knows tokens and blocks, not tensors. The token budget of a step is spent in this order: sequences that
decode (one token each), prompts that are partly computed, waiting sequences; each group by rank: (priority,
turn, arrival), where turns share the engine between callers (fairness.py). A prompt longer than the budget is
computed in chunks over several steps; in small ones (work.py) while others decode, and so are all prompts of
a flow that runs many sequences beside other flows (fairness.py). When blocks run out, the
running sequence that is last by rank is preempted: it releases its blocks and is computed again later. That
is often cheap, because its full blocks stay in the prefix cache until their space is needed. A waiting
sequence is admitted once there is a seat, and blocks for all its tokens; to make room it preempts running
sequences of lower priority, or, for the first of its flow, one of a flow that has several, and no others.

The runtime computes a chunk of one token with another kernel, which rounds its sums differently. Therefore no
chunk of a prompt is ever one token long, and a sequence with `invariant` set reuses no cached block whose
content depends on such a chunk (docs/determinism.md). On some processors large steps round differently,
too; there, steps are small while such a sequence runs or waits.

A step of few tokens takes hardly longer with some more. So its decoding sequences get drafts (draft.py):
guesses of their next tokens, computed in the same step. Blocks that only rejected guesses needed are released
after it.
"""

from __future__ import annotations

import heapq

from headrace.engine.blocks import BlockPool
from headrace.engine.fairness import CALM, CROWD, FairTurns, Presence, greedy, newcomers
from headrace.engine.phrases import Phrases
from headrace.engine.prefix import PrefixCache
from headrace.engine.sequence import Rank, Sequence
from headrace.engine.speculation import Speculation
from headrace.engine.work import Counters, Pace, Work

# Prompt tokens that one step scores: each takes a row of logits, as large as the vocabulary. Steps of so many
# take 5 % longer for each token than steps of 512.
MAX_SCORED = 128
Chunks = dict[Sequence, int]  # sequence → how many of its pending tokens the step computes, at least 1


class Scheduler:
    """The queue of waiting sequences, the running ones, and the blocks that they hold."""

    # Invariants, between calls (`Engine.check` asserts the first; the second follows from _admit and
    # _preempt):
    # - A waiting sequence holds no block and has num_computed == 0. Otherwise waiting sequences could hold
    #   the whole pool while none of them runs.
    # - A sequence is in `running` or in `_waiting`, never in both. After `remove` it is in neither.
    # - len(running) <= max_num_seqs.
    # - A running sequence's blocks cover its num_computed tokens, and while a step is under way also the
    #   tokens of its chunk and draft: blocks_for(num_computed + chunk + draft) == len(blocks). The runner
    #   writes the keys and values of token i into blocks[i // block_size]; a missing block would be another
    #   sequence's memory.

    def __init__(
        self,
        pool: BlockPool,
        prefixes: PrefixCache,
        *,
        max_num_seqs: int,
        max_batch_tokens: int,
        speculates: bool = True,
        phrases: Phrases | None = None,
        max_invariant_tokens: int = 2**31,
        rounds_apart: bool = False,
    ) -> None:
        """`max_invariant_tokens`, `rounds_apart`: see Runner."""
        # Decoding sequences come first and are never cut. With a smaller budget the last of them would be
        # left out of every step.
        assert max_batch_tokens >= max_num_seqs, "every running sequence must be able to decode in one step"
        self.pool, self._prefixes = pool, prefixes
        self.max_num_seqs, self.max_batch_tokens = max_num_seqs, max_batch_tokens
        self.running: list[Sequence] = []  # in order of admission; schedule() sorts a copy
        # A heap of (rank, sequence). Arrivals are unique, so ranks never tie and sequences, which have no
        # order, are never compared.
        self._waiting: list[tuple[Rank, Sequence]] = []
        self._turns, self._presence = FairTurns(), Presence()
        self._crowds: set[str] = set()  # flows whose prompts are computed in small chunks
        self._speculation = Speculation(phrases) if speculates else None
        self._max_invariant_tokens, self._max_step_tokens = max_invariant_tokens, max_batch_tokens
        self._rounds_apart = rounds_apart
        self.pace, self._last_tokens = Pace(), 0  # of the last step
        self._most_long = 0  # tokens that long prompts may have in the step
        self._has_started_newcomers = False  # in the last step
        self.counters = Counters()

    @property
    def waiting(self) -> list[Sequence]:
        """The waiting sequences, the next one first."""
        return [sequence for _, sequence in sorted(self._waiting, key=lambda entry: entry[0])]

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        return bool(self.running or self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self._turns.of(sequence).assign(sequence)
        self._presence.add(sequence.flow)
        self._wait(sequence)

    def _wait(self, sequence: Sequence) -> None:
        heapq.heappush(self._waiting, (sequence.rank, sequence))

    def remove(self, sequence: Sequence) -> None:
        """Free the seat and the blocks of a finished or aborted sequence, or take it out of the queue. A
        sequence that is in neither is ignored.
        """
        if sequence in self.running:
            self.running.remove(sequence)
            if sequence.finish_reason != "error":  # what it computed may be NaN
                self._prefixes.publish_end(sequence)
            if self._speculation is not None and sequence.num_generated:
                answer = sequence.tokens[sequence.num_prompt :]
                self._speculation.experience.memory.add(sequence.salt, answer)
            self._release(sequence)
        else:
            self._waiting = [entry for entry in self._waiting if entry[1] is not sequence]
            heapq.heapify(self._waiting)

    def schedule(self) -> Chunks:
        """Choose the next step's work and reserve its blocks. Empty only when nothing can run."""
        chunks: Chunks = {}
        self._max_step_tokens = self._step_limit()
        self._crowds = self._presence.crowds(self.running)
        if self._start_newcomers(chunks):
            return chunks
        # Decoding first: its clients read along, and one token each is little of the budget. _extend preempts
        # the last by rank, so the first by rank is never preempted for another: there is always one sequence
        # that advances, and preemption cannot go round in circles.
        ordered = sorted(self.running, key=lambda sequence: sequence.rank)
        is_shared = any(sequence.is_decoding for sequence in ordered)
        self._most_long = self.pace.allowance if is_shared else self.max_batch_tokens
        for sequence in [s for s in ordered if s.is_decoding] + [s for s in ordered if not s.is_decoding]:
            if sequence in self.running:  # an earlier sequence of this loop may have preempted it
                self._extend(sequence, chunks)
        self._admit(chunks)
        self._add_drafts(chunks)
        return chunks

    def commit(self, chunks: Chunks) -> None:
        """Record that the step was computed: count its tokens and publish the blocks that became full.

        To be called only after a successful forward pass. A block that is published before its keys and
        values are written would be reused with whatever its memory held. Of a draft, the tokens that the
        sequence has accepted count; the next step writes over the others.
        """
        num_tokens = sum(count + len(sequence.draft) for sequence, count in chunks.items())
        is_exact = num_tokens <= self._max_invariant_tokens and (
            not self._rounds_apart or any(sequence.params.invariant for sequence in chunks)
        )
        for sequence, count in chunks.items():
            before = sequence.num_computed
            sequence.num_computed += count
            if sequence.draft:
                reach = sequence.num_computed + len(sequence.draft)
                sequence.num_computed = min(reach, len(sequence.tokens) - 1)
                self._release_from(sequence, self.pool.blocks_for(sequence.num_computed))
            # Exactness is a property of a prefix: each token's keys and values depend on all tokens before
            # it, so the first chunk of one token, or in a step that is not exact, ends it, for good.
            if is_exact and count > 1 and sequence.num_exact == before:
                sequence.num_exact = sequence.num_computed
            if sequence.finish_reason != "error":  # what it computed may be NaN
                self._prefixes.publish(sequence, before)

    def record(self, work: Work, seconds: float) -> None:
        """Learn from the time of a step. The first of its size takes longer: the runtime prepares itself for
        it (see speculation.py).
        """
        is_new, self._last_tokens = work.tokens != self._last_tokens, work.tokens
        if not is_new:
            self.pace.record(work, seconds)
            if self._speculation is not None and not work.of_prompts:
                self._speculation.costs.record(work.tokens, seconds, work.context)

    def _admit(self, chunks: Chunks) -> None:
        """Start waiting sequences, in order of rank, while there are tokens, seats and blocks for them."""
        deferred: list[tuple[Rank, Sequence]] = []
        while self._waiting and self._budget(chunks) > 0:
            # It leaves the queue first: the sequence that is preempted for it may be put before it.
            entry = heapq.heappop(self._waiting)
            sequence = entry[1]
            # The n choices of one request share a prompt. Once the leader has computed it, the others find
            # its blocks in the prefix cache; admitted now, each would compute the prompt again.
            if sequence.leader is not None and self._is_prefilling(sequence.leader):
                deferred.append(entry)
                continue
            # Stop at the first that does not fit, rather than try smaller ones behind it: otherwise a stream
            # of short prompts would keep a long one waiting forever.
            if not self._make_room(sequence, chunks):
                heapq.heappush(self._waiting, entry)
                break
            self._start(sequence, chunks)
        for entry in deferred:
            heapq.heappush(self._waiting, entry)
        if len(self.running) >= self.max_num_seqs:
            self._admit_newcomers(chunks, [sequence for _, sequence in self._waiting])

    def _start_newcomers(self, chunks: Chunks) -> bool:
        """Compute the prompts of flows of which no sequence runs in a step of their own, if many sequences of
        others run, none of a higher priority: so that the one request of a caller does not wait for the many
        of another. The others come in the next step, even if there are newcomers again.
        """
        self._most_long = self.pace.allowance
        if len(self.running) >= CROWD and self._waiting and not self._has_started_newcomers:
            highest = min(sequence.priority for sequence in self.running)
            self._admit_newcomers(chunks, [s for _, s in self._waiting if s.priority <= highest])
        self._has_started_newcomers = bool(chunks)
        return self._has_started_newcomers

    def _admit_newcomers(self, chunks: Chunks, waiting: list[Sequence]) -> None:
        """Make room for those of flows of which no sequence runs: the first in the queue may be one that has
        just given up its seat.
        """
        for sequence in newcomers(waiting, self.running):
            if self._budget(chunks) <= 0:
                return
            is_deferred = sequence.leader is not None and self._is_prefilling(sequence.leader)
            if not is_deferred and self._make_room(sequence, chunks):
                self._waiting.remove((sequence.rank, sequence))
                heapq.heapify(self._waiting)
                self._start(sequence, chunks)

    def _start(self, sequence: Sequence, chunks: Chunks) -> None:
        """Run a sequence that has a seat, and blocks for all its tokens."""
        self.running.append(sequence)
        self._turns.of(sequence).served(sequence)
        self._prefixes.attach_beginning(sequence)
        # Usage reports what the cache had when the request came, not the sequence's own blocks that it finds
        # again after a preemption.
        if not sequence.num_preemptions:
            sequence.num_cached = sequence.num_computed
            self.counters.num_queried += sequence.num_prompt
            self.counters.num_hit += sequence.num_cached
        self._extend(sequence, chunks)

    def _is_prefilling(self, leader: Sequence) -> bool:
        # A leader that failed or was aborted has a finish reason, so that its followers do not wait forever.
        return leader.finish_reason is None and leader.num_generated == 0

    def _make_room(self, sequence: Sequence, chunks: Chunks) -> bool:
        """Free a seat and enough blocks for a waiting sequence, and attach its cached prefix. False, with the
        sequence holding nothing, when that is impossible now.
        """
        while len(self.running) >= self.max_num_seqs:
            if not self._preempt_below(sequence, chunks):
                return False
        # The prefix is attached before blocks are counted: attaching takes idle blocks out of
        # `num_available`, and an idle block that the sequence itself needs must not be evicted for it.
        self._prefixes.attach(sequence)
        while self._missing(sequence) > self.pool.num_available:
            if not self._preempt_below(sequence, chunks):
                self._release(sequence)
                return False
        return True

    def _preempt_below(self, sequence: Sequence, chunks: Chunks) -> bool:
        """Preempt the last running sequence of lower priority, or of a flow that has more than its share;
        False if there is none.

        Equal priority alone is not enough: nothing would be gained, and what the running one has computed
        would be lost.
        """
        worst = max(self.running, key=lambda running: running.rank, default=sequence)
        if worst.priority <= sequence.priority:
            several = greedy(self.running, sequence)
            if several is None:
                return False
            worst = several
        self._preempt(worst, chunks)
        return True

    def _missing(self, sequence: Sequence) -> int:
        """How many blocks the sequence still needs to compute all its tokens and, if it generates, the next.

        Blocks for the whole prompt are required at admission although only its first chunk takes some now:
        a prompt that is admitted without them could be preempted half-way, and its work lost.
        """
        size = len(sequence.tokens) + bool(sequence.params.max_tokens)
        return self.pool.blocks_for(size) - len(sequence.blocks)

    def _extend(self, sequence: Sequence, chunks: Chunks) -> None:
        """Give a running sequence its chunk and the blocks for it. For blocks it preempts the last running
        sequence, again and again; when that is the sequence itself, it gets no chunk and waits again.
        """
        budget = self._budget(chunks)
        if self._is_long(sequence):
            long = sum(count for other, count in chunks.items() if self._is_long(other))
            budget = min(budget, self._most_long - long)
        if sequence.flow in self._crowds and not sequence.is_decoding:
            crowded = (
                n for other, n in chunks.items() if other.flow in self._crowds and not other.is_decoding
            )
            budget = min(budget, CALM - sum(crowded))
        if sequence.params.prompt_logprobs and not sequence.is_decoding:
            scored = sum(count for other, count in chunks.items() if other.params.prompt_logprobs)
            budget = min(budget, MAX_SCORED - scored)
        count = self._chunk(sequence, budget)
        if chunks and (count == 0 or (count > 1 and not self._may_copy(sequence, count, chunks))):
            return
        # The step would be empty: a budget of one or two tokens, which admits no chunk by the rule of
        # `_chunk`. Progress matters more than exactness then.
        count = count or min(sequence.num_pending, budget)
        needed = self.pool.blocks_for(sequence.num_computed + count) - len(sequence.blocks)
        while needed > self.pool.num_available:
            victim = max(self.running, key=lambda running: running.rank)
            self._preempt(victim, chunks)
            if victim is sequence:
                return
        sequence.blocks.extend(self.pool.allocate() for _ in range(needed))
        chunks[sequence] = count

    def _is_long(self, sequence: Sequence) -> bool:
        """Whether the prompt takes several steps anyway: then small ones, while others decode (work.py). A
        shorter one is computed at once.
        """
        return sequence.num_pending > 1 and len(sequence.tokens) - sequence.num_cached > self.max_batch_tokens

    def _chunk(self, sequence: Sequence, budget: int) -> int:
        """The number of tokens to compute next: all pending ones, or as many as fit the budget such that
        neither they nor the remainder are a single token. 0 when no such number exists.
        """
        pending = sequence.num_pending
        if sequence.params.invariant and sequence.num_generated:
            # A preempted sequence recomputes its answer in the same chunks as at first: the prompt, then
            # one token at a time. Larger chunks would round differently from the first time.
            pending = max(1, sequence.num_prompt - sequence.num_computed)
        count = min(pending, budget)
        if pending - count == 1:
            count -= 1
        return 0 if count == 1 < pending else max(0, count)

    def _add_drafts(self, chunks: Chunks) -> None:
        """Give the decoding sequences of a small step drafts."""
        for sequence in chunks:
            sequence.draft = []
        if self._speculation is not None:
            tokens = chunks.copy()
            for sequence, draft in self._speculation.propose(chunks, self._max_step_tokens).items():
                if self._may_copy(sequence, chunks[sequence] + len(draft), tokens):
                    sequence.draft = self._with_blocks(sequence, chunks[sequence], draft)
                    tokens[sequence] += len(sequence.draft)

    def _may_copy(self, sequence: Sequence, count: int, tokens: Chunks) -> bool:
        """Whether the step may compute several tokens of one more sequence; `tokens`: those of the others.
        The runtime copies the keys of all such sequences, each into as much memory as the longest needs, and
        keeps that memory for good: sequences that share a prefix could need many times the cache.
        """
        ends = [other.num_computed + some for other, some in tokens.items() if some > 1]
        ends.append(sequence.num_computed + count)
        return len(ends) == 1 or len(ends) * max(ends) <= self.pool.num_blocks * self.pool.block_size

    def _with_blocks(self, sequence: Sequence, count: int, draft: list[int]) -> list[int]:
        """Reserve free blocks for a draft; preempt no sequence for it. Returns the part that has blocks."""
        end, blocks = sequence.num_computed + count, sequence.blocks
        needed = self.pool.blocks_for(end + len(draft)) - len(blocks)
        blocks.extend(self.pool.allocate() for _ in range(min(needed, self.pool.num_available)))
        return draft[: len(blocks) * self.pool.block_size - end]

    def _budget(self, chunks: Chunks) -> int:
        """How many tokens of the step are not assigned yet."""
        return self._max_step_tokens - sum(chunks.values())

    def _step_limit(self) -> int:
        """How many tokens the next step may have: few for the sake of an invariant sequence, but never fewer
        than the decoding ones, and a chunk of two, need.
        """
        limit = min(self.max_batch_tokens, max(self._max_invariant_tokens, self.max_num_seqs + 2))
        if limit == self.max_batch_tokens:
            return limit
        sequences = [*self.running, *(sequence for _, sequence in self._waiting)]
        is_invariant = any(sequence.params.invariant for sequence in sequences)
        return limit if is_invariant else self.max_batch_tokens

    def _preempt(self, victim: Sequence, chunks: Chunks) -> None:
        """Move a running sequence back to the queue, without its blocks.

        Its chunk of this step, if it already has one, is dropped too: the chunk's blocks are gone. It keeps
        its tokens, so it continues its answer where it was, and its rank, so it is the first of its
        priority to come back.
        """
        chunks.pop(victim, None)
        self.running.remove(victim)
        self._release(victim)
        victim.num_preemptions += 1
        self.counters.num_preemptions += 1
        self._wait(victim)

    def _release(self, sequence: Sequence) -> None:
        self._release_from(sequence, 0)
        sequence.num_computed = sequence.num_exact = 0

    def _release_from(self, sequence: Sequence, first: int) -> None:
        """Release the sequence's blocks from its `first` on, the last one first: see BlockPool.release."""
        self.pool.release(reversed(sequence.blocks[first:]))
        del sequence.blocks[first:]
