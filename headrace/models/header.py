"""Checks the header of a GGUF file: every length in it must lie within the file.

The `gguf` package does not check them: a damaged length makes it loop forever.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from headrace.errors import ModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of each type of number
STRING, ARRAY = 8, 9
MAX_KEYS, MAX_TENSORS, MAX_ELEMENTS, MAX_DIMENSIONS = 100_000, 1_000_000, 20_000_000, 4


def check(path: Path) -> None:
    """Walk through the header. Raises ModelError if the file is not GGUF or is damaged."""
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
        if magic != MAGIC:
            raise ModelError(f"{path} is not a GGUF file (it begins with {magic!r})")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                _Walk(data).check()
            except (struct.error, ValueError) as exc:
                reason = exc if isinstance(exc, ValueError) else "it ends within its header"
                raise ModelError(f"{path} cannot be read as GGUF: {reason}") from exc


class _Walk:
    """A walk from the byte after the magic number to the end of the tensors' descriptions."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, len(MAGIC)
        self._elements = 0

    def check(self) -> None:
        version = self._number("<I")
        if version not in VERSIONS:
            raise ValueError(f"it is of version {version}")
        tensors, keys = self._number("<Q"), self._number("<Q")
        if tensors > MAX_TENSORS or keys > MAX_KEYS:
            raise ValueError(f"it says that it has {tensors} tensors and {keys} keys")
        for _ in range(keys):
            self._string()
            self._value(self._number("<I"))
        for _ in range(tensors):
            self._string()
            dimensions = self._number("<I")
            if dimensions > MAX_DIMENSIONS:
                raise ValueError(f"it has a tensor of {dimensions} dimensions")
            self._skip(8 * dimensions + 4 + 8)

    def _value(self, kind: int) -> None:
        if kind == STRING:
            self._string()
        elif kind in SIZES:
            self._skip(SIZES[kind])
        elif kind == ARRAY:
            self._array()
        else:
            raise ValueError(f"it has a value of the unknown type {kind}")

    def _array(self) -> None:
        kind, count = self._number("<I"), self._number("<Q")
        self._elements += count
        if self._elements > MAX_ELEMENTS:
            raise ValueError(f"it has a list of {count} values")
        if kind in SIZES:
            self._skip(SIZES[kind] * count)
        elif kind == STRING:
            for _ in range(count):
                self._string()
        else:
            raise ValueError(f"it has a list of values of the type {kind}")

    def _string(self) -> None:
        self._skip(self._number("<Q"))

    def _number(self, layout: str) -> int:
        found: int = struct.unpack_from(layout, self._data, self._at)[0]
        self._at += struct.calcsize(layout)
        return found

    def _skip(self, size: int) -> None:
        self._at += size
        if self._at > len(self._data):
            raise ValueError("it ends within its header")
