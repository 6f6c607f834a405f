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
from headrace.steering.scope import Mask
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
        covered = span.plan.covered(span.tokens, span.start, span.end, span.flags)
        touched = [bool(mask.any()) for mask in covered]
        for term in span.plan.terms:
            if touched[term.scope]:
                builder = builders.setdefault(term.layer, _Builder())
                builder.add(term.slot, span.begin, covered[term.scope], term.strength)
                if term.preserve_norm:
                    builder.norm_spans.append((span.begin, covered[term.scope]))
    return {layer: builder.build(num_tokens) for layer, builder in builders.items()}


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

    def __init__(self) -> None:
        self._parts: dict[Group, dict[bytes, list[tuple[Slot, int, Mask, float]]]] = {}
        self.norm_spans: list[tuple[int, Mask]] = []

    def add(self, slot: Slot, begin: int, covered: Mask, strength: float) -> None:
        of_group = self._parts.setdefault(slot.group, {})
        of_group.setdefault(slot.key, []).append((slot, begin, covered, strength))

    def build(self, num_tokens: int) -> LayerEdits:
        groups = {
            group: self._group(self._parts[group], num_tokens) for group in GROUPS if group in self._parts
        }
        keep_norm = np.zeros(num_tokens, np.float32) if self.norm_spans else None
        for begin, covered in self.norm_spans:
            assert keep_norm is not None
            keep_norm[begin : begin + len(covered)][covered] = 1
        return LayerEdits(groups, keep_norm)

    def _group(
        self, parts: Mapping[bytes, list[tuple[Slot, int, Mask, float]]], num_tokens: int
    ) -> GroupEdits:
        weights = np.zeros((num_tokens, len(parts)), np.float32)
        for column, key in enumerate(sorted(parts)):
            for _, begin, covered, strength in parts[key]:
                # Added: a request may have the same op twice.
                weights[begin : begin + len(covered), column] += np.float32(strength) * covered
        return GroupEdits(tuple(parts[key][0][0] for key in sorted(parts)), weights)
