"""The engine: sequences in, one step at a time, tokens out. Synchronous; whoever calls it owns the thread."""

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
    """One token of one sequence, or its end without a token: an error, or a prompt that was all there was to
    compute.
    """

    sequence: Sequence
    token: int | None
    finish_reason: FinishReason | None
    logprobs: Logprobs | None = None


@dataclass(frozen=True, slots=True)
class _Step:
    """What a forward pass gave. Nothing of it has reached the sequences yet."""

    batch: Batch
    tokens: Tokens  # of batch.sampled; -1: none
    logprobs: list[Logprobs | None]  # of batch.sampled
    scores: list[list[Logprobs]]  # of batch.scored
    vectors: list[Vectors]  # of batch.pooled
    failed: dict[int, Exception]  # rows of batch.sampled whose constraint failed


class Engine:
    def __init__(
        self, runner: Runner, *, max_num_seqs: int = 32, max_batch_tokens: int = 512, salt: bytes = b""
    ) -> None:
        self.runner = runner
        self.pool = BlockPool(runner.num_blocks, runner.block_size)
        self.scheduler = Scheduler(
            self.pool,
            max_num_seqs=max_num_seqs,
            max_batch_tokens=max(max_batch_tokens, max_num_seqs + 2),  # a prompt takes more than one
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
        """Queue a sequence. Its last token must fit in the cache: the caller has clamped max_tokens."""
        assert sequence.num_prompt + sequence.params.max_tokens <= self.max_tokens, (
            "the sequence outgrows the cache"
        )
        self.scheduler.add(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Free its place and blocks now. Aborting a finished sequence does nothing."""
        if sequence.finish_reason is None:
            sequence.finish_reason = "aborted"
            self.scheduler.remove(sequence)

    def step(self) -> list[Output]:
        """Run one forward pass and sample. A failing pass ends the sequences that make it fail, no others."""
        chunks = self.scheduler.schedule()
        if not chunks:
            return []
        now = time.perf_counter()
        for sequence in chunks:
            sequence.started_at = sequence.started_at or now
        try:
            step = self._compute(chunks)
        except Exception as exc:  # out of memory, a runtime error: this step did not happen
            log.exception("engine step with %d sequences failed", len(chunks))
            if len(chunks) == 1:
                return [self._fail(next(iter(chunks)), exc)]
            return [output for one in chunks.items() for output in self._run_alone(*one)]
        return self._commit(chunks, step)

    def check(self) -> None:
        """Re-derive what must hold of blocks and queues (see BlockPool.check)."""
        self.pool.check([sequence.blocks for sequence in self.scheduler.running])
        assert all(not sequence.blocks for sequence in self.scheduler.waiting)

    def _compute(self, chunks: Chunks) -> _Step:
        """Everything that may fail. Changes no sequence."""
        batch = pack(chunks)
        if _is_lone_token(chunks):
            batch = with_companion(batch, self.runner.spare_block)
        masks = self._masks.start(batch.sampled)  # computed while the model runs
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
        """The step happened. What fails here is a mistake of ours, and must not pass for the runner's."""
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
        """One sequence of a step that failed: its chunk again, by itself, to find out whose fault it was."""
        chunks = {sequence: count}
        try:
            step = self._compute(chunks)
        except Exception as exc:
            return [self._fail(sequence, exc)]
        return self._commit(chunks, step)

    def _advance(self, sequence: Sequence, token: int, logprobs: Logprobs | None) -> Output:
        if token < 0:
            self.pool.forget(sequence.blocks)  # nobody shall find keys and values that are perhaps NaN
            return self._fail(sequence, ArithmeticError("the model's output is not a distribution"))
        sequence.first_token_at = sequence.first_token_at or time.perf_counter()
        try:
            sequence.finish_reason = sequence.accept(token)
        except Exception as exc:  # its constraint gave up: a limit of the grammar's parser
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
    """Whether it is the only work of a step, and to be computed as if it were not: for one token alone the
    runtime splits the attention between its threads, and rounds otherwise.
    """
    sequence, count = next(iter(chunks.items()))
    return len(chunks) == 1 and count == 1 and sequence.params.invariant


Masks = tuple[dict[int, NDArray[np.int32]], dict[int, Exception]]


@dataclass(slots=True)
class MaskMaker:
    """Lets constraints compute their masks in a thread of its own, so that a forward pass hides the time."""

    runner: Runner
    _pool: ThreadPoolExecutor | None = None

    def start(self, sequences: Many[Sequence]) -> Future[Masks]:
        """Masks by row, and the rows whose constraint raised. A row without a constraint is in neither."""
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
    """The next rows' worth of prompt tokens, each by the row before it."""
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
