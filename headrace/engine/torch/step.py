"""One forward pass over a packed batch: answers the attention of one layer after another."""

from __future__ import annotations

import numpy as np
import torch

from headrace.engine.batch import Batch
from headrace.engine.torch.attention import attended, attended_from_start
from headrace.engine.torch.cache import Layer, PagedCache
from headrace.engine.torch.call import Call, NotPageable
from headrace.engine.torch.group import Group, grouped, parts
from headrace.engine.torch.places import BLOCK_SIZE, Places
from headrace.engine.torch.rounding import Rounding


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
            found = self._of_group(self._groups[0], layer, call)
            return found.reshape(1, self._num_tokens, *found.shape[2:])
        heads, width = call.query.shape[1], call.value.shape[3]
        out = call.query.new_empty((self._num_tokens + 1, heads, width))  # the last one for padding
        for group in self._groups:
            found = self._of_group(group, layer, call)
            out.index_copy_(0, group.indices, found.reshape(-1, heads, width))
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
        found = attended(query.to(dtype), key, value, group.mask(call, dtype), call, self._rounding.rows)
        return found.to(query.dtype)
