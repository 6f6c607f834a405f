"""A provider's JSON, read with tolerance: what has an unexpected shape is None, and text is always valid."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from headrace.finite import dumps

Object = dict[str, Any]

HALF = re.compile(r"\\u[dD][89a-fA-F]")  # the escape of a half of a surrogate pair, in JSON
BRACKETS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)  # or a whole string
MAX_DEPTH = 100  # what is nested deeper is not read: walking it would exceed Python's own limit
REPLACEMENT = "\ufffd"


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


DECODER = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite)


def parsed(raw: bytes | str) -> Any:
    """Any JSON value; NaN and endless numbers are None. Text may have halves of surrogate pairs: those at the
    end of one piece belong to the next. Raises ValueError or RecursionError for what is no JSON.
    """
    text = raw if isinstance(raw, str) else raw.decode(errors="replace")
    if text.count("{") + text.count("[") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    return DECODER.decode(text.removeprefix("\ufeff"))


def _depth(text: str) -> int:
    depth = most = 0
    for match in BRACKETS.finditer(text):
        mark = match.group()[0]
        depth += (mark in "[{") - (mark in "]}")
        most = max(most, depth)
    return most


def whole(raw: bytes | str) -> Any:
    """As `parsed`, of what has no next piece: a half without its other one is U+FFFD."""
    value = parsed(raw)
    text = raw if isinstance(raw, str) else raw.decode(errors="replace")
    return mended(value) if HALF.search(text) else value


def is_value(raw: str) -> bool:
    """Whether it is JSON."""
    try:
        parsed(raw)
    except (ValueError, RecursionError):
        return False
    return True


def valid(text: str) -> str:
    """The same text, with halves of surrogate pairs joined where they meet and U+FFFD elsewhere."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def mended(value: Any) -> Any:
    """The value with all its texts valid."""
    if isinstance(value, str):
        return valid(value)
    if isinstance(value, list):
        return [mended(entry) for entry in value]
    if isinstance(value, dict):
        return {valid(name): mended(member) for name, member in value.items()}
    return value


class Halves:
    """Text that comes in pieces, which may be cut within a surrogate pair."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def push(self, piece: str) -> str:
        """What of the text is certain by now."""
        text = self._held + piece if self._held else piece
        self._held = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        return valid(text)

    def end(self) -> str:
        """The rest: U+FFFD for a half that stayed alone."""
        held, self._held = self._held, ""
        return REPLACEMENT if held else ""


def an_object(value: object) -> Object:
    """Empty for what is none."""
    return value if isinstance(value, dict) else {}


def objects(value: object) -> list[Object]:
    """Those of a list; other entries are left out."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def word(value: object) -> str:
    """A name, an id, a message: empty for what is no text."""
    return valid(value) if isinstance(value, str) else ""


def number(value: object) -> float | None:
    """A finite one; a truth value is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None  # type: ignore[return-value, arg-type]


def count(value: object) -> int | None:
    """A whole number that is not negative, in whichever way it is written: 5, 5.0, "5"."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 16:
        value = int(value)
    found = number(value)
    return int(found) if found is not None and found >= 0 and found == int(found) else None


def dumped(value: object) -> str:
    """JSON of what `parsed` has read, with valid text."""
    return dumps(mended(value), ensure_ascii=False)
