"""What edits achieve, measured on what enters and what leaves the site: the activation that they were made
for, and the features that they change besides.

Decoder rows are not orthogonal, so a feature that is clamped to 3 does not read 3 afterwards, and others
change with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.steering.plan import Plan
from headrace.steering.sae import LoadedSAE
from headrace.steering.scope import Mask
from headrace.steering.types import SideEffect

Floats = NDArray[np.float32]
States = Callable[[int], Floats]  # of one sequence's tokens, by layer: [tokens, width]

MOST_EFFECTS = 8  # that a receipt has


@dataclass(frozen=True, slots=True, eq=False)
class Measure:
    """What to measure of one op. It is read by an SAE, as its feature; or along a direction of length 1."""

    op: int  # its place in the plan's ops
    layer: int
    scope: int  # the index of its scope in the plan
    reader: LoadedSAE | Floats
    feature: int = -1


class Achieved:
    """The achieved values of one sequence: means over the tokens that were edited and computed, not those
    from the cache.
    """

    def __init__(
        self, plan: Plan, measures: Sequence[Measure], observed: Sequence[tuple[int, LoadedSAE]] = ()
    ) -> None:
        """`observed`: the SAEs that find side effects, each with its layer."""
        self._plan, self._measures = plan, measures
        self._sums = np.zeros(len(plan.ops))
        self._counts = np.zeros(len(plan.ops), np.int64)
        self._observed = [_Observed(plan, layer, sae) for layer, sae in observed]

    @property
    def layers(self) -> tuple[int, ...]:
        observed = (entry.layer for entry in self._observed)
        return tuple(dict.fromkeys((*(measure.layer for measure in self._measures), *observed)))

    def add(
        self, before: States, after: States, tokens: Sequence[int], start: int, flags: Sequence[int]
    ) -> None:
        """Measure the effect of the edits at the positions of `tokens`, the first of which is `start`.
        `before`, `after`: the hidden states [tokens, width] of a layer without and with the edits.
        """
        covered = self._plan.covered(tokens, start, start + len(tokens), flags)
        encoded: dict[tuple[str, int], Floats] = {}  # by SAE and layer
        for entry in self._observed:
            activations = entry.add(before(entry.layer), after(entry.layer), covered)
            encoded[entry.sae.info.digest, entry.layer] = activations
        for measure in self._measures:
            mask, h = covered[measure.scope], after(measure.layer)
            if not mask.any():
                continue
            if isinstance(measure.reader, LoadedSAE):
                key = (measure.reader.info.digest, measure.layer)
                if key not in encoded:
                    encoded[key] = measure.reader.encode(h)
                values = encoded[key][:, measure.feature]
            else:
                values = h @ measure.reader
            self._sums[measure.op] += float(values[mask].sum(dtype=np.float64))
            self._counts[measure.op] += int(mask.sum())

    def means(self) -> tuple[float | None, ...]:
        """The mean of each of the plan's ops; None: it was not measured."""
        pairs = zip(self._sums.tolist(), self._counts.tolist(), strict=True)
        return tuple(total / count if count else None for total, count in pairs)

    def side_effects(self) -> tuple[SideEffect, ...]:
        """The features that changed most, without those of the ops."""
        named = {(op.sae, op.feature, op.layer) for op in self._plan.ops}
        found = [
            effect
            for entry in self._observed
            for effect in entry.largest()
            if (effect.sae, effect.feature, effect.layer) not in named
        ]
        return tuple(sorted(found, key=lambda effect: -abs(effect.change))[:MOST_EFFECTS])


class _Observed:
    """Sums how much the edits at one layer change each feature of an SAE."""

    def __init__(self, plan: Plan, layer: int, sae: LoadedSAE) -> None:
        self.layer, self.sae = layer, sae
        self._scopes = sorted({term.scope for term in plan.terms if term.layer == layer})
        self._change, self._count = np.zeros(sae.info.num_features), 0
        self._num_named = len(plan.ops)

    def add(self, before: Floats, after: Floats, covered: Sequence[Mask]) -> Floats:
        """Returns the activations [tokens, features] after the edits."""
        activations = self.sae.encode(after)
        edited = np.logical_or.reduce([covered[scope] for scope in self._scopes])
        if edited.any():
            change = activations[edited] - self.sae.encode(before[edited])
            self._change += change.sum(axis=0, dtype=np.float64)
            self._count += int(edited.sum())
        return activations

    def largest(self) -> list[SideEffect]:
        """As many as are reported even if the ops name the largest of them."""
        sizes = np.abs(self._change)
        order = np.argsort(-sizes, kind="stable")[: MOST_EFFECTS + self._num_named]
        name, count = self.sae.info.id, max(1, self._count)
        return [
            SideEffect(name, int(feature), self.layer, float(self._change[feature]) / count)
            for feature in order
            if sizes[feature]
        ]
