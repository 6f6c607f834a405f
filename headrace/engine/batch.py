"""The work of one step as flat arrays: chunks of many sequences, packed one after another without padding.

With two chunks, of 3 tokens (2 in the cache before) and of 1 (5 before), and blocks of 4 tokens:

    input_ids             a2 a3 a4 b5     T = 4
    position_ids           2  3  4  5
    past_lens             [2, 5]          S = 2
    subsequence_begins    [0, 3, 4]
    block_indices         [a's 2 blocks, b's 2 blocks]    B = 4
    block_indices_begins  [0, 2, 4]

These are the inputs of OpenVINO's paged attention; the names are its own. After the step, `read_states` hands
what probes read in the hidden states to the sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from headrace.engine.edits import LayerEdits, Span, collect, with_tokens
from headrace.engine.probing import Source
from headrace.engine.scheduler import Chunks
from headrace.engine.sequence import Sequence

Floats = NDArray[np.float32]
States = Callable[[int], Floats]  # the runner's, by layer


@dataclass(frozen=True, slots=True)
class Batch:
    """Shapes: T tokens, S sequences (an invariant one with a draft counts once for each token), B block-table
    entries, R rows of logits, H rows of hidden states; T and B are sums over the sequences.
    """

    # Invariants: subsequence_begins[-1] == T, block_indices_begins[-1] == B. Each block table covers
    # past_lens + chunk tokens; the kernel does not check, and writes past a shorter one.
    sequences: tuple[Sequence, ...]
    # the sequences that get tokens, and their rows of logits: one, and one for each token of the draft
    sampled: tuple[tuple[Sequence, slice], ...]
    scored: tuple[tuple[Sequence, slice], ...]  # sequences with prompt_logprobs, and their rows of logits
    pooled: tuple[tuple[Sequence, slice], ...]  # sequences that embed, and their rows of hidden states
    completed: tuple[Sequence, ...]  # sequences with max_tokens 0 whose last prompt token is in this step
    input_ids: NDArray[np.int64]  # [T]
    position_ids: NDArray[np.int64]  # [T]
    past_lens: NDArray[np.int32]  # [S] tokens already in the cache
    subsequence_begins: NDArray[np.int32]  # [S + 1] where each chunk begins in T
    block_indices: NDArray[np.int32]  # [B]
    block_indices_begins: NDArray[np.int32]  # [S + 1] where each block table begins in B
    max_context_len: NDArray[np.int32]  # []
    rows: NDArray[np.int64]  # [R] indices into T: the tokens whose logits are computed, sampled ones first
    hidden_rows: NDArray[np.int64]  # [H] indices into T: the tokens whose last hidden states are returned
    edits: Mapping[int, LayerEdits] = field(default_factory=dict)  # by layer: how hidden states are changed
    read: tuple[Read, ...] = ()  # sequences whose hidden states are read
    # [rows] by layer, indices into T: the tokens whose hidden states are read there
    read_rows: Mapping[int, NDArray[np.int64]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Read:
    """Hidden states of one sequence at one layer. `rows`: where they are in `read_rows[layer]`; `start`: the
    position of the first of them.
    """

    sequence: Sequence
    layer: int
    rows: slice
    start: int


def pack(chunks: Chunks) -> Batch:
    """Lay out the chunks that the scheduler chose, each with its draft. Their blocks are reserved; no
    sequence is changed.
    """
    past = [sequence.num_computed for sequence in chunks]
    counts = [count + len(sequence.draft) for sequence, count in chunks.items()]
    ends = np.cumsum([0, *counts], dtype=np.int64)
    ids: list[int] = []
    for sequence, count in chunks.items():
        ids += sequence.tokens[sequence.num_computed : sequence.num_computed + count]
        ids += sequence.draft
    pieces = [piece for sequence, count in chunks.items() for piece in _pieces(sequence, count)]
    blocks = [block for piece in pieces for block in piece.blocks]
    reaches = [start + count for start, count in zip(past, counts, strict=True)]
    # Where each sequence's token 0 is in T, or would be: negative when enough is cached.
    begins = ends[:-1] - np.array(past, np.int64)
    parts = list(zip(chunks, begins.tolist(), past, reaches, strict=True))
    rows, hidden = _Rows(), _Rows()
    reads, read_rows = _reads(parts)
    return Batch(
        sequences=tuple(chunks),
        sampled=tuple(
            (s, rows.add(begin, _sampled(s))) for s, begin, _, reach in parts if _is_sampled(s, reach)
        ),
        scored=tuple(
            (s, rows.add(begin, positions))
            for s, begin, _, reach in parts
            if (positions := _scored(s, reach))
        ),
        pooled=tuple(
            (s, hidden.add(begin, positions))
            for s, begin, start, reach in parts
            if (positions := _pooled(s, start, reach))
        ),
        completed=tuple(s for s, _, _, reach in parts if reach == s.num_prompt and not s.params.max_tokens),
        input_ids=np.array(ids, np.int64),
        position_ids=np.arange(len(ids), dtype=np.int64) - np.repeat(begins, counts),
        past_lens=np.array([piece.past for piece in pieces], np.int32),
        subsequence_begins=_begins([piece.count for piece in pieces]),
        block_indices=np.array(blocks, np.int32),
        block_indices_begins=_begins([len(piece.blocks) for piece in pieces]),
        max_context_len=np.array(max(reaches), np.int32),
        rows=rows.all(),
        hidden_rows=hidden.all(),
        edits=collect((_span(*part) for part in parts if part[0].plan is not None), len(ids)),
        read=reads,
        read_rows=read_rows,
    )


@dataclass(frozen=True, slots=True)
class _Piece:
    """What the runtime takes for a sequence: `count` tokens after `past` ones, and their blocks."""

    past: int
    count: int
    blocks: list[int]


def _pieces(sequence: Sequence, count: int) -> list[_Piece]:
    """A sequence's chunk and draft as the runtime gets it: in one piece, as a rule.

    An invariant sequence's are as many pieces as tokens. Each layer writes the keys and values of all tokens
    of the step before it attends to any; so each token finds those before it, and takes the kernel, and
    rounds its sums, as it would in a step of its own.
    """
    start, size = sequence.num_computed, count + len(sequence.draft)
    if sequence.draft and sequence.params.invariant:
        return [_Piece(start + place, 1, sequence.blocks) for place in range(size)]
    return [_Piece(start, size, sequence.blocks)]


def _begins(counts: list[int]) -> NDArray[np.int32]:
    """Where each begins, and the last one ends."""
    return np.cumsum([0, *counts], dtype=np.int32)


Part = tuple[
    Sequence, int, int, int
]  # a sequence, where its token 0 would be in T, its chunk's start and end


def _span(sequence: Sequence, begin: int, start: int, end: int) -> Span:
    """The chunk of a steered sequence, with its draft."""
    assert sequence.plan is not None
    tokens = [*sequence.tokens[start:end], *sequence.draft]
    return Span(sequence.plan, begin + start, start, end, tokens, sequence.flags)


def _reads(parts: list[Part]) -> tuple[tuple[Read, ...], dict[int, NDArray[np.int64]]]:
    """The hidden states that the step reads, each of them once."""
    reads: list[Read] = []
    rows: dict[int, _Rows] = {}
    for sequence, begin, start, end in parts:
        first = max(start, sequence.num_read)
        if first < end:
            for layer in sequence.read_layers:
                taken = rows.setdefault(layer, _Rows()).add(begin, range(first, end))
                reads.append(Read(sequence, layer, taken, first))
    return tuple(reads), {layer: of_layer.all() for layer, of_layer in rows.items()}


def invariant(batch: Batch, block: int, least: int) -> Batch:
    """The batch in a shape that the runtime rounds like any other: it has special kernels for fewer than
    `least` tokens, and for fewer rows of logits (docs/determinism.md). `block`: a spare one, for more tokens.
    """
    missing = least - len(batch.input_ids)
    if missing > 0:
        batch = _with_companions(batch, block, missing)
    missing = least - len(batch.rows)
    if len(batch.rows) and missing > 0:
        batch = replace(batch, rows=np.pad(batch.rows, (0, missing), mode="edge"))
    return batch


def _with_companions(batch: Batch, block: int, count: int) -> Batch:
    """The batch with this many more tokens, each as a sequence of its own whose output is not requested. All
    of them write to one place in the spare block, which is never read.
    """
    more = np.arange(1, count + 1, dtype=np.int32)
    return replace(
        batch,
        input_ids=np.pad(batch.input_ids, (0, count)),
        position_ids=np.pad(batch.position_ids, (0, count)),
        past_lens=np.pad(batch.past_lens, (0, count)),
        subsequence_begins=np.append(batch.subsequence_begins, len(batch.input_ids) + more),
        block_indices=np.append(batch.block_indices, np.full(count, block, np.int32)),
        block_indices_begins=np.append(batch.block_indices_begins, len(batch.block_indices) + more),
        edits=with_tokens(batch.edits, count),
    )


def one_token(block: int, copies: int = 1, rows: int = 2) -> Batch:
    """A batch of token 0 in a block that is never read; or of so many sequences of it, all in the same
    place. `rows`: the most rows of logits.
    """
    zeros, begins = np.zeros(copies, np.int64), np.arange(copies + 1, dtype=np.int32)
    return Batch(
        sequences=(), sampled=(), scored=(), pooled=(), completed=(),
        input_ids=zeros,
        position_ids=zeros,
        past_lens=np.zeros(copies, np.int32),
        subsequence_begins=begins,
        block_indices=np.full(copies, block, np.int32),
        block_indices_begins=begins,
        max_context_len=np.array(1, np.int32),
        rows=np.arange(min(rows, copies), dtype=np.int64),
        hidden_rows=zeros[:0],
    )  # fmt: skip


def _is_sampled(sequence: Sequence, reach: int) -> bool:
    """Whether a chunk up to the position `reach` gives the sequence tokens: only if it contains the last one
    that is known, because the rows before that predict known tokens.
    """
    return reach >= len(sequence.tokens) and sequence.params.max_tokens > 0


def _sampled(sequence: Sequence) -> range:
    """The positions of the last known token and of the draft's tokens."""
    return range(len(sequence.tokens) - 1, len(sequence.tokens) + len(sequence.draft))


