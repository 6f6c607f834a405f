"""Reads safetensors files as NumPy arrays, mapped from the disk. Knows no model.

Format: 8 bytes of little-endian length, a JSON header of that length (name → dtype, shape, offsets), then the
tensors. NumPy has no bfloat16, so the package of that name would need PyTorch to read it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ModelError

MAX_HEADER = 100 * 2**20  # bytes: the format's own limit
POINTER = b"version https://git-lfs"
WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor, mapped. `kind`: F32, F16, BF16, or another name whose numbers cannot be read here."""

    kind: str
    shape: tuple[int, ...]
    raw: NDArray[np.uint8]

    def values(self) -> NDArray[np.float32]:
        """The numbers as float32, exactly, in the tensor's shape."""
        if self.kind == "F32":
            return self.raw.view("<f4").reshape(self.shape).astype(np.float32)
        if self.kind == "F16":
            return self.raw.view("<f2").reshape(self.shape).astype(np.float32)
        assert self.kind == "BF16", "only these are read"
        wide = self.raw.view("<u2").astype(np.uint32) << 16  # the upper half of a float32
        return wide.view(np.float32).reshape(self.shape)


def tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file by name. Raises ModelError if it is damaged."""
    try:
        whole = np.memmap(path, np.uint8, "r")
        if whole[: len(POINTER)].tobytes() == POINTER:
            raise ValueError("it is a pointer of Git LFS, and `git lfs pull` gets the file itself")
        size = int(whole[:8].view("<u8")[0])
        if size > min(MAX_HEADER, len(whole) - 8):
            raise ValueError(f"its header has {size} bytes")
        header = json.loads(whole[8 : 8 + size].tobytes())
        data = whole[8 + size :]
        return {name: _tensor(name, entry, data) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as exc:
        raise ModelError(f"{path} cannot be read as safetensors: {str(exc)[:200]}") from exc


def usual_kind(tensors: Iterable[Tensor]) -> str | None:
    """The format that holds most of the bytes; None without tensors."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.kind] = sizes.get(tensor.kind, 0) + len(tensor.raw)
    return max(sizes, key=lambda kind: sizes[kind], default=None)


def _tensor(name: str, entry: Mapping[str, object], data: NDArray[np.uint8]) -> Tensor:
    """Raises ValueError if the entry does not describe bytes within the data."""
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or not _are_sizes(shape) or not _are_sizes(offsets):
        raise ValueError(f"{name[:100]!r} is not described as a tensor")
    sizes, (begin, end) = tuple(shape), offsets
    width = WIDTHS.get(kind)
    if not 0 <= begin <= end <= len(data) or (width and end - begin != prod(sizes) * width):
        raise ValueError(f"{name[:100]!r} lies outside of the file, or has another size")
    return Tensor(kind, sizes, data[begin:end])


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)
