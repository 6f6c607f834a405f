"""Reads what probes ask for from hidden states: activations of an SAE's features."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.steering.sae import LoadedSAE
from headrace.steering.types import Abort, Condition, Probe, Reading

Floats = NDArray[np.float32]

NO_READING = Reading("", {})
MOST_SORTED = 4  # times as many activations as are reported: of more, the largest are selected first


class Observer(Protocol):
    """Receives every activation that is read, for statistics."""

    def saw(self, activations: Floats) -> None:
        """activations[tokens, features]. Called on the engine's thread, so it must be quick."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Numbers that are computed from the hidden states at a layer, for all sequences of a step at once:
    `compute` turns states[tokens, width] into [tokens, numbers]. Sources of one key are the same.
    """

    key: Hashable
    layer: int
    compute: Callable[[Floats], Floats]


class Prober(Protocol):
    """Reads the hidden states of one sequence at one layer, as they are computed."""

    @property
    def probe(self) -> Probe: ...
    @property
    def source(self) -> Source: ...

    def read(self, numbers: Floats, start: int) -> list[Reading]:
        """The readings of the sequence's next tokens, from their rows of what the source computed. `start`:
        the position of the first.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class SAEProber:
    """Reads the activations of an SAE, at a layer where it is attached."""

    probe: Probe
    sae: LoadedSAE
    layer: int
    observer: Observer | None = None
    source: Source = field(init=False)

    def __post_init__(self) -> None:
        key = ("probe", self.sae.info.digest, self.layer, id(self.observer))
        object.__setattr__(self, "source", Source(key, self.layer, self._encode))

    def _encode(self, states: Floats) -> Floats:
        activations = self.sae.encode(states)
        if self.observer is not None:
            self.observer.saw(activations)
        return activations

    def read(self, numbers: Floats, start: int) -> list[Reading]:
        """The readings of activations[tokens, features]."""
        name, features = self.probe.sae, list(self.probe.features)
        named = numbers[:, features].tolist()
        tops = largest(numbers, self.probe.top_k)
        return [
            Reading(name, dict(zip(features, values, strict=True)), top)
            for values, top in zip(named, tops, strict=True)
        ]


class PeakProber:
    """Measures the largest activation of one feature on a prompt, but for its first token."""

    probe = Probe("", require_all=True)

    def __init__(self, sae: LoadedSAE, layer: int, feature: int) -> None:
        self._feature, self.peak = feature, 0.0
        self.source = Source(("encode", sae.info.digest, layer), layer, sae.encode)

    def read(self, numbers: Floats, start: int) -> list[Reading]:
        values = numbers[max(0, 1 - start) :, self._feature]
        self.peak = max(self.peak, float(values.max(initial=0.0)))
        return [NO_READING] * len(numbers)


class GuardProber:
    """Watches one answer for the first generated token on which a feature meets a condition. `num_prompt`:
    the position of the first generated token.
    """

    probe = Probe("", prompt=False, generation=False)

    def __init__(self, sae: LoadedSAE, layer: int, condition: Condition, num_prompt: int) -> None:
        self._condition, self._num_prompt = condition, num_prompt
        self.found: Abort | None = None
        self.source = Source(("encode", sae.info.digest, layer), layer, sae.encode)

    def read(self, numbers: Floats, start: int) -> list[Reading]:
        for position, value in enumerate(numbers[:, self._condition.feature].tolist(), start):
            is_generated = position >= self._num_prompt
            if self.found is None and is_generated and self._condition.is_met(value):
                self.found = Abort(position, value)
        return [NO_READING] * len(numbers)


def largest(activations: Floats, count: int) -> list[tuple[tuple[int, float], ...]]:
    """Find in each row the `count` largest activations that are positive, as (feature, activation), the
    largest first.
    """
    if not count:
        return [()] * len(activations)
    least = np.zeros((len(activations), 1), np.float32)
    if np.count_nonzero(activations) > MOST_SORTED * count * len(activations):
        place = max(0, activations.shape[1] - count)
        least = np.partition(activations, place, axis=1)[:, place, None]
    rows, features = np.nonzero((activations > 0) & (activations >= least))
    values = activations[rows, features]
    order = np.lexsort((features, -values, rows))
    ends = np.searchsorted(rows, np.arange(len(activations) + 1)).tolist()
    pairs = list(zip(features[order].tolist(), values[order].tolist(), strict=True))
    return [tuple(pairs[begin : min(end, begin + count)]) for begin, end in pairwise(ends)]
