"""The slow oracle as the mixes ask it: each prompt continued once, as far as anybody wants."""

from __future__ import annotations

import numpy as np

from tests.engine.plain import PlainModel
from tests.engine.random_load import Prompt


class PlainOracle:
    def __init__(self, model: PlainModel) -> None:
        self.model = model
        self._known: dict[Prompt, list[int]] = {}

    def continuation(self, prompt: Prompt, count: int) -> list[int]:
        known = self._known.setdefault(prompt, [])
        if len(known) < count:
            known += self.model.greedy([*prompt, *known], count - len(known))
        return known[:count]

    def gap(self, tokens: list[int]) -> float:
        second, best = np.sort(self.model.logits(tokens)[-1])[-2:].tolist()
        return float(best - second)
