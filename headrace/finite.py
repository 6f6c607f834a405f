"""JSON with numbers that every reader knows. Python's own reads and writes NaN and Infinity as well."""

from __future__ import annotations

import json
import sys
from typing import Any


def _constant(name: str) -> float | None:
    if name == "NaN":
        return None
    return -sys.float_info.max if name.startswith("-") else sys.float_info.max


def _float(text: str) -> float:
    return min(max(float(text), -sys.float_info.max), sys.float_info.max)


DECODER = json.JSONDecoder(parse_constant=_constant, parse_float=_float)


def loads(text: str) -> Any:
    """NaN is read as null, and what is endless as the largest number there is. Raises ValueError,
    RecursionError.
    """
    return DECODER.decode(text)


def dumps(value: object, *, ensure_ascii: bool = True, separators: tuple[str, str] | None = None) -> str:
    """Numbers that JSON does not have are written as `loads` reads them."""
    try:
        return json.dumps(value, ensure_ascii=ensure_ascii, separators=separators, allow_nan=False)
    except ValueError:
        whole = loads(json.dumps(value))
        return json.dumps(whole, ensure_ascii=ensure_ascii, separators=separators)


def finite(value: Any) -> Any:
    """The same value with numbers that JSON has."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return loads(json.dumps(value))
    return value
