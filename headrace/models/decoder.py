"""A decoder as numbers and tensors, whatever file it comes from: what the graph is built from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

Activation = Literal["silu", "gelu"]  # gelu: its approximation by tanh


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """The numbers that define a decoder. Of lists, entry i belongs to layer i."""

    architecture: str
    num_layers: int
    hidden: int
    feed_forward: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocabulary: int
    context_length: int
    rms_eps: float
    rope_base: float
    rotary_dim: int = 0  # leading dimensions of a head that are rotated; 0: all
    local_rope_base: float = 0.0  # of the layers with a window, where they have another base; 0: the same
    rope_factor: float = 1.0  # positions are divided by it, in layers without a window
    windows: tuple[int, ...] = ()  # tokens that a layer attends to, its own included; 0, or no list: all
    unrotated: frozenset[int] = frozenset()  # layers that do not rotate
    attention_scale: float = 0.0  # of queries; 0: 1 / sqrt(head_dim)
    embedding_scale: float = 1.0  # embeddings are multiplied by it
    residual_scale: float = 1.0  # what a layer adds is multiplied by it
    logit_scale: float = 1.0  # logits are multiplied by it
    activation: Activation = "silu"
    interleaved: bool = False  # q and k rows are stored in ggml's order, pairs (x0, x_half)

    def window(self, layer: int) -> int:
        return self.windows[layer] if self.windows else 0


class Decoder(Protocol):
    """An open file, or files, of a model. Tensors have ggml's names; matrices are [out, in]."""

    path: Path  # of the file, or of the folder
    hyperparameters: Hyperparameters

    def __contains__(self, tensor: str) -> bool: ...

    def tensor_type(self, name: str) -> GGMLQuantizationType: ...

    def num_columns(self, name: str) -> int: ...

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The quantized bytes of a tensor, uint8[rows, bytes a row]."""
        ...

    def weight(self, name: str) -> NDArray[np.float32]:
        """The exact numbers, float32[out, in] or [size]."""
        ...
