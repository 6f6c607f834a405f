"""What edits achieve: the activation that they were made for, measured on what leaves the site.

Decoder rows are not orthogonal, so a feature that is clamped to 3 does not read 3 afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.steering.plan import Plan
from headrace.steering.sae import LoadedSAE

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Measure:
    """What to measure of one op. It is read by an SAE, as its feature; or along a direction of length 1."""

    op: int  # its place in the plan's ops
    layer: int
    scope: int  # the index of its scope in the plan
    reader: LoadedSAE | Floats
    feature: int = -1


class Achieved:
    """Of one sequence: means over the tokens that were edited and computed, not those from the cache."""

    def __init__(self, plan: Plan, measures: Sequence[Measure]) -> None:
        self._plan, self._measures = plan, measures
        self._sums = np.zeros(len(plan.ops))
        self._counts = np.zeros(len(plan.ops), np.int64)

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(measure.layer for measure in self._measures))

    def add(
        self, states: Callable[[int], Floats], tokens: Sequence[int], start: int, flags: Sequence[int]
    ) -> None:
        """Measure the effect of the edits at the positions of `tokens`, the first of which is `start`.
        `states`: the hidden states [tokens, width] of a layer.
        """
        covered = self._plan.covered(tokens, start, start + len(tokens), flags)
        encoded: dict[tuple[int, int], Floats] = {}  # by SAE and layer
        for measure in self._measures:
            mask, h = covered[measure.scope], states(measure.layer)
            if not mask.any():
                continue
            if isinstance(measure.reader, LoadedSAE):
                key = (id(measure.reader), measure.layer)
                if key not in encoded:
                    encoded[key] = measure.reader.encode(h)
                values = encoded[key][:, measure.feature]
            else:
                values = h @ measure.reader
            self._sums[measure.op] += float(values[mask].sum(dtype=np.float64))
            self._counts[measure.op] += int(mask.sum())

    def means(self) -> tuple[float | None, ...]:
        """Of each of the plan's ops; None: it was not measured."""
        pairs = zip(self._sums.tolist(), self._counts.tolist(), strict=True)
        return tuple(total / count if count else None for total, count in pairs)
