"""The engine: sequences in, one step at a time, tokens out. Synchronous; whoever calls it owns the thread."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.engine.batch import Batch, pack
from headrace.engine.blocks import BlockPool
from headrace.engine.runner import Runner
from headrace.engine.sampler import sample
from headrace.engine.scheduler import Chunks, Scheduler
from headrace.engine.sequence import FinishReason, Sequence

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Output:
    """One token of one sequence, or its end without a token (an error)."""

    sequence: Sequence
    token: int | None
    finish_reason: FinishReason | None


class Engine:
    def __init__(
        self, runner: Runner, *, max_num_seqs: int = 32, max_batch_tokens: int = 512, salt: bytes = b""
    ) -> None:
        self.runner = runner
        self.pool = BlockPool(runner.num_blocks, runner.block_size)
        self.scheduler = Scheduler(
            self.pool,
            max_num_seqs=max_num_seqs,
            max_batch_tokens=max(max_batch_tokens, max_num_seqs),
            salt=salt,
        )

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
        try:
            computed = self._compute(chunks)
        except Exception as exc:  # out of memory, a runtime error: this step did not happen
            log.exception("engine step with %d sequences failed", len(chunks))
            if len(chunks) == 1:
                return [self._fail(next(iter(chunks)), exc)]
            return [output for one in chunks.items() for output in self._run_alone(*one)]
        return self._commit(chunks, *computed)

    def check(self) -> None:
        """Re-derive what must hold of blocks and queues (see BlockPool.check)."""
        self.pool.check([sequence.blocks for sequence in self.scheduler.running])
        assert all(not sequence.blocks for sequence in self.scheduler.waiting)

    def _compute(self, chunks: Chunks) -> tuple[Batch, NDArray[np.int64]]:
        """The batch and a token for each of its rows. May fail; changes no sequence's tokens."""
        batch = pack(chunks)
        logits = self.runner.forward(batch)
        return batch, sample(logits, batch.sampled) if batch.sampled else _NONE

    def _commit(self, chunks: Chunks, batch: Batch, tokens: NDArray[np.int64]) -> list[Output]:
        """The step happened. What fails here is a mistake of ours, and must not pass for the runner's."""
        self.scheduler.commit(chunks)
        return [
            self._advance(sequence, int(token)) for sequence, token in zip(batch.sampled, tokens, strict=True)
        ]

    def _run_alone(self, sequence: Sequence, count: int) -> list[Output]:
        """One sequence of a step that failed: its chunk again, by itself, to find out whose fault it was."""
        chunks = {sequence: count}
        try:
            computed = self._compute(chunks)
        except Exception as exc:
            return [self._fail(sequence, exc)]
        return self._commit(chunks, *computed)

    def _advance(self, sequence: Sequence, token: int) -> Output:
        if token < 0:
            return self._fail(sequence, ArithmeticError("the model's output is not a distribution"))
        sequence.finish_reason = sequence.accept(token)
        if sequence.finish_reason is not None:
            self.scheduler.remove(sequence)
        return Output(sequence, token, sequence.finish_reason)

    def _fail(self, sequence: Sequence, exc: Exception) -> Output:
        sequence.finish_reason, sequence.error = "error", type(exc).__name__
        self.scheduler.remove(sequence)
        return Output(sequence, None, "error")


_NONE: NDArray[np.int64] = np.zeros(0, np.int64)
