"""The engine: takes sequences, runs one forward pass per step, returns tokens. Synchronous, and used from one
thread only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence as Many
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.engine.batch import Batch, pack, with_companion
from headrace.engine.blocks import BlockPool
from headrace.engine.logprobs import logprobs
from headrace.engine.runner import Runner
from headrace.engine.sampler import sample
from headrace.engine.scheduler import Chunks, Scheduler
from headrace.engine.sequence import FinishReason, Logprobs, Sequence

log = logging.getLogger(__name__)

Tokens = NDArray[np.int64]
Vectors = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Output:
    """One token of one sequence; or, with `token` None, its end by an error or after a prompt with max_tokens
    0.
    """

    sequence: Sequence
    token: int | None
    finish_reason: FinishReason | None
    logprobs: Logprobs | None = None


@dataclass(frozen=True, slots=True)
class _Step:
    """The results of a forward pass, before they are applied to the sequences."""

    batch: Batch
    tokens: Tokens  # by index in batch.sampled; -1: the logits were no distribution
    logprobs: list[Logprobs | None]  # by index in batch.sampled
    scores: list[list[Logprobs]]  # by index in batch.scored: of each prompt token in the chunk
    vectors: list[Vectors]  # by index in batch.pooled: sums of hidden states
    failed: dict[int, Exception]  # index in batch.sampled → the exception of its constraint


class Engine:
    """Scheduler, block pool, runner and sampler, put together.

    A step has two halves. `_compute` does everything that can fail because of the runtime or of a request
    (memory, NaN, a constraint), and changes no sequence; so a failed step can be run again, sequence by
    sequence. `_commit` applies the results, and is not expected to fail.
    """

    def __init__(
        self, runner: Runner, *, max_num_seqs: int = 32, max_batch_tokens: int = 512, salt: bytes = b""
    ) -> None:
        self.runner = runner
        self.pool = BlockPool(runner.num_blocks, runner.block_size)
        self.scheduler = Scheduler(
            self.pool,
            max_num_seqs=max_num_seqs,
            max_batch_tokens=max(max_batch_tokens, max_num_seqs + 2),  # decodes, and a chunk of 2
            salt=salt,
        )
        self._masks = MaskMaker(runner)

    @property
    def max_tokens(self) -> int:
        """The longest sequence (prompt and continuation) that the cache holds."""
        return self.pool.num_blocks * self.pool.block_size

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. The caller has limited max_tokens so that the whole sequence fits in the cache:
        otherwise it would wait, or preempt itself, forever.
        """
        assert sequence.num_prompt + sequence.params.max_tokens <= self.max_tokens, (
            "the sequence outgrows the cache"
        )
        self.scheduler.add(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Free the sequence's seat and blocks now. A finished sequence is ignored."""
        if sequence.finish_reason is None:
            sequence.finish_reason = "aborted"
            self.scheduler.remove(sequence)

    def step(self) -> list[Output]:
        """Run one forward pass and sample. Of a pass that fails, every sequence is run again alone, so that
        only those that cause the failure end with an error.
        """
        chunks = self.scheduler.schedule()
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
                return [self._fail(next(iter(chunks)), exc)]
            return [output for one in chunks.items() for output in self._run_alone(*one)]
        return self._commit(chunks, step)

    def check(self) -> None:
        """Assert the invariants of pool and queues (see BlockPool.check). Called by tests between steps."""
        self.pool.check([sequence.blocks for sequence in self.scheduler.running])
        assert all(not sequence.blocks for sequence in self.scheduler.waiting)

    def _compute(self, chunks: Chunks) -> _Step:
        """Run the forward pass, sample and score. Changes no sequence but the state of its generator."""
        batch = pack(chunks)
        if _is_lone_token(chunks):
            batch = with_companion(batch, self.runner.spare_block)
        masks = self._masks.start(batch.sampled)  # in another thread, while the model runs
        logits = self.runner.forward(batch)
        by_row, failed = masks.result()
        tokens = sample(logits[: len(batch.sampled)], batch.sampled, by_row) if batch.sampled else _NONE
        hidden = self.runner.hidden() if batch.pooled else _NO_VECTORS
        return _Step(
            batch,
            tokens,
            logprobs=[
                _logprobs(logits[row], sequence, int(tokens[row]))
                for row, sequence in enumerate(batch.sampled)
            ],
            scores=[_score(logits[rows], sequence) for sequence, rows in batch.scored],
            vectors=[_sum(hidden[rows]) for _, rows in batch.pooled],
            failed=failed,
        )

    def _commit(self, chunks: Chunks, step: _Step) -> list[Output]:
        """Apply a step's results to the sequences. An exception here is a bug of the engine, so it is not
        caught: it must not be reported as a failure of the request.
        """
        self.scheduler.commit(chunks)
        batch = step.batch
        for (sequence, _), scores in zip(batch.scored, step.scores, strict=True):
            sequence.prompt_logprobs += scores
        for (sequence, _), vector in zip(batch.pooled, step.vectors, strict=True):
            sequence.pooled = vector if sequence.pooled is None else sequence.pooled + vector
        for sequence in chunks:
            sequence.num_observed = max(sequence.num_observed, sequence.num_computed)
        outputs = [self._end(sequence) for sequence in batch.completed]
        for row, sequence in enumerate(batch.sampled):
            if row in step.failed:
                outputs.append(self._fail(sequence, step.failed[row]))
            else:
                outputs.append(self._advance(sequence, int(step.tokens[row]), step.logprobs[row]))
        return outputs

    def _run_alone(self, sequence: Sequence, count: int) -> list[Output]:
        """Run one sequence's chunk of a failed step again, by itself; it ends with an error if it fails
        again.
        """
        chunks = {sequence: count}
        try:
            step = self._compute(chunks)
        except Exception as exc:
            return [self._fail(sequence, exc)]
        return self._commit(chunks, step)

    def _advance(self, sequence: Sequence, token: int, logprobs: Logprobs | None) -> Output:
        if token < 0:
            self.pool.forget(sequence.blocks)  # they may be NaN: not to be reused by others
            return self._fail(sequence, ArithmeticError("the model's output is not a distribution"))
        sequence.first_token_at = sequence.first_token_at or time.perf_counter()
        try:
            sequence.finish_reason = sequence.accept(token)
        except Exception as exc:  # the constraint failed, for example at a limit of its parser
            return self._fail(sequence, exc)
        if sequence.finish_reason is not None:
            self.scheduler.remove(sequence)
        return Output(sequence, token, sequence.finish_reason, logprobs)

    def _end(self, sequence: Sequence) -> Output:
        sequence.first_token_at, sequence.finish_reason = time.perf_counter(), "length"
        self.scheduler.remove(sequence)
        return Output(sequence, None, "length")

    def _fail(self, sequence: Sequence, exc: Exception) -> Output:
        sequence.finish_reason, sequence.error = "error", type(exc).__name__
        self.scheduler.remove(sequence)
        return Output(sequence, None, "error")


def _is_lone_token(chunks: Chunks) -> bool:
    """Whether the step is one token of an invariant sequence. For a single token the runtime splits the
    attention between its threads, and rounds differently than in a batch.
    """
    sequence, count = next(iter(chunks.items()))
    return len(chunks) == 1 and count == 1 and sequence.params.invariant


Masks = tuple[dict[int, NDArray[np.int32]], dict[int, Exception]]


@dataclass(slots=True)
class MaskMaker:
    """Computes the masks of constraints in a thread of its own, during the forward pass."""

    runner: Runner
    _pool: ThreadPoolExecutor | None = None

    def start(self, sequences: Many[Sequence]) -> Future[Masks]:
        """Start computing. The result: row → mask, and row → exception for constraints that raised. Rows
        without a constraint are in neither.
        """
        constrained = [(row, s) for row, s in enumerate(sequences) if s.constraint is not None]
        if not constrained:
            return _NO_MASKS
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="masks")
        return self._pool.submit(_fill, constrained, -(-self.runner.vocabulary // 32))


def _fill(constrained: list[tuple[int, Sequence]], size: int) -> Masks:
    masks: dict[int, NDArray[np.int32]] = {}
    failed: dict[int, Exception] = {}
    for row, sequence in constrained:
        assert sequence.constraint is not None
        try:
            sequence.constraint.fill(mask := np.zeros(size, np.int32))
            masks[row] = mask
        except Exception as exc:
            log.warning("a constraint failed: %s", exc)
            failed[row] = exc
    return masks, failed


def _logprobs(row: NDArray[np.float32], sequence: Sequence, token: int) -> Logprobs | None:
    count = sequence.params.logprobs
    return logprobs(row, token, count) if count is not None and token >= 0 else None


def _score(rows: NDArray[np.float32], sequence: Sequence) -> list[Logprobs]:
    """Logprobs of the next len(rows) prompt tokens. Row i predicts the token after its own."""
    _check_finite(rows)
    first = sequence.num_observed + 1
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


_NONE: Tokens = np.zeros(0, np.int64)
_NO_VECTORS: NDArray[np.float32] = np.zeros((0, 0), np.float32)
_NO_MASKS: Future[Masks] = Future()
_NO_MASKS.set_result(({}, {}))
