"""The engine: takes sequences, runs one forward pass per step, returns tokens. Synchronous, and used from one
thread only.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from headrace.backend_types import Distribution
from headrace.engine.batch import Batch, invariant, pack, read_states
from headrace.engine.blocks import BlockPool
from headrace.engine.disk import BlockFiles, DiskCache
from headrace.engine.phrases import Phrases
from headrace.engine.prefix import PrefixCache
from headrace.engine.runner import Runner
from headrace.engine.sampler import Floats, Mask, MaskMaker, Masks, choose, logprobs
from headrace.engine.scheduler import Chunks, Scheduler
from headrace.engine.sequence import FinishReason, Logprobs, Readings, Sequence
from headrace.engine.work import Work
from headrace.free_memory import trim

log = logging.getLogger(__name__)

STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
GAPS_S = (
    0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 40.0,
)  # fmt: skip
DISK_WAIT_S = 0.002  # at a time, while there is nothing to compute: new sequences must not wait for the disk
Vectors = NDArray[np.float64]


class DetachedError(Exception):
    """What a sequence is steered by, or what reads it, was detached before the sequence started."""


@dataclass(frozen=True, slots=True)
class Output:
    """One token of one sequence; or, with `token` None, its end by an error or after a prompt with max_tokens
    0.
    """

    sequence: Sequence
    token: int | None
    finish_reason: FinishReason | None
    logprobs: Logprobs | None = None
    readings: Readings = ()  # of the tokens that were computed since the sequence's last output


@dataclass(frozen=True, slots=True)
class _Step:
    """The results of a forward pass, before they are applied to the sequences."""

    batch: Batch
    logits: Floats  # valid until the next pass
    masks: Masks
    scores: list[list[Logprobs]]  # by index in batch.scored: of each prompt token in the chunk
    vectors: list[Vectors]  # by index in batch.pooled: sums of hidden states


class Engine:
    """Scheduler, block pool, runner and sampler, put together.

    A step has two halves. `_compute` runs the forward pass, and changes no sequence; so a step that fails
    (memory, NaN) can be run again, sequence by sequence. `_commit` samples and applies the results; only
    sampling may fail, and each sequence fails by itself.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        max_num_seqs: int = 32,
        max_batch_tokens: int = 512,
        salt: bytes = b"",
        speculates: bool = True,
        phrases: Phrases | None = None,
        files: BlockFiles | None = None,
    ) -> None:
        """`files`: where blocks that leave the pool are kept; None: nowhere."""
        self.runner = runner
        self.pool = BlockPool(runner.num_blocks, runner.block_size)
        prefixes = PrefixCache(self.pool, salt, runner.copy_block if runner.rewinds else None)
        self.scheduler = Scheduler(
            self.pool,
            prefixes,
            max_num_seqs=max_num_seqs,
            max_batch_tokens=max(max_batch_tokens, max_num_seqs + 2),  # decodes, and a chunk of 2
            speculates=speculates and runner.rewinds,
            phrases=phrases,
            max_invariant_tokens=runner.max_invariant_tokens,
            rounds_apart=runner.rounds_apart,
        )
        self.disk = DiskCache(files, self.scheduler, prefixes, runner) if files is not None else None
        self.step_tokens, self.token_gaps = Distribution(STEP_TOKENS), Distribution(GAPS_S)  # for metrics
        self._masks = MaskMaker(runner.vocabulary)
        self._refused: list[Output] = []  # ends of sequences that could not be added

    @property
    def max_tokens(self) -> int:
        """The longest sequence (prompt and continuation) that the cache holds."""
        return self.pool.num_blocks * self.pool.block_size

    @property
    def has_work(self) -> bool:
        is_fetching = self.disk is not None and self.disk.is_fetching
        return self.scheduler.has_work or is_fetching or bool(self._refused)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. The caller has limited max_tokens so that the whole sequence fits in the cache:
        otherwise it would wait, or preempt itself, forever.
        """
        assert sequence.num_prompt + sequence.params.max_tokens <= self.max_tokens, (
            "the sequence outgrows the cache"
        )
        if self.disk is None or not self.disk.fetch(sequence):
            self._admit(sequence)

    def _admit(self, sequence: Sequence) -> None:
        """Let the scheduler have it, unless what steers or reads it was detached meanwhile."""
        if sequence.layers <= self.runner.layers:
            self.scheduler.add(sequence)
        else:
            self._refused.append(_fail(sequence, DetachedError()))

    def abort(self, sequence: Sequence) -> None:
        """Free the sequence's seat and blocks now. A finished sequence is ignored."""
        if sequence.finish_reason is None:
            # Set first: sequences that wait until this one has computed their common prompt look at it.
            sequence.finish_reason = "aborted"
            self.scheduler.remove(sequence)

    def step(self) -> list[Output]:
        """Run one forward pass and sample. Of a pass that fails, every sequence is run again alone, so that
        only those that cause the failure end with an error.
        """
        if self._refused:
            refused, self._refused = self._refused, []
            return refused
        chunks = self._schedule()
        if not chunks:
            return []
        now = time.perf_counter()
        for sequence in chunks:
            sequence.started_at = sequence.started_at or now
        try:
            step = self._compute(chunks)
        except Exception as exc:  # out of memory, a runtime error; no sequence was changed
            log.exception("engine step with %d sequences failed", len(chunks))
            if len(chunks) == 1:
                return [self._drop(next(iter(chunks)), exc)]
            return [output for one in chunks.items() for output in self._run_alone(*one)]
        work = Work.of(chunks)  # before `_commit`, which turns prompts into answers and uses the drafts up
        outputs = self._commit(chunks, step)
        self.scheduler.record(work, time.perf_counter() - now)
        return outputs

    def close(self) -> None:
        """Write the prefix cache to its files, which takes seconds. The engine does nothing afterwards."""
        if self.disk is not None:
            self.disk.close()

    def rest(self) -> None:
        """Return the memory of large steps to the system. Called when there is no work."""
        self.runner.rest()
        trim()

    def uses(self) -> frozenset[int]:
        """The layers at which unfinished sequences are edited or read."""
        sequences = [*self.scheduler.running, *self.scheduler.waiting]
        return frozenset[int]().union(*(sequence.layers for sequence in sequences))

    def check(self) -> None:
        """Assert the invariants of pool and queues (see BlockPool.check). Called by tests between steps."""
        fetching = self.disk.blocks if self.disk is not None else []
        self.pool.check([fetching, *(sequence.blocks for sequence in self.scheduler.running)])
        assert all(not sequence.blocks for sequence in self.scheduler.waiting)

    def _schedule(self) -> Chunks:
        if self.disk is None:
            return self.scheduler.schedule()
        for sequence in self.disk.fetched():  # before `schedule`: they can run in this very step
            self._admit(sequence)
        chunks = self.scheduler.schedule()
        if not chunks:
            self.disk.wait(DISK_WAIT_S)
        return chunks

    def _compute(self, chunks: Chunks) -> _Step:
        """Run the forward pass and score. Changes no sequence."""
        batch = pack(chunks)
        # Also for prompts of others: their blocks are shared with invariant sequences.
        if any(sequence.params.invariant or not sequence.is_decoding for sequence in chunks):
            batch = invariant(batch, self.runner.spare_block, self.runner.min_invariant_tokens)
        masks = self._masks.start(sequence for sequence, _ in batch.sampled)  # while the model runs
        logits = self.runner.forward(batch)
        hidden = self.runner.hidden() if batch.pooled else _NO_VECTORS
        # Scored and summed now: the next pass writes over `logits` and `hidden`.
        return _Step(
            batch,
            logits,
            masks.result(),
            scores=[_score(logits[rows], sequence) for sequence, rows in batch.scored],
            vectors=[_sum(hidden[rows]) for _, rows in batch.pooled],
        )

    def _commit(self, chunks: Chunks, step: _Step) -> list[Output]:
        """Sample, and apply the step's results to the sequences. An exception here, but for one of sampling,
        is a bug of the engine, so it is not caught: it must not be reported as a failure of the request.
        """
        batch = step.batch
        for (sequence, _), scores in zip(batch.scored, step.scores, strict=True):
            sequence.prompt_logprobs += scores
        for (sequence, _), vector in zip(batch.pooled, step.vectors, strict=True):
            sequence.pooled = vector if sequence.pooled is None else sequence.pooled + vector
        outputs = [self._end(sequence) for sequence in batch.completed]
        for sequence, rows in batch.sampled:
            outputs += self._advance(sequence, step.logits[rows], step.masks.get(sequence))
        self._measure(chunks, [sequence for sequence, _ in batch.sampled])
        # After sampling: how much of a draft counts as computed depends on the tokens that were accepted.
        self.scheduler.commit(chunks)
        if batch.read:
            outputs = self._with_readings(batch, outputs)
        counters = self.scheduler.counters
        counters.num_steps += 1
        counters.num_computed += sum(chunks.values())
        counters.num_generated += sum(output.token is not None for output in outputs)
        for sequence in chunks:
            sequence.num_observed = max(sequence.num_observed, sequence.num_computed)
            # Last: `commit` has published the full blocks, so they stay findable when they are given back.
            if sequence.finish_reason is not None:
                self.scheduler.remove(sequence)
        return outputs

    def _measure(self, chunks: Chunks, sampled: list[Sequence]) -> None:
        """Count the step's tokens, and how long each sequence has waited for its next ones."""
        self.step_tokens.observe(sum(chunks.values()))
        now = time.perf_counter()
        for sequence in sampled:
            if sequence.last_token_at:
                self.token_gaps.observe(now - sequence.last_token_at)
            sequence.last_token_at = now

    def _with_readings(self, batch: Batch, outputs: list[Output]) -> list[Output]:
        """Read the hidden states that probes ask for; the last output of each sequence gets what was read."""
        read_states(batch.read, self.runner.states, self.runner.unedited)
        last = {output.sequence: index for index, output in enumerate(outputs)}
        for sequence, index in last.items():
            outputs[index] = replace(outputs[index], readings=tuple(sequence.readings))
            sequence.readings.clear()
        return outputs

    def _run_alone(self, sequence: Sequence, count: int) -> list[Output]:
        """Run one sequence's chunk of a failed step again, by itself; it ends with an error if it fails
        again.
        """
        chunks = {sequence: count}
        try:
            step = self._compute(chunks)
        except Exception as exc:
            return [self._drop(sequence, exc)]
        return self._commit(chunks, step)

    def _drop(self, sequence: Sequence, exc: Exception) -> Output:
        """End a sequence whose step failed."""
        output = _fail(sequence, exc)
        self.scheduler.remove(sequence)
        return output

    def _advance(self, sequence: Sequence, rows: Floats, mask: Mask | Exception | None) -> list[Output]:
        """Sample from rows[1 + draft, vocabulary], as long as the tokens are those of the draft: a row is
        right only if all of the draft before it is. So tokens, and random numbers, are those of as many
        steps without a draft.
        """
        outputs: list[Output] = []
        try:
            for row, guess in zip(rows, (*sequence.draft, None), strict=True):
                mask = self._masks.make(sequence) if outputs else mask
                outputs.append(self._next(sequence, row, mask))
                if outputs[-1].token != guess or sequence.finish_reason is not None:
                    break
        except Exception as exc:  # of the constraint, for example at a limit of its parser
            outputs.append(_fail(sequence, exc))
        drafter, counters = sequence.drafter, self.scheduler.counters
        if sequence.draft:
            drafted = min(len(drafter.guesses), len(sequence.draft))  # without what fills it up
            accepted = sum(output.token is not None for output in outputs[1:])
            counters.count_draft(drafted, accepted, is_steered=sequence.plan is not None)
        drafter.settle(len(sequence.draft), [output.token for output in outputs])
        return outputs

    def _next(self, sequence: Sequence, row: Floats, mask: Mask | Exception | None) -> Output:
        """Sample one token and append it to the sequence."""
        if isinstance(mask, Exception):
            raise mask
        if sequence.params.watched and not sequence.num_generated:
            sequence.watched_logits = tuple(row[list(sequence.params.watched)].tolist())
        token = choose(row, sequence, mask)
        if token is None:
            self._distrust(sequence)
            raise ArithmeticError("the model's output is not a distribution")
        sequence.first_token_at = sequence.first_token_at or time.perf_counter()
        scores = None if (count := sequence.params.logprobs) is None else logprobs(row, token, count)
        if sequence.divergence is not None:
            sequence.divergence.keep(row)
        sequence.finish_reason = sequence.accept(token)
        return Output(sequence, token, sequence.finish_reason, scores)

    def _distrust(self, sequence: Sequence) -> None:
        """Withdraw the sequence's blocks from the prefix cache: they may be NaN."""
        self.pool.forget(sequence.blocks)
        if self.disk is not None:
            self.disk.drop(sequence)

    def _end(self, sequence: Sequence) -> Output:
        sequence.first_token_at, sequence.finish_reason = time.perf_counter(), "length"
        return Output(sequence, None, "length")


def _fail(sequence: Sequence, exc: Exception) -> Output:
    sequence.finish_reason, sequence.error = "error", type(exc).__name__
    return Output(sequence, None, "error")


def _score(rows: NDArray[np.float32], sequence: Sequence) -> list[Logprobs]:
    """Logprobs of the next len(rows) prompt tokens. Row i predicts the token after its own."""
    _check_finite(rows)
    first = sequence.num_observed + 1
    if (twin := sequence.twin) is not None and twin.divergence is not None:
        for number, row in enumerate(rows, first - twin.num_prompt):
            if number >= 0:
                twin.divergence.compare(number, row)
        return []
    tokens = sequence.tokens[first : first + len(rows)]
    return [
        logprobs(row, token, sequence.params.logprobs or 0) for row, token in zip(rows, tokens, strict=True)
    ]


def _sum(rows: NDArray[np.float32]) -> Vectors:
    _check_finite(rows)
    whole: Vectors = rows.sum(0, dtype=np.float64)
    return whole


def _check_finite(rows: NDArray[np.float32]) -> None:
    if not np.isfinite(rows).all():
        raise ArithmeticError("the model's output is not finite")


_NO_VECTORS: NDArray[np.float32] = np.zeros((0, 0), np.float32)
