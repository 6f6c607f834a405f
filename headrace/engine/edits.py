"""The edits and readings of one step, for the runner: which hidden states change by how much at which layer.

Sequences that use the same slot share it, whatever their strengths: those are in the weights. Tables are as
long as a few sizes only, and slots are sorted, so that a row's sums do not depend on its neighbours' slots.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from headrace.steering.plan import Plan
from headrace.steering.slot import GROUPS, Group, Slot

SIZES = (4, 16, 64)  # of slot tables; longer ones are multiples of the last


@dataclass(frozen=True, slots=True)
class GroupEdits:
    """The slots of one group, and their weight on each token: [T, slots], 0 where a slot does not act."""

    slots: tuple[Slot, ...]
    weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LayerEdits:
    """All edits of a step at one layer. `keep_norm`[T]: 1 for rows that are rescaled afterwards, else 0."""

    groups: Mapping[Group, GroupEdits]
    keep_norm: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Where a sequence's chunk is: `begin` in T, for the positions start … end; `tokens` are theirs."""

    plan: Plan
    begin: int
    start: int
    end: int
    tokens: list[int]
    flags: list[int]


def collect(spans: Iterable[Span], num_tokens: int) -> dict[int, LayerEdits]:
    """The edits of a step of `num_tokens` tokens, by layer; only layers with an edit."""
    builders: dict[int, _Builder] = {}
    for span in spans:
        covered = np.array(span.plan.covered(span.tokens, span.start, span.end, span.flags), np.float32).T
        for table in span.plan.tables:
            weights, slots = covered @ table.strengths, table.slots
            acting = np.flatnonzero(weights.any(axis=0)).tolist()
            if acting:
                if len(acting) < len(slots):
                    weights, slots = weights[:, acting], tuple(slots[column] for column in acting)
                builder = builders.setdefault(table.layer, _Builder(num_tokens))
                builder.add(table.group, span.begin, slots, weights)
                if table.norm_scopes:
                    kept = covered[:, list(table.norm_scopes)]
                    builder.keep_norm(span.begin, kept.max(axis=1))
    return {layer: builder.build() for layer, builder in builders.items()}


def with_tokens(edits: Mapping[int, LayerEdits], count: int) -> dict[int, LayerEdits]:
    """The edits of a step that has so many tokens more, which they do not touch."""
    return {layer: _with_tokens(edit, count) for layer, edit in edits.items()}


def table_size(count: int) -> int:
    """The length of a table for so many slots."""
    return next((size for size in SIZES if count <= size), -(-count // SIZES[-1]) * SIZES[-1])


def _with_tokens(edit: LayerEdits, count: int) -> LayerEdits:
    groups = {
        name: replace(group, weights=np.pad(group.weights, ((0, count), (0, 0))))
        for name, group in edit.groups.items()
    }
    return LayerEdits(groups, None if edit.keep_norm is None else np.pad(edit.keep_norm, (0, count)))


class _Builder:
    """Collects the edits at one layer."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._parts: dict[Group, list[tuple[int, tuple[Slot, ...], NDArray[np.float32]]]] = {}
        self._keep_norm: NDArray[np.float32] | None = None

    def add(self, group: Group, begin: int, slots: tuple[Slot, ...], weights: NDArray[np.float32]) -> None:
        """`weights`[tokens, slots], of the tokens from `begin` on."""
        self._parts.setdefault(group, []).append((begin, slots, weights))

    def keep_norm(self, begin: int, rows: NDArray[np.float32]) -> None:
        """Rescale those of the rows from `begin` on that are 1."""
        if self._keep_norm is None:
            self._keep_norm = np.zeros(self._num_tokens, np.float32)
        part = self._keep_norm[begin : begin + len(rows)]
        np.maximum(part, rows, out=part)

    def build(self) -> LayerEdits:
        groups = {group: self._group(self._parts[group]) for group in GROUPS if group in self._parts}
        return LayerEdits(groups, self._keep_norm)

    def _group(self, parts: list[tuple[int, tuple[Slot, ...], NDArray[np.float32]]]) -> GroupEdits:
        used = {slot.key: slot for _, slots, _ in parts for slot in slots}
        columns = {key: column for column, key in enumerate(sorted(used))}
        weights = np.zeros((self._num_tokens, len(columns)), np.float32)
        places = {id(slots): [columns[slot.key] for slot in slots] for _, slots, _ in parts}
        for begin, slots, part in parts:
            weights[begin : begin + len(part), places[id(slots)]] = part
        return GroupEdits(tuple(used[key] for key in columns), weights)
