"""Runs an encoder (BERT and its kin) with OpenVINO: texts in, one vector for each out.

It has no cache and no steps: a batch is padded to its longest text and computed whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from headrace.encoder_types import Pooling
from headrace.engine.compiled import limited
from headrace.errors import ModelError
from headrace.free_memory import trim

STEP = 16  # lengths are padded to multiples of this, so that the runtime meets few shapes
MASK, TYPES = "attention_mask", "token_type_ids"

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class EncoderOptions:
    exact: bool = False  # compute in float32
    num_threads: int = 0  # 0: one per core


class OpenVINOEncoder:
    """A compiled encoder. Raises ModelError if the file is not one. For one thread at a time."""

    def __init__(self, path: Path, options: EncoderOptions) -> None:
        try:
            model = ov.Core().read_model(path)
            self._compiled = compiled = ov.Core().compile_model(model, "CPU", _properties(options))
        except RuntimeError as exc:
            raise ModelError(f"{path} cannot be read as an encoder: {str(exc)[:200]}") from exc
        self._inputs = {name for port in compiled.inputs for name in port.get_names()}
        states = compiled.outputs[0].get_partial_shape()
        if not {"input_ids", MASK} <= self._inputs or states.rank.get_length() != 3 or states[2].is_dynamic:
            raise ModelError(f"{path} is not an encoder whose first output is the states of its tokens")
        self.width = int(states[2].get_length())
        self._request = compiled.create_infer_request()

    def encode(self, texts: Sequence[Ids], poolings: Sequence[Pooling]) -> NDArray[np.float32]:
        """The pooled states of texts given as token ids, marks included: [texts, width], not scaled."""
        lengths = np.array([len(row) for row in texts])
        ids = np.zeros((len(texts), -(-int(lengths.max()) // STEP) * STEP), np.int64)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = text
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        feed = {"input_ids": ids, MASK: mask, TYPES: np.zeros_like(ids)}
        self._request.infer({name: values for name, values in feed.items() if name in self._inputs})
        states: NDArray[np.float32] = self._request.get_output_tensor(0).data
        return np.stack([_pooled(*one) for one in zip(states, lengths, poolings, strict=True)])

    def rest(self) -> None:
        """Return the memory of large batches. Called when there is no work."""
        self._compiled.release_memory()
        trim()


def _pooled(states: NDArray[np.float32], length: int, pooling: Pooling) -> NDArray[np.float32]:
    """One vector, [width], of a text's states [padded, width]."""
    if pooling == "mean":
        mean: NDArray[np.float32] = states[:length].mean(0, dtype=np.float64).astype(np.float32)
        return mean
    chosen: NDArray[np.float32] = states[0 if pooling == "cls" else length - 1].copy()
    return chosen


def _properties(options: EncoderOptions) -> dict[str, str]:
    properties = {"PERFORMANCE_HINT": "LATENCY"}
    if options.exact:
        properties |= {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    if options.num_threads:
        properties["INFERENCE_NUM_THREADS"] = str(options.num_threads)
    return limited(properties)
