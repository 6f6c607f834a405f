"""The keys and values of all layers, in blocks, as torch tensors.

Their shapes come from the keys and values of a first pass, not from the model's configuration, which
describes them in a different way for each architecture. The layers of a model are distinguished by their
order in the pass. A layer that passes the very tensors of an earlier one shares its cache (Gemma 3n).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
import torch

from headrace.engine.torch.attention import Call, NotPageable, attended_from_start

Shape = tuple[int, ...]
BLOCK_SIZE = 32  # tokens


class Places:
    """Where a pass finds blocks, or tokens, of each head. Computed once for all layers with as many heads."""

    def __init__(self, blocks: torch.Tensor, offsets: torch.Tensor | None = None) -> None:
        """blocks[..., n]; of tokens, the blocks that they are in, and their offsets[n] there."""
        self._blocks, self._offsets = blocks, offsets
        self._known: dict[int, torch.Tensor] = {}

    def of(self, heads: int) -> torch.Tensor:
        """Indices into the blocks, or tokens, of one head: [... · heads · n]."""
        if heads not in self._known:
            each = torch.arange(heads, device=self._blocks.device)[:, None]
            places = self._blocks[..., None, :] * heads + each
            if self._offsets is not None:
                places = places * BLOCK_SIZE + self._offsets
            self._known[heads] = places.reshape(-1)
        return self._known[heads]


@dataclass(frozen=True, slots=True)
class Layer:
    """Where a layer's keys and values are kept."""

    place: int  # index into the cache's tensors
    writes: bool  # False: an earlier layer of the pass has written them


@dataclass(frozen=True, slots=True)
class Layout:
    """What a model keeps for each token."""

    layers: tuple[Layer, ...]  # in the order of the pass
    shapes: tuple[tuple[Shape, Shape], ...]  # of a token's keys and of its values: (heads, width)
    calls: tuple[Call, ...]  # one of each kind that the layers make

    @property
    def numbers(self) -> int:
        """Numbers per token, of all layers."""
        return sum(heads * width for pair in self.shapes for heads, width in pair)


class Probe:
    """Answers a first pass over one sequence from its start, and records what the layers keep."""

    def __init__(self) -> None:
        self._layers: list[Layer] = []
        # The tensors are held so that no later one can be at the same address.
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._calls: dict[tuple[object, ...], Call] = {}  # by what their rounding may depend on

    def attend(self, call: Call) -> torch.Tensor:
        index = next((i for i, kept in enumerate(self._kept) if _is_same(kept, call)), None)
        if index is None:
            self._kept.append((call.key, call.value))
        place = len(self._kept) - 1 if index is None else index
        self._layers.append(Layer(place, writes=index is None))
        sizes = (call.query.shape, call.key.shape, call.value.shape)
        self._calls[(*sizes, call.softcap is None, call.sinks is None)] = call
        return attended_from_start(call.query, call.key, call.value, call)

    def layout(self) -> Layout:
        """The layout of keys and values that the attention passed. Raises NotPageable if no attention called
        this probe.
        """
        if not self._layers:
            raise NotPageable("none of its layers calls the attention function")
        shapes = tuple((_per_token(key), _per_token(value)) for key, value in self._kept)
        return Layout(tuple(self._layers), shapes, tuple(self._calls.values()))


class PagedCache:
    """`num_blocks` blocks of each place of the layout, and one block more, for tokens that are never read."""

    def __init__(self, layout: Layout, num_blocks: int, dtype: torch.dtype, device: torch.device) -> None:
        self.layout, self.num_blocks, self.dtype = layout, num_blocks, dtype
        # A head's tokens are beside each other, as the products of matrices want them.
        self._tensors = [
            _zeros((num_blocks + 1, heads, BLOCK_SIZE, width), dtype, device)
            for pair in layout.shapes
            for heads, width in pair
        ]

    def write(self, layer: Layer, places: Places, call: Call) -> None:
        """Store the call's keys and values of T tokens at their places."""
        for tensor, new in zip(self._pair(layer), (call.key, call.value), strict=True):
            _, heads, _, width = tensor.shape
            cells = tensor.view(-1, width)
            cells.index_copy_(0, places.of(heads), new[0].reshape(-1, width).to(tensor.dtype))

    def read(
        self, layer: Layer, places: Places, count: int, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and values of `count` sequences, whose blocks are at `places`: two tensors [count, heads,
        n · BLOCK_SIZE, width].
        """
        parts = []
        for tensor in self._pair(layer):
            _, heads, _, width = tensor.shape
            blocks = tensor.view(-1, BLOCK_SIZE * width).index_select(0, places.of(heads))
            parts.append(blocks.view(count, heads, -1, width).to(dtype))
        return parts[0], parts[1]

    def mend(self, blocks: torch.Tensor) -> None:
        """Make the content of blocks finite: masked numbers that are not would spoil whatever reads them."""
        for tensor in self._tensors:
            tensor[blocks] = torch.nan_to_num(tensor[blocks], nan=0.0, posinf=0.0, neginf=0.0)

    def block_bytes(self) -> list[int]:
        """The bytes of a block in each tensor."""
        return [tensor[0].numel() * tensor.element_size() for tensor in self._tensors]

    def read_block(self, block: int) -> bytes:
        return b"".join(
            tensor[block].contiguous().view(torch.uint8).cpu().numpy().tobytes() for tensor in self._tensors
        )

    def write_block(self, block: int, content: memoryview) -> None:
        ends = [0]
        for size in self.block_bytes():
            ends.append(ends[-1] + size)
        for tensor, (begin, end) in zip(self._tensors, pairwise(ends), strict=True):
            part = torch.frombuffer(bytearray(content[begin:end]), dtype=tensor.dtype)
            tensor[block] = part.view(tensor.shape[1:]).to(tensor.device)

    def copy_block(self, source: int, target: int) -> None:
        for tensor in self._tensors:
            tensor[target] = tensor[source]

    def _pair(self, layer: Layer) -> list[torch.Tensor]:
        return self._tensors[2 * layer.place : 2 * layer.place + 2]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros, because what is masked still takes part in sums: it must be finite. On a CPU the operating
    system provides the memory when a block is first written; torch's own zeros would write all of it.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    blank = np.zeros(prod(shape) * dtype.itemsize, np.uint8)
    return torch.from_numpy(blank).view(dtype).view(shape)


def _is_same(kept: tuple[torch.Tensor, torch.Tensor], call: Call) -> bool:
    pairs = zip(kept, (call.key, call.value), strict=True)
    return all(old.data_ptr() == new.data_ptr() and old.shape == new.shape for old, new in pairs)


def _per_token(tensor: torch.Tensor) -> Shape:
    """(heads, width) of [1, heads, T, width]."""
    return (int(tensor.shape[1]), int(tensor.shape[3]))
