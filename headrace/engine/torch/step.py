"""One forward pass over a packed batch: answers the attention of one layer after another.

Sequences are grouped, and the attention of a group is computed as one operation of torch. Their block tables
and queries are padded to the longest among them, and a mask hides the padding. They are padded further to
sizes at which torch's kernels sum a token's attention alike, however many tokens are beside it: so the cache
has the same bits, whatever the chunks of a prompt, and a seeded answer repeats.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from headrace.engine.batch import Batch
from headrace.engine.torch.attention import Call, NotPageable, Rule, attended, attended_from_start
from headrace.engine.torch.cache import BLOCK_SIZE, Layer, PagedCache, Places
from headrace.engine.torch.rounding import Rounding

FEW = 16  # queries of a sequence, at most, that are computed together with those of others
ROWS = 16  # queries, if more than one, are padded to a multiple of this


@dataclass(frozen=True, slots=True)
class Part:
    """One sequence's tokens of the batch, and its block table."""

    begin: int  # in T
    count: int
    past: int
    table: NDArray[np.int32]

    @property
    def reach(self) -> int:
        return self.past + self.count

    def slots(self) -> NDArray[np.int64]:
        """Where the cache has the part's tokens: block · BLOCK_SIZE + offset."""
        positions = np.arange(self.past, self.reach)
        return self.table[positions // BLOCK_SIZE].astype(np.int64) * BLOCK_SIZE + positions % BLOCK_SIZE


class Group:
    """B sequences of at most Q tokens each, over L positions."""

    def __init__(
        self, parts: Sequence[Part], num_tokens: int, spare: int, device: torch.device, rounding: Rounding
    ) -> None:
        """`num_tokens`: T. `spare`: a block for what is beyond a sequence's table."""
        longest = max(part.count for part in parts)
        reach = max(part.reach for part in parts)
        self.count = len(parts)
        self.queries = 1 if longest == 1 else _up(longest, ROWS)
        is_padded = longest > 1 or rounding.single
        self.length = rounding.padded(reach) if is_padded else _up(reach, BLOCK_SIZE)
        # The first tokens of one sequence: nothing has to be read from the cache.
        self.is_start = len(parts) == 1 and parts[0].past == 0
        self._slice = slice(parts[0].begin, parts[0].begin + parts[0].count)
        blocks = np.full((self.count, self.length // BLOCK_SIZE), spare, np.int64)
        indices = np.full((self.count, self.queries), num_tokens, np.int64)  # into T
        positions = np.zeros((self.count, self.queries), np.int64)
        for row, part in enumerate(parts):
            own_blocks = part.table[: blocks.shape[1]]
            blocks[row, : len(own_blocks)] = own_blocks
            indices[row, : part.count] = np.arange(part.begin, part.begin + part.count)
            positions[row, : part.count] = np.arange(part.past, part.reach)
        self.is_whole = np.array_equal(indices.ravel(), np.arange(num_tokens))
        self.places = Places(torch.from_numpy(blocks).to(device))
        self.indices = torch.from_numpy(indices.ravel()).to(device)  # T, which is none, for padding
        self._sources = self.indices.clamp(max=num_tokens - 1)
        self._positions = torch.from_numpy(positions).to(device)
        self._masks: dict[tuple[Rule, int | None, torch.dtype], torch.Tensor | None] = {}
        self._triangles: dict[tuple[Rule, int | None], bool] = {}

    def own(self, packed: torch.Tensor) -> torch.Tensor:
        """The group's part of packed[1, heads, T, width]: [B, heads, Q, width]."""
        if self.count == 1 and self._slice.stop - self._slice.start == self.queries:
            return packed[:, :, self._slice]
        chosen = packed[0] if self.is_whole else packed[0].index_select(1, self._sources)
        return chosen.reshape(packed.shape[1], self.count, self.queries, -1).transpose(0, 1)

    def keys(self, packed: torch.Tensor) -> torch.Tensor:
        """The group's part of packed[1, heads, T, width], where it is the start of one sequence, with zeros
        after it: [1, heads, L, width].
        """
        part = packed[:, :, self._slice]
        return nn.functional.pad(part, (0, 0, 0, self.length - part.shape[2]))

    def mask(self, call: Call, dtype: torch.dtype) -> torch.Tensor | None:
        """What is added to the scores: [B, 1, Q, L] of 0 and -∞; None: nothing is masked. Layers that see
        alike share it.
        """
        key = (call.rule, call.window, dtype)
        if key not in self._masks:
            seen = self._seen(call)
            blank = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
            self._masks[key] = None if seen.all() else blank.masked_fill_(~seen, float("-inf"))
        return self._masks[key]

    def is_triangle(self, call: Call) -> bool:
        """Whether each token sees all tokens before it."""
        key = (call.rule, call.window)
        if key not in self._triangles:
            self._triangles[key] = bool((self._seen(call) == self._is_before()).all())
        return self._triangles[key]

    def _seen(self, call: Call) -> torch.Tensor:
        """Which query sees which key: [B, 1, Q, L]."""
        queries, keys = self._places()
        seen = self._is_before()
        if call.window is not None:
            seen = seen & (keys > queries - call.window)
        if call.rule.function is not None:
            zero = torch.zeros((), dtype=torch.int64, device=queries.device)
            seen = seen & call.rule.function(zero, zero, queries, keys)
        return seen

    def _is_before(self) -> torch.Tensor:
        queries, keys = self._places()
        return keys <= queries

    def _places(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions of the queries [B, 1, Q, 1], and of the keys [L]."""
        return self._positions[:, None, :, None], torch.arange(self.length, device=self._positions.device)


def parts(batch: Batch) -> list[Part]:
    """The batch's sequences, in their order."""
    begins, tables = batch.subsequence_begins.tolist(), batch.block_indices_begins.tolist()
    return [
        Part(begins[i], begins[i + 1] - begins[i], past, batch.block_indices[tables[i] : tables[i + 1]])
        for i, past in enumerate(batch.past_lens.tolist())
    ]


def grouped(parts: Sequence[Part]) -> list[list[Part]]:
    """Put sequences of one token, and those of few tokens, and similar lengths together, in their order; each
    other one stands alone.

    Lengths in a group differ by a factor of two at most, so padding at most doubles the work.
    """
    groups: dict[tuple[str, int], list[Part]] = defaultdict(list)
    for number, part in enumerate(parts):
        if part.count == 1:
            groups["one", _size(part)].append(part)
        elif part.count <= FEW:
            groups["few", _size(part)].append(part)
        else:
            groups["alone", number].append(part)
    return list(groups.values())


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def _size(part: Part) -> int:
    return (-(-part.reach // BLOCK_SIZE) - 1).bit_length()


class Step:
    """Writes the keys and values of T tokens, and attends to those of all tokens before them."""

    def __init__(self, batch: Batch, cache: PagedCache, device: torch.device, rounding: Rounding) -> None:
        self._cache, self._rounding, self._num_done = cache, rounding, 0
        self._num_tokens = len(batch.input_ids)
        chunks = parts(batch)
        slots = torch.from_numpy(np.concatenate([part.slots() for part in chunks])).to(device)
        self._places = Places(slots // BLOCK_SIZE, slots % BLOCK_SIZE)
        self._groups = [
            Group(group, self._num_tokens, cache.num_blocks, device, rounding) for group in grouped(chunks)
        ]

    def attend(self, call: Call) -> torch.Tensor:
        layer = self._take(call)
        if layer.writes:
            self._cache.write(layer, self._places, call)
        if len(self._groups) == 1 and self._groups[0].is_whole:
            part = self._of_group(self._groups[0], layer, call)
            return part.reshape(1, self._num_tokens, *part.shape[2:])
        heads, width = call.query.shape[1], call.value.shape[3]
        out = call.query.new_empty((self._num_tokens + 1, heads, width))  # the last one for padding
        for group in self._groups:
            part = self._of_group(group, layer, call)
            out.index_copy_(0, group.indices, part.reshape(-1, heads, width))
        return out[None, : self._num_tokens]

    def _take(self, call: Call) -> Layer:
        """The layer that calls. Raises NotPageable if the pass is not like the first one."""
        layers = self._cache.layout.layers
        if self._num_done == len(layers) or call.query.shape[2] != self._num_tokens:
            raise NotPageable("its layers are not called alike in each pass")
        self._num_done += 1
        return layers[self._num_done - 1]

    def _of_group(self, group: Group, layer: Layer, call: Call) -> torch.Tensor:
        """The attention of the group's sequences: [B, Q, heads, width of values]."""
        query = group.own(call.query)
        is_plain = call.softcap is None and call.sinks is None and self._cache.dtype == call.key.dtype
        starts = group.is_start and is_plain and self._rounding.starts
        if starts and group.is_triangle(call):
            return attended_from_start(query, group.keys(call.key), group.keys(call.value), call)
        dtype = torch.float32 if self._rounding.wide else query.dtype
        key, value = self._cache.read(layer, group.places, group.count, dtype)
        result = attended(query.to(dtype), key, value, group.mask(call, dtype), call, self._rounding.rows)
        return result.to(query.dtype)