def _scored(sequence: Sequence, end: int) -> range:
    """The prompt positions before `end` whose logits score the token after them, without those that an
    earlier step scored.
    """
    if not sequence.params.prompt_logprobs:
        return range(0)
    return range(sequence.num_observed, min(end, sequence.num_prompt - 1))


def _pooled(sequence: Sequence, start: int, end: int) -> range:
    """The positions of the chunk whose hidden states go into the sequence's vector. Each counts once: a
    preempted sequence computes its tokens again, which must not enter a mean a second time.
    """
    if sequence.pooling == "mean":
        return range(sequence.num_observed, end)
    wanted = {"cls": 0, "last": sequence.num_prompt - 1}.get(sequence.pooling or "", -1)
    is_new = start <= wanted < end and sequence.num_observed <= wanted
    return range(wanted, wanted + 1) if is_new else range(0)


class _Rows:
    """Collects the rows of a step: indices into T."""

    def __init__(self) -> None:
        self._indices: list[int] = []

    def add(self, begin: int, positions: range) -> slice:
        """Add the positions of a sequence that begins at `begin` in T. Returns the slice of their rows."""
        first = len(self._indices)
        self._indices.extend(range(begin + positions.start, begin + positions.stop))
        return slice(first, len(self._indices))

    def all(self) -> NDArray[np.int64]:
        return np.array(self._indices, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The tokens of one sequence that a step computed: `count` from the position `start` on. `rows`: where
    they are in the runner's states, by layer; those of a draft's rejected tokens follow them.
    """

    sequence: Sequence
    start: int
    count: int
    rows: dict[int, slice] = field(default_factory=dict)

    def states(self, states: States, layer: int) -> Floats:
        return states(layer)[self.rows[layer]][: self.count]


def read_states(reads: Iterable[Read], states: States, unedited: States) -> None:
    """Append what was read to the `readings` of each sequence. The step has been committed. `unedited`: the
    states before the edits, by layer.
    """
    states, unedited = cache(states), cache(unedited)  # each is a search among the runtime's outputs
    parts: dict[Sequence, _Part] = {}
    for read in reads:
        sequence = read.sequence
        count = sequence.num_computed - read.start
        parts.setdefault(sequence, _Part(sequence, read.start, count)).rows[read.layer] = read.rows
    numbers = _computed(parts.values(), states)
    for sequence, part in parts.items():
        end = part.start + part.count
        if sequence.achieved is not None:
            tokens = sequence.tokens[part.start : end]
            before, after = partial(part.states, unedited), partial(part.states, states)
            sequence.achieved.add(before, after, tokens, part.start, sequence.flags)
        columns = [
            prober.read(numbers[sequence, prober.source.key], part.start) for prober in sequence.probers
        ]
        sequence.readings += enumerate(zip(*columns, strict=True), part.start)
        sequence.num_read = end


def _computed(parts: Iterable[_Part], states: States) -> dict[tuple[Sequence, Hashable], Floats]:
    """What each source computes of each sequence's tokens: once for all that have it, because a product of
    matrices with many rows takes little longer than with one.
    """
    sources: dict[Hashable, tuple[Source, list[_Part]]] = {}
    for part in parts:
        for source in {prober.source.key: prober.source for prober in part.sequence.probers}.values():
            sources.setdefault(source.key, (source, []))[1].append(part)
    computed: dict[tuple[Sequence, Hashable], Floats] = {}
    for key, (source, its_parts) in sources.items():
        numbers = source.compute(np.concatenate([part.states(states, source.layer) for part in its_parts]))
        begin = 0
        for part in its_parts:
            computed[part.sequence, key] = numbers[begin : begin + part.count]
            begin += part.count
    return computed
