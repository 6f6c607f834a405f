"""Reads what probes ask for from hidden states: activations of an SAE's features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.steering.sae import LoadedSAE
from headrace.steering.types import Probe, Reading

Floats = NDArray[np.float32]


class Observer(Protocol):
    """Is shown every activation that is read, for statistics."""

    def saw(self, activations: Floats) -> None:
        """activations[tokens, features]. Called on the engine's thread, so it must be quick."""
        ...


class Prober(Protocol):
    """Reads the hidden states of one sequence at one layer, as they are computed."""

    @property
    def probe(self) -> Probe: ...
    @property
    def layer(self) -> int: ...

    def read(self, states: Floats) -> list[Reading]:
        """The readings of states[tokens, width], the sequence's next ones."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class SAEProber:
    """Reads the activations of an SAE, at a layer where it is attached."""

    probe: Probe
    sae: LoadedSAE
    layer: int
    observer: Observer | None = None

    def read(self, states: Floats) -> list[Reading]:
        """The readings of states[tokens, width]."""
        activations = self.sae.encode(states)
        if self.observer is not None:
            self.observer.saw(activations)
        features = list(self.probe.features)
        return [
            Reading(self.probe.sae, dict(zip(features, row[features].tolist(), strict=True)), self._top(row))
            for row in activations
        ]

    def _top(self, row: Floats) -> tuple[tuple[int, float], ...]:
        """The largest activations of one token, without those that are 0."""
        count = min(self.probe.top_k, int(np.count_nonzero(row)))
        if not count:
            return ()
        largest = np.argpartition(row, -count)[-count:]
        ordered = largest[np.argsort(-row[largest], kind="stable")]
        return tuple((int(feature), float(row[feature])) for feature in ordered)
