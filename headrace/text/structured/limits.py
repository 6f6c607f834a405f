"""Limits for the size of schemas. They are checked first, without recursion."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from headrace.text.structured.faults import invalid, unsupported

MAX_DEPTH = 100  # of nested arrays and objects
MAX_VALUES, MAX_OBJECTS, MAX_CHARACTERS = 50_000, 4_000, 2_000_000  # these take a second or two


def measure(schema: object, param: str) -> None:
    """Raise UnsupportedSchema beyond the limits, InvalidSchema for values that are not JSON."""
    level, values, objects, characters = [schema], 0, 0, 0
    for _ in range(MAX_DEPTH):
        values += len(level)
        objects += sum(isinstance(value, dict) for value in level)
        if values <= MAX_VALUES and objects <= MAX_OBJECTS:
            characters += sum(_length(value, param) for value in level)
        if values > MAX_VALUES or objects > MAX_OBJECTS or characters > MAX_CHARACTERS:
            limits = f"{MAX_VALUES} values, {MAX_OBJECTS} objects or {MAX_CHARACTERS} bytes of text"
            raise unsupported(param, f"larger than {limits}")
        level = [item for value in level for item in _items(value)]
        if not level:
            return
    raise unsupported(param, f"nested deeper than {MAX_DEPTH} levels")


def _length(value: object, param: str) -> int:
    """The bytes of a string, or of an object's names. Raises InvalidSchema for values that are not JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        raise invalid(param, f"{value} is no JSON number")
    try:
        return sum(len(text.encode()) for text in _texts(value))
    except UnicodeEncodeError as exc:
        raise invalid(param, "a lone surrogate is no character") from exc


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value


def _items(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
