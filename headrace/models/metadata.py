"""Typed access to the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from gguf import GGUFReader

from headrace.errors import ModelError, UnsupportedModel
from headrace.models import header

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
        found = self._reader.fields.get(key)
        if found is None:
            return None
        try:
            return found.contents()
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
        header.check(path)
        reader = GGUFReader(path)
    except ModelError:
        raise
    except Exception as exc:  # the package raises various errors on damaged files
        reason = str(exc)[:200] or type(exc).__name__
        raise ModelError(f"{path} cannot be read as GGUF: {reason}") from exc
    if Metadata(path, reader).value("split.count") not in (None, 0, 1):
        raise ModelError(f"{path} is one of several parts; join them with llama.cpp's gguf-split --merge")
    return reader
