"""Turns the edits of a step into the inputs of a graph's sites (sites.py)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from headrace.engine.edits import GroupEdits, LayerEdits, table_size
from headrace.engine.sites import BOUND, KINDS
from headrace.steering.slot import GROUPS, SCALARS, Group, SiteNeeds, Slot

Array = NDArray[np.float32] | NDArray[np.int64]

NO_EDITS = LayerEdits({})
NO_ROWS: NDArray[np.int64] = np.zeros(0, np.int64)


class SiteInputs:
    """The inputs of one site. It remembers what the graph has, so that a step sets only what changes."""

    def __init__(self, site: SiteNeeds, width: int) -> None:
        self._site, self._width = site, width
        self._tables: dict[Group, tuple[bytes, ...] | None] = {}  # keys of the slots in a group's tables
        self._idle: set[str] = set()  # groups, and "keep" and "read", whose inputs are one row of zeros

    def changes(self, edits: LayerEdits, rows: NDArray[np.int64]) -> Iterator[tuple[str, Array]]:
        """(input, value) of each that must be set for these edits, and for reading these rows."""
        for group in GROUPS:
            found = edits.groups.get(group)
            if found is not None:
                yield from self._of_group(group, found)
            elif group not in self._idle:
                yield from self._of_nothing(group)
        if edits.keep_norm is not None:
            self._idle.discard("keep")
            yield self._name("keep"), edits.keep_norm.reshape(-1, 1)
        elif "keep" not in self._idle:
            self._idle.add("keep")
            yield self._name("keep"), np.zeros((1, 1), np.float32)
        if len(rows):
            self._idle.discard("read")
            yield self._name("read"), rows
        elif "read" not in self._idle:
            self._idle.add("read")
            yield self._name("read"), np.zeros(1, np.int64)

    def _of_group(self, group: Group, edits: GroupEdits) -> Iterator[tuple[str, Array]]:
        self._idle.discard(group)
        size = table_size(len(edits.slots))
        keys = tuple(slot.key for slot in edits.slots)
        if self._tables.get(group) != keys:
            self._tables[group] = keys
            yield from self._tables_of(group, edits.slots, size)
        yield self._name(f"weights.{group}"), _padded(edits.weights, size)
        if group == "sae" and self._site.ranks:
            yield from self._ranked(edits)

    def _tables_of(self, group: Group, slots: tuple[Slot, ...], size: int) -> Iterator[tuple[str, Array]]:
        if group == "add":
            rows = [np.float32(slot.shape.offset) * slot.write for slot in slots]
            yield self._name("write.add"), self._stacked(rows, size)
            return
        yield self._name(f"write.{group}"), self._stacked([slot.write for slot in slots], size)
        reads = [slot.read for slot in slots if slot.read is not None]
        yield self._name(f"read.{group}"), self._stacked(reads, size)
        yield self._name(f"scalars.{group}"), _scalars(slots, size)
        if group == "sae" and self._site.normalizes:
            kinds = np.zeros((len(KINDS), size), np.float32)
            for column, slot in enumerate(slots):
                kinds[KINDS.index(slot.normalization), column] = 1
            yield self._name("kinds"), kinds
        if group == "sae" and self._site.ranks:
            ranked = np.zeros((len(self._site.ranks), size), np.float32)
            for column, slot in enumerate(slots):
                if slot.rank is not None:
                    ranked[self._rank_of(slot), column] = 1
            yield self._name("ranked"), ranked

    def _ranked(self, edits: GroupEdits) -> Iterator[tuple[str, Array]]:
        """For each topk SAE the tokens that use it: their rows, and which of them each token is, from 1."""
        for index in range(len(self._site.ranks)):
            columns = [c for c, slot in enumerate(edits.slots) if slot.rank and self._rank_of(slot) == index]
            needs = edits.weights[:, columns].any(axis=1)
            rows = np.flatnonzero(needs)
            yield self._name(f"rank.{index}"), rows
            yield self._name(f"place.{index}"), np.where(needs, np.cumsum(needs), 0).astype(np.int64)

    def _rank_of(self, slot: Slot) -> int:
        assert slot.rank is not None
        digests = [rank.digest for rank in self._site.ranks]
        return digests.index(slot.rank.digest)

    def _of_nothing(self, group: Group) -> Iterator[tuple[str, Array]]:
        """Inputs with one slot of zeros, which changes nothing."""
        self._idle.add(group)
        self._tables[group] = None
        yield self._name(f"weights.{group}"), np.zeros((1, 1), np.float32)
        yield self._name(f"write.{group}"), np.zeros((1, self._width), np.float32)
        if group == "add":
            return
        yield self._name(f"read.{group}"), np.zeros((1, self._width), np.float32)
        yield self._name(f"scalars.{group}"), np.zeros((len(SCALARS), 1), np.float32)
        if group == "sae" and self._site.normalizes:
            yield self._name("kinds"), np.zeros((len(KINDS), 1), np.float32)
        if group == "sae" and self._site.ranks:
            yield self._name("ranked"), np.zeros((len(self._site.ranks), 1), np.float32)
            for index in range(len(self._site.ranks)):
                yield self._name(f"rank.{index}"), NO_ROWS  # the product with its encoder is skipped
                yield self._name(f"place.{index}"), np.zeros(1, np.int64)

    def _stacked(self, rows: list[NDArray[np.float32]], size: int) -> NDArray[np.float32]:
        table = np.zeros((size, self._width), np.float32)
        table[: len(rows)] = rows
        return table

    def _name(self, name: str) -> str:
        return f"{name}.{self._site.layer}"


def _padded(weights: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    padded = np.zeros((len(weights), size), np.float32)
    padded[:, : weights.shape[1]] = weights
    return padded


def _scalars(slots: tuple[Slot, ...], size: int) -> NDArray[np.float32]:
    """[SCALARS, size]. The padding is zeros: a slot that clamps nothing to 0, with weight 0."""
    scalars = np.zeros((len(SCALARS), size), np.float32)
    for column, slot in enumerate(slots):
        scalars[:, column] = np.clip(slot.scalars, -BOUND, BOUND)
    return scalars
