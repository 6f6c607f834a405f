"""The slow oracle for exactness: the same graph, one sequence, no batch, no paging, no cache, in float32.

Its greedy tokens are what the engine must produce, whatever it batches, pages, chunks, preempts and reuses.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from headrace.engine.openvino import EXACT, read


class PlainModel:
    def __init__(self, folder: Path) -> None:
        compiled = ov.Core().compile_model(read(folder), "CPU", EXACT)
        self._request = compiled.create_infer_request()

    def logits(self, tokens: list[int]) -> NDArray[np.float32]:
        """The whole sequence from its first token: logits[tokens, vocabulary]."""
        count = len(tokens)
        self._request.reset_state()
        self._request.infer(
            {
                "input_ids": np.array([tokens], np.int64),
                "attention_mask": np.ones((1, count), np.int64),
                "position_ids": np.arange(count, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
        )
        found: NDArray[np.float32] = self._request.get_tensor("logits").data[0].copy()
        return found

    def greedy(self, prompt: list[int], max_tokens: int, stop: frozenset[int] = frozenset()) -> list[int]:
        tokens = list(prompt)
        for _ in range(max_tokens):
            tokens.append(int(self.logits(tokens)[-1].argmax()))
            if tokens[-1] in stop:
                break
        return tokens[len(prompt) :]
