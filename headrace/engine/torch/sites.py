"""Sites between the layers of a transformers decoder: hooks that edit and read the hidden states of packed
passes. The operation is that of `headrace.steering.slot`, in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from headrace.engine.batch import Batch
from headrace.engine.edits import GroupEdits, LayerEdits
from headrace.engine.torch.decoder import to_numpy
from headrace.errors import ModelError
from headrace.steering.slot import EPSILON, GROUPS, Group, Rank, SiteNeeds, Slot
from headrace.steering.types import Normalization

Tables = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]  # write, read [S, d]; scalars [7, S]
Change = Callable[[torch.Tensor], torch.Tensor]  # of hidden states [1, T, d]


def hook(layers: nn.ModuleList, layer: int, change: Change) -> Any:
    """Let every pass go on with the changed hidden states of a layer, until the hook is removed. Layer -1 is
    the embeddings: what the first layer gets.
    """

    def before(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if arguments:
            return (change(arguments[0]), *arguments[1:]), named
        return (), {**named, "hidden_states": change(named["hidden_states"])}

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        """Blocks of transformers 5 return a tensor, some return a tuple that begins with it."""
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    if layer < 0:
        return layers[0].register_forward_pre_hook(before, with_kwargs=True)
    return layers[layer].register_forward_hook(after)


class Sites:
    """The hooks of one model. Those of layers that a pass neither edits nor reads return at once."""

    def __init__(self, model: nn.Module, num_layers: int, device: torch.device) -> None:
        self._model, self._num_layers, self._device = model, num_layers, device
        self.layers: frozenset[int] = frozenset()
        self._hooks: list[Any] = []
        self._batch: Batch | None = None  # of the pass under way
        self._states: dict[int, torch.Tensor] = {}  # by layer: what was read in the last pass
        self._unedited: dict[int, torch.Tensor] = {}  # ... before the edits
        self._tables: dict[tuple[int, Group], tuple[tuple[bytes, ...], Tables]] = {}
        self._encoders: dict[bytes, tuple[torch.Tensor, torch.Tensor]] = {}

    def check(self, sites: Mapping[int, SiteNeeds]) -> None:
        """Raise ModelError for a layer that the model does not have, or whose place is not known."""
        if sites:
            layers_of(self._model, self._num_layers)
        for layer in sites:
            if not -1 <= layer < self._num_layers:
                raise ModelError(f"the model has no layer {layer}: it has layers 0 to {self._num_layers - 1}")

    def install(self, sites: Mapping[int, SiteNeeds]) -> None:
        for each in self._hooks:
            each.remove()
        self._hooks.clear()
        self._tables.clear()
        self._encoders.clear()
        self.layers = frozenset(sites)
        if sites:
            layers = layers_of(self._model, self._num_layers)
            self._hooks = [hook(layers, layer, partial(self._passed, layer)) for layer in sites]

    @contextmanager
    def during(self, batch: Batch) -> Iterator[None]:
        """Edit and read in the passes of this block. Raises RuntimeError for a layer without a hook."""
        missing = {*batch.edits, *batch.read_rows} - self.layers
        if missing:
            raise RuntimeError(f"the layers {missing} are not editable")
        self._batch = batch if batch.edits or batch.read_rows else None
        self._states.clear()
        self._unedited.clear()
        try:
            yield
        finally:
            self._batch = None

    def states(self, layer: int) -> NDArray[np.float32]:
        return to_numpy(self._states[layer])

    def unedited(self, layer: int) -> NDArray[np.float32]:
        return to_numpy(self._unedited[layer])

    def _passed(self, layer: int, states: torch.Tensor) -> torch.Tensor:
        """The hidden states [1, T, d] that go on, after they were edited and read."""
        if self._batch is None:
            return states
        edits, rows = self._batch.edits.get(layer), self._batch.read_rows.get(layer)
        if edits is None and rows is None:
            return states
        flat = states.reshape(-1, states.shape[-1])
        chosen = None if rows is None else torch.from_numpy(rows).to(self._device)
        if chosen is not None:
            self._unedited[layer] = flat[chosen]
        if edits is not None:
            flat = self._edited(layer, flat.float(), edits).to(states.dtype)
        if chosen is not None:
            self._states[layer] = flat[chosen]
        return flat.reshape(states.shape)

    def _edited(self, layer: int, states: torch.Tensor, edits: LayerEdits) -> torch.Tensor:
        edited = states
        for group in GROUPS:
            if group in edits.groups:
                edited = edited + self._change(layer, group, edited, edits.groups[group])
        if edits.keep_norm is None:
            return edited
        keep = torch.from_numpy(edits.keep_norm).to(self._device)[:, None] > 0
        scale = states.norm(dim=1, keepdim=True) / edited.norm(dim=1, keepdim=True).clamp_min(1e-30)
        return torch.where(keep, edited * scale, edited)

    def _change(self, layer: int, group: Group, states: torch.Tensor, edits: GroupEdits) -> torch.Tensor:
        """[T, d]: what the slots of a group add to the states."""
        write, read, scalars = self._tables_of(layer, group, edits.slots)
        weights = torch.from_numpy(edits.weights).to(self._device)
        if read is None:
            return weights @ write
        bias, threshold, gain, offset, low, high, least = scalars
        z, outgoing = states @ read.T, None
        kinds = [slot.normalization for slot in edits.slots]
        if set(kinds) != {"none"}:
            scales = {kind: _row_scales(states, kind) for kind in set(kinds)}
            z = z * torch.cat([scales[kind][0] for kind in kinds], 1)
            outgoing = torch.cat([scales[kind][1] for kind in kinds], 1)
        z = z + bias
        if any(slot.rank is not None for slot in edits.slots):
            threshold = torch.maximum(threshold, self._boundaries(states, edits))
        a = torch.where(z > threshold, z, 0.0)
        change = (torch.clamp(a * gain + offset, low, high) - a) * weights
        change = torch.where(a > least, change, 0.0)
        return (change if outgoing is None else change * outgoing) @ write

    def _boundaries(self, states: torch.Tensor, edits: GroupEdits) -> torch.Tensor:
        """[T, S]: what a feature of a topk SAE must exceed to be among the k largest; 0 of other slots."""
        columns = []
        known: dict[bytes, torch.Tensor] = {}
        for slot in edits.slots:
            if slot.rank is not None and slot.rank.digest not in known:
                known[slot.rank.digest] = self._boundary(states, slot.rank)
            columns.append(
                known[slot.rank.digest] if slot.rank is not None else states.new_zeros(len(states), 1)
            )
        return torch.cat(columns, 1)

    def _boundary(self, states: torch.Tensor, rank: Rank) -> torch.Tensor:
        if rank.digest not in self._encoders:
            arrays = (torch.from_numpy(array).to(self._device) for array in (rank.encoder, rank.bias))
            encoder, bias = arrays
            self._encoders[rank.digest] = (encoder, bias)
        encoder, bias = self._encoders[rank.digest]
        z = (states @ encoder) * _row_scales(states, rank.normalization)[0] + bias
        return torch.topk(z, rank.k + 1, dim=1).values[:, -2:].mean(1, keepdim=True)

    def _tables_of(self, layer: int, group: Group, slots: tuple[Slot, ...]) -> Tables:
        """The tables of these slots, which are kept until others are needed."""
        keys = tuple(slot.key for slot in slots)
        known = self._tables.get((layer, group))
        if known is None or known[0] != keys:
            known = self._tables[layer, group] = (keys, self._built(slots))
        return known[1]

    def _built(self, slots: tuple[Slot, ...]) -> Tables:
        scale = [slot.shape.offset if slot.read is None else 1.0 for slot in slots]
        write = np.stack([np.float32(factor) * slot.write for factor, slot in zip(scale, slots, strict=True)])
        reads = [slot.read for slot in slots if slot.read is not None]
        scalars = np.array([slot.scalars for slot in slots], np.float32).T
        read = torch.from_numpy(np.stack(reads)).to(self._device) if reads else None
        return (
            torch.from_numpy(write).to(self._device),
            read,
            torch.from_numpy(scalars.copy()).to(self._device),
        )


def _row_scales(states: torch.Tensor, normalization: Normalization) -> tuple[torch.Tensor, torch.Tensor]:
    """ρ and κ, [T, 1] each: see `scales` in tests/steering/operation.py."""
    if normalization == "layer_norm":
        deviation = states.std(dim=1, keepdim=True, correction=1)
        return 1 / (deviation + EPSILON), deviation
    if normalization == "constant_norm_rescale":
        norm = states.norm(dim=1, keepdim=True) / states.shape[1] ** 0.5
        return 1 / norm, norm
    ones = torch.ones_like(states[:, :1])
    return ones, ones


def layers_of(model: nn.Module, num_layers: int) -> nn.ModuleList:
    """The decoder's blocks. Raises ModelError."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    fitting = [blocks for blocks in lists if len(blocks) == num_layers]
    if not fitting:
        raise ModelError(f"the {num_layers} layers of {type(model).__name__} are not found in it")
    return fitting[0]
