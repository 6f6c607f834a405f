"""Runs a model of transformers that embeds texts, or scores a document beside a query: texts in, one vector
for each out. A batch is padded to its longest text and computed whole; nothing is cached.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

from headrace.encoder_types import Activation, Embedding, Layer, Marked, Pooling
from headrace.engine.torch import devices, weights
from headrace.engine.torch.options import TorchOptions
from headrace.engine.torch.packing import pack_matrices
from headrace.errors import ModelError
from headrace.freed import trim

log = logging.getLogger(__name__)

Ids = NDArray[np.int32]

TYPES, WEIGHTS = "token_type_ids", "model.safetensors"
FUNCTIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": lambda values: values,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
}


class TorchEncoder:
    """The encoder or cross-encoder in a folder of safetensors. Raises ModelError. For one thread at a
    time.
    """

    def __init__(
        self, folder: Path, embedding: Embedding, options: TorchOptions, *, exact: bool, num_threads: int = 0
    ) -> None:
        if num_threads:
            torch.set_num_threads(num_threads)
        self._device = devices.device_of(options.device)
        dtype = weights.dtype_of(options, self._device, exact=exact)
        head: weights.Head = "none" if embedding.score is None else "score"
        model = weights.read_model(
            folder, dtype, self._device, trusts_code=options.trusts_code, head=head
        ).eval()
        log.info("%d matrices reordered for this processor", pack_matrices(model).count)
        self._takes_types = TYPES in inspect.signature(model.forward).parameters and weights.reads_types(
            folder, trusts_code=options.trusts_code
        )
        padding = getattr(model.config.get_text_config(), "pad_token_id", None)
        self._padding = padding if isinstance(padding, int) and padding >= 0 else 0
        # Classifiers of decoders find the last token of each text by it.
        model.config.get_text_config().pad_token_id = model.config.pad_token_id = self._padding
        model.config.use_cache = False
        self._model: Any = model
        self._score = None if embedding.score is None else FUNCTIONS[embedding.score]
        self._layers = [_layer(folder, layer, self._device) for layer in embedding.layers]
        self.width = embedding.width

    def encode(self, texts: Sequence[Ids | Marked], poolings: Sequence[Pooling]) -> NDArray[np.float32]:
        """The pooled states of texts, [texts, width], not scaled; of a cross-encoder, their scores."""
        lengths = [len(text) for text in texts]
        shape = (len(texts), max(lengths))
        ids, types, mask = (np.full(shape, fill, np.int64) for fill in (self._padding, 0, 0))
        for row, text in enumerate(texts):
            mask[row, : len(text)] = 1
            if isinstance(text, Marked):
                ids[row, : len(text)], types[row, : len(text)] = text.ids, text.types
            else:
                ids[row, : len(text)] = text
        feed = {"input_ids": ids, "attention_mask": mask, **({TYPES: types} if self._takes_types else {})}
        with torch.inference_mode():
            output = self._model(
                **{name: torch.from_numpy(values).to(self._device) for name, values in feed.items()}
            )
            if self._score is not None:
                vectors = self._score(output.logits.float())
            else:
                states = output.last_hidden_state.float()
                vectors = torch.stack([_pooled(*one) for one in zip(states, lengths, poolings, strict=True)])
            for layer in self._layers:
                vectors = layer(vectors)
        found: NDArray[np.float32] = vectors.cpu().numpy()
        return found

    def rest(self) -> None:
        """Return the memory of large batches."""
        trim()


def _pooled(states: torch.Tensor, length: int, pooling: Pooling) -> torch.Tensor:
    """One vector, [width], of a text's states [padded, width]."""
    own = states[:length]
    if pooling == "mean":
        return own.mean(0)
    if pooling == "mean_sqrt_len":
        return own.sum(0) / length**0.5
    if pooling == "weighted_mean":
        place = torch.arange(1, length + 1, dtype=own.dtype, device=own.device)
        return (own * place[:, None]).sum(0) / place.sum()
    if pooling == "max":
        return own.max(0).values
    return own[0 if pooling == "cls" else -1]


def _layer(folder: Path, layer: Layer, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """Raises ModelError if the layer's file has something else."""
    path = folder / layer.folder / WEIGHTS
    try:
        tensors = safetensors.torch.load_file(path, device=str(device))
        weight, bias = tensors["linear.weight"].float(), tensors.get("linear.bias")
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as exc:
        raise ModelError(f"{path} cannot be read: {str(exc)[:200]}") from exc
    if tuple(weight.shape) != (layer.outputs, layer.inputs):
        raise ModelError(f"{path} has a matrix of {tuple(weight.shape)}")
    offset, activation = None if bias is None else bias.float(), FUNCTIONS[layer.activation]
    return lambda vectors: activation(nn.functional.linear(vectors, weight, offset))
