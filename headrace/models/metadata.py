"""Typed access to the metadata of a GGUF file, whose header is checked first: every length in it must lie
within the file. The `gguf` package does not check them: a damaged length makes it loop forever.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from gguf import GGUFReader

from headrace.errors import ModelError, UnsupportedModel

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of each type of number
STRING, ARRAY = 8, 9
MAX_KEYS, MAX_TENSORS, MAX_ELEMENTS, MAX_DIMENSIONS = 100_000, 1_000_000, 20_000_000, 4
T = TypeVar("T", str, bool)
MOST_LAYERS = 10_000  # limit for lists with one number per layer


class Metadata:
    """The metadata of one file. Methods raise UnsupportedModel if a value cannot be read or has another type;
    llama.cpp may still read such a file.
    """

    def __init__(self, path: Path, reader: GGUFReader) -> None:
        self.path, self._reader = path, reader

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader.fields)

    def value(self, key: str) -> Any:
        """The value as the file has it; None: absent."""
        field = self._reader.fields.get(key)
        if field is None:
            return None
        try:
            return field.contents()
        except Exception as exc:  # the package raises various errors
            raise self.unsupported(f"has a {key[:100]!r} that cannot be read ({str(exc)[:100]})") from exc

    def text(self, key: str, default: str | None = None) -> str:
        return self._typed(key, default, str, "a text")

    def flag(self, key: str, default: bool) -> bool:
        return self._typed(key, default, bool, "true or false")

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number, or a list that has the same one for each layer."""
        value = self.value(key)
        if isinstance(value, list) and 0 < len(value) <= MOST_LAYERS and value.count(value[0]) == len(value):
            value = value[0]
        if isinstance(value, list):
            raise self.unsupported(f"has a {key} of its own for each layer")
        value = default if value is None else value
        if value is None:
            raise self.unsupported(f"has no {key!r} in its metadata")
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.unsupported(f"has a {key} that is no whole number")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.value(key)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.unsupported(f"has a {key} that is no number")
        return float(value)

    def texts(self, key: str) -> list[str]:
        value = self.value(key)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.unsupported(f"has no list of texts {key!r} in its metadata")
        return value

    def integers(self, key: str) -> list[int] | None:
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(type(one) is int for one in value):
            raise self.unsupported(f"has a {key} that is no list of whole numbers")
        return value

    def unsupported(self, problem: str) -> UnsupportedModel:
        return UnsupportedModel(f"{self.path} {problem}, which the engine does not read")

    def _typed(self, key: str, default: T | None, kind: type[T], described: str) -> T:
        value = self.value(key)
        value = default if value is None else value
        if value is None:
            raise self.unsupported(f"has no {key!r} in its metadata")
        if not isinstance(value, kind):
            raise self.unsupported(f"has a {key} that is not {described}")
        return value


def open_reader(path: Path) -> GGUFReader:
    """Open a GGUF file. Raises ModelError if it is damaged or only a part of a model."""
    try:
        check(path)
        reader = GGUFReader(path)
    except ModelError:
        raise
    except Exception as exc:  # the package raises various errors on damaged files
        reason = str(exc)[:200] or type(exc).__name__
        raise ModelError(f"{path} cannot be read as GGUF: {reason}") from exc
    if Metadata(path, reader).value("split.count") not in (None, 0, 1):
        raise ModelError(f"{path} is one of several parts; join them with llama.cpp's gguf-split --merge")
    return reader


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
        number: int = struct.unpack_from(layout, self._data, self._at)[0]
        self._at += struct.calcsize(layout)
        return number

    def _skip(self, size: int) -> None:
        self._at += size
        if self._at > len(self._data):
            raise ValueError("it ends within its header")
