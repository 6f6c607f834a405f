"""The slow oracle for exactness: the same graph for one sequence in float32, without batch, pages or cache.

The engine's greedy tokens must equal its tokens, however the engine batches, pages, chunks, preempts and
reuses blocks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from headrace.engine.openvino import EXACT, find_head, read


class PlainModel:
    """The graph of an IR folder, run on whole sequences. Raises ModelError."""

    def __init__(self, folder: Path) -> None:
        model = read(folder)
        hidden = ops.result(find_head(model).input_value(0))
        hidden.input_value(0).set_names({"hidden"})
        model.add_results([hidden])
        self._request = ov.Core().compile_model(model, "CPU", EXACT).create_infer_request()

    def logits(self, tokens: list[int]) -> NDArray[np.float32]:
        """Compute the whole sequence from its first token: logits[tokens, vocabulary]."""
        return self._run(tokens, "logits")

    def states(self, tokens: list[int]) -> NDArray[np.float32]:
        """Compute the last hidden states, the head's input: states[tokens, width]."""
        return self._run(tokens, "hidden")

    def _run(self, tokens: list[int], output: str) -> NDArray[np.float32]:
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
        found: NDArray[np.float32] = self._request.get_tensor(output).data[0].copy()
        return found

    def greedy(self, prompt: list[int], max_tokens: int, stop: frozenset[int] = frozenset()) -> list[int]:
        """Generate greedily: at most `max_tokens` tokens, the last of them in `stop` if one is reached."""
        tokens = list(prompt)
        for _ in range(max_tokens):
            tokens.append(int(self.logits(tokens)[-1].argmax()))
            if tokens[-1] in stop:
                break
        return tokens[len(prompt) :]
