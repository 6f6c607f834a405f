"""Reads a GGUF file: the model's hyperparameters, weights and metadata. Knows no runtime.

Format: the GGUF specification, version 3. Tensors are read lazily from a memory map by the `gguf` package.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, ReaderTensor
from gguf.quants import dequantize
from numpy.typing import NDArray

from headrace.errors import ModelError
from headrace.models import hyperparameters
from headrace.models.metadata import Metadata, open_reader
from headrace.models.model import Header

FLOAT16_BYTES = 2


class GGUFFile:
    """An open GGUF file of a model that our engine can compute. Raises ModelError if it is not GGUF,
    UnsupportedModel if the engine would compute something else than the file means.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = open_reader(path)
        self._tensors: dict[str, ReaderTensor] = {tensor.name: tensor for tensor in self._reader.tensors}
        self.metadata = Metadata(path, self._reader)
        shapes = {name: _shape(tensor) for name, tensor in self._tensors.items()}
        self.hyperparameters = hyperparameters.read(self.metadata, shapes)

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._tensors

    def tensor_type(self, name: str) -> GGMLQuantizationType:
        return self._tensors[name].tensor_type

    def quantization(self) -> str:
        """The format that holds most of the matrices' numbers, such as Q4_1."""
        return _quantization(self._reader)

    def num_columns(self, name: str) -> int:
        return int(self._tensors[name].shape[0])

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The quantized bytes of a tensor, uint8[rows, bytes a row]."""
        data = np.asarray(self._tensors[name].data)
        return data.reshape(-1, data.shape[-1])

    def weight(self, name: str) -> NDArray[np.float32]:
        """The exactly dequantized tensor, float32[out, in] or [size], rows in the file's order; the
        matrices of experts, which share a tensor, below each other. Raises UnsupportedModel for a format that
        is not known.
        """
        tensor = self._tensors[name]
        try:
            values = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as exc:
            raise self.metadata.unsupported(f"has {name!r} in the format {tensor.tensor_type.name}") from exc
        *_, size = shape = _shape(tensor)
        return np.asarray(values, dtype=np.float32).reshape((-1, size) if len(shape) > 1 else shape)


def header(path: Path) -> Header:
    """Read the header of a file of any architecture. Raises ModelError if it is not GGUF."""
    reader = open_reader(path)
    metadata = Metadata(path, reader)
    architecture = metadata.text("general.architecture", "unknown")

    def number(key: str) -> int:
        """A positive integer; of a list with one per layer the largest. Other values count as absent: 0."""
        written = metadata.value(f"{architecture}.{key}")
        values = written if isinstance(written, list) else [written]
        return max((value for value in values if type(value) is int and value > 0), default=0)

    heads = number("attention.head_count")
    width = number("embedding_length") // heads if heads else 0
    widths = (number("attention.key_length") or width) + (number("attention.value_length") or width)
    cached = number("block_count") * (number("attention.head_count_kv") or heads) * widths
    return Header(
        architecture,
        _quantization(reader),
        number("context_length"),
        cached * FLOAT16_BYTES,
        _longest_token(reader),
        _template(metadata),
    )


def _template(metadata: Metadata) -> str | None:
    """The chat template; None if there is none or it is malformed, which llama.cpp reports itself."""
    try:
        return metadata.text("tokenizer.chat_template", "") or None
    except ModelError:
        return None


def _longest_token(reader: GGUFReader) -> int:
    """Bytes of the longest token as the file writes it, at least those of its text; 0: unknown."""
    field = reader.fields.get("tokenizer.ggml.tokens")
    return 0 if field is None else max((len(field.parts[index]) for index in field.data), default=0)


def _shape(tensor: ReaderTensor) -> tuple[int, ...]:
    return tuple(int(size) for size in reversed(tensor.shape.tolist()))


def _quantization(reader: GGUFReader) -> str:
    sizes: Counter[str] = Counter()
    for tensor in reader.tensors:
        if len(tensor.shape) > 1:
            sizes[tensor.tensor_type.name] += int(tensor.n_elements)
    return sizes.most_common(1)[0][0] if sizes else "unknown"
