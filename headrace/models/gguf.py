"""A GGUF file: what the model is (`Hyperparameters`), its weights and its metadata. Knows no runtime.

Format: the GGUF specification, version 3. Tensors are read lazily from a memory map by the `gguf` package.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, ReaderTensor
from gguf.quants import dequantize
from numpy.typing import NDArray

from headrace.errors import ModelError, UnsupportedModel
from headrace.models.model import Header

ARCHITECTURES = ("llama", "qwen2", "qwen3")
MAGIC = b"GGUF"
FLOAT16_BYTES = 2

T = TypeVar("T", str, int, float, bool, list[str], list[int], list[float])


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """The numbers that fix a decoder's shape."""

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


class GGUFFile:
    """Raises ModelError when the file is not GGUF, or of an architecture that the engine does not read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = _open(path)
        self._tensors: dict[str, ReaderTensor] = {tensor.name: tensor for tensor in self._reader.tensors}
        self.hyperparameters = self._hyperparameters()

    def field(self, key: str, default: T | None = None) -> T:
        """The metadata value under `key`. Raises ModelError when it is absent and there is no default."""
        found = self._reader.fields.get(key)
        if found is not None:
            value: T = found.contents()
            return value
        if default is None:
            raise ModelError(f"{self.path} has no {key!r} in its metadata")
        return default

    def optional(self, key: str) -> str | int | float | bool | None:
        """A scalar metadata value, or None."""
        value: str | int | float | bool | None = _value(self._reader, key)
        return value

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
        return np.asarray(self._tensors[name].data)

    def weight(self, name: str) -> NDArray[np.float32]:
        """The exactly dequantized tensor, float32[out, in] or [size], rows in the file's order."""
        if name not in self._tensors:
            raise ModelError(f"{self.path} has no tensor {name!r}")
        tensor = self._tensors[name]
        shape = tuple(int(size) for size in reversed(tensor.shape.tolist()))
        return np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32).reshape(shape)

    def _hyperparameters(self) -> Hyperparameters:
        architecture: str = self.field("general.architecture")
        if architecture not in ARCHITECTURES:
            raise UnsupportedModel(
                f"{self.path} is of architecture {architecture!r}; "
                f"the engine reads {', '.join(ARCHITECTURES)}"
            )
        if "token_embd.weight" not in self:
            raise ModelError(f"{self.path} has no tensor 'token_embd.weight'")
        unsupported = [
            key
            for key in (f"{architecture}.expert_count", f"{architecture}.rope.scaling.type")
            if self.optional(key) not in (None, 0, "none")
        ]
        if unsupported:
            told = f"{self.path} uses {', '.join(unsupported)}, which the engine does not read yet"
            raise UnsupportedModel(told)

        def number(key: str, default: int | None = None) -> int:
            return int(self.field(f"{architecture}.{key}", default))

        heads, hidden = number("attention.head_count"), number("embedding_length")
        head_dim = number("attention.key_length", hidden // heads)
        rope_dim = number("rope.dimension_count", head_dim)
        if rope_dim != head_dim:
            raise UnsupportedModel(
                f"{self.path} rotates {rope_dim} of {head_dim} dimensions, which the engine does not read yet"
            )
        return Hyperparameters(
            architecture=architecture,
            num_layers=number("block_count"),
            hidden=hidden,
            feed_forward=number("feed_forward_length"),
            num_heads=heads,
            num_kv_heads=number("attention.head_count_kv", heads),
            head_dim=head_dim,
            vocabulary=int(self._tensors["token_embd.weight"].shape[1]),
            context_length=number("context_length"),
            rms_eps=float(self.field(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5)),
            rope_base=float(self.field(f"{architecture}.rope.freq_base", 10000.0)),
        )


def header(path: Path) -> Header:
    """Of a file of any architecture. Raises ModelError when it is not GGUF."""
    reader = _open(path)
    architecture = str(_value(reader, "general.architecture") or "unknown")

    def number(key: str) -> int:
        """Some have a list, with a number for each layer."""
        found = _value(reader, f"{architecture}.{key}")
        return int(max(found)) if isinstance(found, list) else int(found or 0)

    heads = number("attention.head_count")
    width = number("embedding_length") // heads if heads else 0
    widths = (number("attention.key_length") or width) + (number("attention.value_length") or width)
    cached = number("block_count") * (number("attention.head_count_kv") or heads) * widths
    return Header(architecture, _quantization(reader), number("context_length"), cached * FLOAT16_BYTES)


def _open(path: Path) -> GGUFReader:
    """Raises ModelError."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
        if magic != MAGIC:
            raise ModelError(f"{path} is not a GGUF file (it begins with {magic!r})")
        reader = GGUFReader(path)
    except (OSError, ValueError, IndexError, KeyError) as exc:
        raise ModelError(f"{path} cannot be read as GGUF: {exc}") from exc
    if _value(reader, "split.count") not in (None, 0, 1):
        raise ModelError(f"{path} is one of several parts; join them with llama.cpp's gguf-split --merge")
    return reader


def _value(reader: GGUFReader, key: str) -> Any:
    found = reader.fields.get(key)
    return found.contents() if found is not None else None


def _quantization(reader: GGUFReader) -> str:
    sizes: Counter[str] = Counter()
    for tensor in reader.tensors:
        if len(tensor.shape) > 1:
            sizes[tensor.tensor_type.name] += int(tensor.n_elements)
    return sizes.most_common(1)[0][0] if sizes else "unknown"
