"""The slow oracle of steered answers: whole sequences in float32, their hidden states at one layer edited in
float64 between two runs; no cache, no batch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from headrace.engine.capture import HiddenStates
from headrace.steering.plan import Plan
from tests.steering.operation import edit

PlanOf = Callable[[int], Plan]  # by the length of the prompt


class SteeredOracle:
    def __init__(self, model: HiddenStates) -> None:
        self._model = model
        self._known: dict[tuple[tuple[int, ...], str], list[int]] = {}

    def logits(self, tokens: list[int], plan: Plan | None) -> NDArray[np.float32]:
        """[tokens, vocabulary]. The plan has one layer."""
        if plan is None:
            return self._model.logits(tokens)
        (layer,) = plan.layers
        states = self._model.states(tokens, [layer])[layer].astype(np.float64)
        covered = plan.covered(tokens, 0, len(tokens), [])
        weights = np.stack([term.strength * covered[term.scope] for term in plan.terms], axis=1)
        kept = [covered[term.scope] for term in plan.terms if term.preserve_norm]
        keep_norm = np.logical_or.reduce(kept) if kept else None
        edited = edit(states, [term.slot for term in plan.terms], weights, keep_norm)
        return self._model.logits(tokens, {layer: edited.astype(np.float32)})

    def continuation(self, prompt: tuple[int, ...], count: int, plan: Plan | None) -> list[int]:
        """The greedy tokens after the prompt."""
        known = self._known.setdefault((prompt, plan.fingerprint if plan else ""), [])
        while len(known) < count:
            known.append(int(self.logits([*prompt, *known], plan)[-1].argmax()))
        return known[:count]

    def gap(self, tokens: list[int], plan: Plan | None) -> float:
        """By how much the best next token beats the second."""
        second, best = np.sort(self.logits(tokens, plan)[-1])[-2:].tolist()
        return float(best - second)
