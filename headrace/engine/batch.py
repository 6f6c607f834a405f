"""The work of one step as flat arrays: chunks of many sequences packed one after another, no padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.engine.scheduler import Chunks
from headrace.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Batch:
    """Shapes: T tokens in all, S sequences, B block-table entries in all, R rows to sample."""

    sequences: tuple[Sequence, ...]
    sampled: tuple[Sequence, ...]  # those whose chunk ends at their last token, one per row
    input_ids: NDArray[np.int64]  # [T]
    position_ids: NDArray[np.int64]  # [T]
    past_lens: NDArray[np.int32]  # [S] tokens already in the cache
    subsequence_begins: NDArray[np.int32]  # [S + 1] where each chunk begins in T
    block_indices: NDArray[np.int32]  # [B]
    block_indices_begins: NDArray[np.int32]  # [S + 1] where each block table begins in B
    max_context_len: NDArray[np.int32]  # []
    rows: NDArray[np.int64]  # [R] the token of T whose logits are wanted, for each of `sampled`


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
    sampled = [i for i, sequence in enumerate(sequences) if sequence.num_pending == counts[i]]
    positions = np.arange(len(ids), dtype=np.int64) + np.repeat(np.array(past, np.int64) - ends[:-1], counts)
    return Batch(
        sequences=sequences,
        sampled=tuple(sequences[i] for i in sampled),
        input_ids=np.array(ids, np.int64),
        position_ids=positions,
        past_lens=np.array(past, np.int32),
        subsequence_begins=ends.astype(np.int32),
        block_indices=np.array(blocks, np.int32),
        block_indices_begins=np.array(table_ends, np.int32),
        max_context_len=np.array(max(a + b for a, b in zip(past, counts, strict=True)), np.int32),
        rows=ends[1:][sampled] - 1,
    )
