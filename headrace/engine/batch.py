"""The work of one step as flat arrays: chunks of many sequences packed one after another, no padding."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from headrace.engine.scheduler import Chunks
from headrace.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Batch:
    """Shapes: T tokens in all, S sequences, B block-table entries in all, R rows of logits, H hidden rows."""

    sequences: tuple[Sequence, ...]
    sampled: tuple[Sequence, ...]  # those that get a token, one for each of the first rows
    scored: tuple[tuple[Sequence, slice], ...]  # whose prompt tokens are scored, by which rows
    pooled: tuple[tuple[Sequence, slice], ...]  # whose hidden states are wanted, in which hidden rows
    completed: tuple[Sequence, ...]  # those that end with this step, without a token
    input_ids: NDArray[np.int64]  # [T]
    position_ids: NDArray[np.int64]  # [T]
    past_lens: NDArray[np.int32]  # [S] tokens already in the cache
    subsequence_begins: NDArray[np.int32]  # [S + 1] where each chunk begins in T
    block_indices: NDArray[np.int32]  # [B]
    block_indices_begins: NDArray[np.int32]  # [S + 1] where each block table begins in B
    max_context_len: NDArray[np.int32]  # []
    rows: NDArray[np.int64]  # [R] the tokens of T whose logits are wanted
    hidden_rows: NDArray[np.int64]  # [H] the tokens of T whose last hidden states are wanted


def pack(chunks: Chunks) -> Batch:
    sequences = tuple(chunks)
    past = [sequence.num_computed for sequence in sequences]
    counts = list(chunks.values())
    ends = np.cumsum([0, *counts], dtype=np.int64)
    ids: list[int] = []
    blocks: list[int] = []
    table_ends = [0]
    for sequence, start, count in zip(sequences, past, counts, strict=True):
        ids += sequence.tokens[start : start + count]
        blocks += sequence.blocks
        table_ends.append(len(blocks))
    last = [i for i, sequence in enumerate(sequences) if sequence.num_pending == counts[i]]
    sampled = [i for i in last if sequences[i].params.max_tokens]
    positions = np.arange(len(ids), dtype=np.int64) + np.repeat(np.array(past, np.int64) - ends[:-1], counts)
    rows, hidden = _Rows(ends[1:][sampled] - 1), _Rows(np.zeros(0, np.int64))
    for i, sequence in enumerate(sequences):
        begin = int(ends[i]) - past[i]  # where its first token would stand in T
        rows.add(sequence, begin, _scored(sequence, past[i] + counts[i]))
        hidden.add(sequence, begin, _pooled(sequence, past[i], past[i] + counts[i]))
    return Batch(
        sequences=sequences,
        sampled=tuple(sequences[i] for i in sampled),
        scored=tuple(rows.added),
        pooled=tuple(hidden.added),
        completed=tuple(sequences[i] for i in last if not sequences[i].params.max_tokens),
        input_ids=np.array(ids, np.int64),
        position_ids=positions,
        past_lens=np.array(past, np.int32),
        subsequence_begins=ends.astype(np.int32),
        block_indices=np.array(blocks, np.int32),
        block_indices_begins=np.array(table_ends, np.int32),
        max_context_len=np.array(max(a + b for a, b in zip(past, counts, strict=True)), np.int32),
        rows=rows.all(),
        hidden_rows=hidden.all(),
    )


def with_companion(batch: Batch, block: int) -> Batch:
    """The same work beside one more token, in a block that nobody holds. Nothing of it is wanted."""
    return replace(
        batch,
        input_ids=np.append(batch.input_ids, np.int64(0)),
        position_ids=np.append(batch.position_ids, np.int64(0)),
        past_lens=np.append(batch.past_lens, np.int32(0)),
        subsequence_begins=np.append(batch.subsequence_begins, np.int32(len(batch.input_ids) + 1)),
        block_indices=np.append(batch.block_indices, np.int32(block)),
        block_indices_begins=np.append(batch.block_indices_begins, np.int32(len(batch.block_indices) + 1)),
    )


def _scored(sequence: Sequence, end: int) -> range:
    """The prompt positions before `end` whose logits score the token after them, and have not yet."""
    if not sequence.params.prompt_logprobs:
        return range(0)
    return range(sequence.num_observed, min(end, sequence.num_prompt - 1))


def _pooled(sequence: Sequence, start: int, end: int) -> range:
    """The positions of the chunk whose hidden states become part of the vector."""
    if sequence.pooling == "mean":
        return range(sequence.num_observed, end)
    wanted = {"cls": 0, "last": sequence.num_prompt - 1}.get(sequence.pooling or "", -1)
    is_new = start <= wanted < end and sequence.num_observed <= wanted  # a preempted one is computed twice
    return range(wanted, wanted + 1) if is_new else range(0)


class _Rows:
    """Rows of a step, and which of them are whose."""

    def __init__(self, first: NDArray[np.int64]) -> None:
        self._parts = [first]
        self._size = len(first)
        self.added: list[tuple[Sequence, slice]] = []

    def add(self, sequence: Sequence, begin: int, positions: range) -> None:
        if positions:
            self._parts.append(np.arange(begin + positions.start, begin + positions.stop, dtype=np.int64))
            self.added.append((sequence, slice(self._size, self._size + len(positions))))
            self._size += len(positions)

    def all(self) -> NDArray[np.int64]:
        return np.concatenate(self._parts)
