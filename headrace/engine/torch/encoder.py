"""Runs a model of transformers that embeds texts, or scores a document beside a query: texts in, one vector
for each out. A batch is padded to its longest text and computed whole, unless the model sees
padding; nothing is cached.
"""

from __future__ import annotations

import inspect
import logging
from collections import defaultdict
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
from headrace.engine.torch.packing import called, pack_matrices
from headrace.engine.torch.selftest import EXACT, LEAST
from headrace.errors import ModelError
from headrace.free_memory import trim

log = logging.getLogger(__name__)

Ids = NDArray[np.int32]

TRIED_TOKENS = 24
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
        self._folder, self._device = folder, devices.device_of(options.device)
        dtype = weights.dtype_of(options, self._device, exact=exact)
        head: weights.Head = "none" if embedding.score is None else "score"
        model = weights.read_model(
            folder, dtype, self._device, trusts_code=options.trusts_code, head=head
        ).eval()
        self._takes_types = TYPES in inspect.signature(model.forward).parameters and weights.reads_types(
            folder, model.config, trusts_code=options.trusts_code
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
        self._pads = True
        with called(model) as modules:
            self._pads = self._ignores_padding(min(TRIED_TOKENS, embedding.max_tokens), embedding.pooling)
        pack_matrices(modules)
        if not self._pads:
            log.warning("%s is computed for texts of one length at a time: it sees padding", folder.name)

    def encode(self, texts: Sequence[Ids | Marked], poolings: Sequence[Pooling]) -> NDArray[np.float32]:
        """The pooled states of texts, [texts, width], not scaled; of a cross-encoder, their scores."""
        groups = [range(len(texts))] if self._pads else _of_one_length(texts)
        out = np.empty((len(texts), self.width), np.float32)
        for group in groups:
            vectors = self._vectors([texts[place] for place in group], [poolings[place] for place in group])
            scored = vectors if self._score is None else self._score(vectors)
            out[list(group)] = scored.cpu().numpy()
        return out

    def _ignores_padding(self, length: int, pooling: Pooling) -> bool:
        """Whether a text has its vector beside a longer one, too. Some models have no mask for padding
        (FNet), or let it in by other ways than attention (ConvBERT, Funnel, Nyströmformer).
        """
        size = self._model.config.get_text_config().vocab_size
        ids = np.random.default_rng(0).integers(0, size, length).astype(np.int32)
        short = ids[: length // 3 + 1]
        beside = self._vectors([ids, short], [pooling] * 2)[1]
        alone = self._vectors([short], [pooling])[0]
        if not alone.isfinite().all():
            raise ModelError(
                f"{self._folder} computes numbers that are infinite, or none: {weights.damage(self._folder)}"
            )
        most = EXACT if self._model.dtype == torch.float32 else LEAST
        return bool((beside - alone).norm() <= most * alone.norm())

    def _vectors(self, texts: Sequence[Ids | Marked], poolings: Sequence[Pooling]) -> torch.Tensor:
        """The pooled states of texts, or the logits of a cross-encoder, computed as one padded batch."""
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
                logits: torch.Tensor = output.logits.float()
                return logits
            states = output.last_hidden_state.float()
            vectors = torch.stack([_pooled(*one) for one in zip(states, lengths, poolings, strict=True)])
            for layer in self._layers:
                vectors = layer(vectors)
            return vectors[:, : self.width]

    def rest(self) -> None:
        """Return the memory of large batches."""
        trim()


def _of_one_length(texts: Sequence[Ids | Marked]) -> list[list[int]]:
    """The places of texts, those of one length together."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, text in enumerate(texts):
        places[len(text)].append(place)
    return list(places.values())


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
