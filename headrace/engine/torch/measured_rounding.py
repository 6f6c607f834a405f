"""Measures, on the processor that is there, in which ways torch rounds a token's numbers alike, whatever is
beside it: products of matrices in pieces of how many rows, attention padded to which sizes.

Measured with random numbers in the shapes of the model. A few milliseconds for each different shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from headrace.engine.batch import Batch, one_token
from headrace.engine.torch.attention import PLAIN, Call, attended
from headrace.engine.torch.cache import BLOCK_SIZE, Layer, Layout, PagedCache
from headrace.engine.torch.rounding import ALL_SIZES, PIECE, UNLIMITED, Rounding
from headrace.engine.torch.step import Step

ROWS = (1024, 64, 32, 16)  # of products: the pieces that are tried; the first stands for any number
WORK = 2**35  # products of numbers, about, that a matrix is tried with: of large ones, fewer rows
OUTPUTS = 2**14  # of a matrix that has more, as many are tried
PARTS = (2, 3, 15, 16, 17, 31, 33, 48, 65, 100, 256, 512)  # rows of the products that are compared with them
LENGTH = 600  # tokens whose attention is compared
CHUNKS = ((0, 2), (2, 18), (18, 51), (51, 100), (100, 400), (400, 433), (433, LENGTH))
SINGLES = (1, 33, 100, 130, 250, 270, 300, 333, 400, 470, 550, 599)
# Of attention, the fastest first.
WAYS = (
    Rounding(single=True),
    Rounding(single=True, rows=32),
    Rounding(single=True, rows=32, starts=False),
    Rounding(single=True, rows=32, starts=False, wide=True),
)
QUERIES = (1, 2, 16, 48, 200)  # rows of the sums whose sizes are compared

Multiply = Callable[[torch.Tensor], torch.Tensor]  # rows[T, inputs] → [T, outputs]


def piece(pack: Callable[[torch.Tensor], Multiply], shape: tuple[int, int], dtype: torch.dtype) -> int:
    """The most rows, from two on, that a product with a matrix of that shape may have to round each as it
    would with fewer; UNLIMITED: as many as a step has. 1: no two products need be alike.

    The products of the one half of each sum are those of the other half, negative, in another order: so
    nothing is left of it but what rounding adds, in the order in which the kernel takes them.
    """
    outputs, inputs = min(shape[0], OUTPUTS), shape[1]
    half = inputs // 2
    order = torch.randperm(half, generator=torch.Generator().manual_seed(half))
    matrix = _random((outputs, inputs), dtype)
    matrix[:, half : 2 * half] = -matrix[:, order]
    multiply = pack(matrix)
    tried = max(ROWS[1] + 1, min(ROWS[0], WORK // (outputs * inputs)))
    rows = _random((tried, inputs), dtype)
    rows[:, half : 2 * half] = rows[:, order]
    rows[:, 2 * half :] = matrix[:, 2 * half :] = 0
    for most in ROWS:
        whole = multiply(rows[:most])
        if all(_is_part(multiply(rows[:most][-n:]), whole) for n in PARTS if n < len(whole)):
            return UNLIMITED if most == ROWS[0] else most
    return 1


def rounding(calls: Sequence[Call], cache: torch.dtype) -> Rounding | None:
    """The fastest way in which the attention of such calls is alike, with a KV cache of that type; None:
    there is none.
    """
    for way in WAYS:
        sizes = set(ALL_SIZES).intersection(*(_sizes(call, way) for call in calls))
        measured = replace(way, sizes=tuple(sorted(sizes)))
        if all(_is_alike(call, measured, cache, paired=paired) for call in calls for paired in (False, True)):
            return measured
    return None


def _sizes(call: Call, way: Rounding) -> Iterator[int]:
    """The numbers of keys whose sums are in the order of PIECE."""
    dtype = torch.float32 if way.wide else call.query.dtype
    query, key, value = _tensors(call, PIECE, dtype, paired=True)
    for size in ALL_SIZES:
        keys = torch.arange(PIECE)
        if all(
            torch.equal(
                attended(query[:, :, :n], key[:, :, :size], value[:, :, :size], None, call, way.rows),
                attended(query[:, :, :n], key, value, _hiding(keys >= size, n, dtype), call, way.rows),
            )
            for n in QUERIES
            if size
        ):
            yield size


def _hiding(hidden: torch.Tensor, queries: int, dtype: torch.dtype) -> torch.Tensor:
    blank = torch.zeros((1, 1, queries, len(hidden)), dtype=dtype)
    return blank.masked_fill_(hidden, float("-inf"))


def _is_alike(call: Call, way: Rounding, cache: torch.dtype, *, paired: bool) -> bool:
    """Whether a sequence's attention is the same computed at once, in chunks, and token by token."""
    query, key, value = _tensors(call, LENGTH, call.query.dtype, paired=paired)
    shapes = tuple((int(part.shape[1]), int(part.shape[3])) for part in (key, value))
    layout = Layout((Layer(0, writes=True),), ((shapes[0], shapes[1]),), ())
    paged = PagedCache(layout, LENGTH // BLOCK_SIZE + 1, cache, query.device)

    def attend(*chunks: tuple[int, int]) -> torch.Tensor:
        places = torch.cat([torch.arange(*chunk) for chunk in chunks])
        parts = (part[:, :, places] for part in (query, key, value))
        step = Step(_batch(chunks), paged, query.device, way)
        return step.attend(
            replace(call, **dict(zip(("query", "key", "value"), parts, strict=True)), rule=PLAIN, window=None)
        )

    whole = attend((0, LENGTH))
    singles = [(at, at + 1) for at in SINGLES]
    steps = [[chunk] for chunk in (*CHUNKS, *singles)] + [singles, [*singles[:5], CHUNKS[-1]]]
    return all(
        torch.equal(attend(*chunks), torch.cat([whole[:, slice(*chunk)] for chunk in chunks], 1))
        for chunks in steps
    )


def _batch(chunks: Sequence[tuple[int, int]]) -> Batch:
    """Of one sequence, whose blocks are the cache's in their order: the tokens of each chunk."""
    counts = [end - begin for begin, end in chunks]
    blocks = -(-LENGTH // BLOCK_SIZE)
    return replace(
        one_token(0),
        input_ids=np.zeros(sum(counts), np.int64),
        position_ids=np.concatenate([np.arange(*chunk) for chunk in chunks]),
        past_lens=np.array([begin for begin, _ in chunks], np.int32),
        subsequence_begins=np.cumsum([0, *counts], dtype=np.int32),
        block_indices=np.tile(np.arange(blocks, dtype=np.int32), len(chunks)),
        block_indices_begins=np.arange(len(chunks) + 1, dtype=np.int32) * blocks,
    )


def _tensors(call: Call, length: int, dtype: torch.dtype, *, paired: bool) -> list[torch.Tensor]:
    """Random queries, keys and values of a call for so many tokens.

    `paired`: in each block one half of the keys are those of the other half, with negative values. As in
    `piece`, what is left of the sums shows the order in which the kernel adds; other numbers of few bits
    seldom show it.
    """
    query, key, value = (
        _random((1, part.shape[1], length, part.shape[3]), dtype)
        for part in (call.query, call.key, call.value)
    )
    if paired:
        generator = torch.Generator().manual_seed(length)
        for begin in range(0, length - BLOCK_SIZE + 1, BLOCK_SIZE):
            ones, others = (begin + torch.randperm(BLOCK_SIZE, generator=generator)).chunk(2)
            key[:, :, others], value[:, :, others] = key[:, :, ones], -value[:, :, ones]
    return [query, key, value]


def _random(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape) + shape[-1])
    return torch.randn(shape, generator=generator).to(dtype)


def _is_part(part: torch.Tensor, whole: torch.Tensor) -> bool:
    """Whether `found` equals the last rows of `whole`, bit for bit."""
    return bool(torch.equal(part, whole[len(whole) - len(part) :]))
