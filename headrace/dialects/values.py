"""Tolerant reading of a provider's JSON: values of an unexpected type become None or empty, and text becomes
valid Unicode.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from headrace.finite import STRING, dumps

Object = dict[str, Any]

HALF = re.compile(r"\\u[dD][89a-fA-F]")  # the JSON escape of half a surrogate pair
BRACKETS = re.compile(rf"{STRING}|[\[\]{{}}]", re.DOTALL)
CONTROLS = bytes(byte for byte in range(32) if byte not in b"\n\r")
CONTROL = re.compile(rb"[\x00-\x1f]")
TOKEN = re.compile(rf"{STRING}|-?\bInfinity\b|\bNaN\b".encode(), re.DOTALL)
MAX_DEPTH = 100  # of nesting; walks over deeper values would exceed Python's recursion limit
MAX_DIGITS = 400  # of an integer; Python converts no more than some thousands
MAX_COUNT = 2**48  # no tokens, bytes or seconds are that many, and sums of them fit into a database
REPLACEMENT = "\ufffd"


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _short(text: str) -> int | None:
    return int(text) if len(text) <= MAX_DIGITS else None


# not strict: some providers do not escape control characters in strings
DECODER = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite, parse_int=_short, strict=False)


def parsed(raw: bytes | str) -> Any:
    """Parse JSON; NaN, infinities, integers of more than MAX_DIGITS, and what is nested more than MAX_DEPTH
    deep become None. Text may contain halves of surrogate pairs, whose other half may be in the next piece.
    Raises ValueError or RecursionError.
    """
    text = raw if isinstance(raw, str) else raw.decode(errors="replace")
    if text.count("{") + text.count("[") > MAX_DEPTH:
        text = _shallow(text)
    return DECODER.decode(text.removeprefix("\ufeff"))


def _shallow(text: str) -> str:
    """Replace each value that is nested too deep by null. Raises ValueError if one breaks off."""
    parts, depth, at = list[str](), 0, 0
    for match in BRACKETS.finditer(text):
        mark = text[match.start()]
        if mark in "[{":
            depth += 1
            if depth == MAX_DEPTH + 1:
                parts.append(text[at : match.start()])
        elif mark in "]}":
            if depth == MAX_DEPTH + 1:
                parts.append("null")
                at = match.end()
            depth -= 1
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep, and breaks off")
    return "".join([*parts, text[at:]])


def whole(raw: bytes | str) -> Any:
    """As `parsed`, for JSON that is no piece of a longer text: single halves of pairs become U+FFFD."""
    value = parsed(raw)
    text = raw if isinstance(raw, str) else raw.decode(errors="replace")
    return valid_value(value) if HALF.search(text) else value


def may_be_lax(raw: bytes) -> bool:
    """Whether `strict` may have to change a line of JSON. Fast: every relayed byte passes here."""
    has_controls = len(raw.translate(None, CONTROLS)) != len(raw)
    return has_controls or (b"N" in raw and b"NaN" in raw) or (b"I" in raw and b"Infinity" in raw)


def strict(raw: bytes) -> bytes:
    """Turn JSON that `parsed` reads, but others do not, into JSON: control characters in strings are escaped,
    and NaN and infinities become null. All else stays as it is.
    """
    return TOKEN.sub(_strict_token, raw)


def _strict_token(match: re.Match[bytes]) -> bytes:
    token = match.group()
    return (
        CONTROL.sub(lambda control: b"\\u%04x" % ord(control.group()), token) if token[0] == 34 else b"null"
    )


def is_deeper(value: object, depth: int) -> bool:
    """Whether objects and lists are nested more than `depth` deep in a value."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inner is not None and (depth == 0 or any(is_deeper(member, depth - 1) for member in inner))


def is_value(raw: str) -> bool:
    """Whether `raw` is JSON."""
    try:
        parsed(raw)
    except (ValueError, RecursionError):
        return False
    return True


def valid(text: str) -> str:
    """Join adjacent halves of surrogate pairs and replace single halves by U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def valid_value(value: Any) -> Any:
    """Apply `valid` to all texts and names in a value."""
    if isinstance(value, str):
        return valid(value)
    if isinstance(value, list):
        return [valid_value(entry) for entry in value]
    if isinstance(value, dict):
        return {valid(name): valid_value(member) for name, member in value.items()}
    return value


class Halves:
    """Makes text valid that arrives in pieces, which may be cut within a surrogate pair."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending = ""

    def push(self, piece: str) -> str:
        """Add a piece; return the text that is complete, without a half at its end."""
        text = self._pending + piece if self._pending else piece
        self._pending = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._pending = text[:-1], text[-1]
        return valid(text)

    def end(self) -> str:
        """Return U+FFFD if the text ends with half of a pair."""
        pending, self._pending = self._pending, ""
        return REPLACEMENT if pending else ""


def an_object(value: object) -> Object:
    """Return an object as it is, and {} for any other value."""
    return value if isinstance(value, dict) else {}


def objects(value: object) -> list[Object]:
    """Return the objects of a list, without its other entries; [] for any other value."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def word(value: object) -> str:
    """Return valid text, and "" for any other value."""
    return valid(value) if isinstance(value, str) else ""


def number(value: object) -> float | None:
    """Return a finite number, and None for any other value, including booleans."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None  # type: ignore[return-value, arg-type]


def count(value: object) -> int | None:
    """Return an integer from 0 to MAX_COUNT, written as 5, 5.0 or "5"; None for any other value."""
    if value is None or type(value) is int:  # nearly all
        return value if value is None or 0 <= value <= MAX_COUNT else None
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 16:
        value = int(value)
    read = number(value)
    return int(read) if read is not None and 0 <= read <= MAX_COUNT and read == int(read) else None


def dumped(value: object) -> str:
    """Write a value from `parsed` as JSON, with valid text."""
    return dumps(valid_value(value), ensure_ascii=False)
