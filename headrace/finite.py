"""JSON with numbers that every reader knows. Python's own reads and writes NaN and Infinity as well."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from typing import Any

PIECE = 64 * 1024  # about how many bytes of JSON one call of the encoder writes in `dumped_pieces`
# matches a JSON string, and the beginning of one that breaks off, in linear time and without backtracking
STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
SEPARATORS, COMPACT = (", ", ": "), (",", ":")  # json's own, and those without blanks


def _constant(name: str) -> float | None:
    if name == "NaN":
        return None
    return -sys.float_info.max if name.startswith("-") else sys.float_info.max


def _float(text: str) -> float:
    return min(max(float(text), -sys.float_info.max), sys.float_info.max)


DECODER = json.JSONDecoder(parse_constant=_constant, parse_float=_float)


def loads(text: str) -> Any:
    """Read NaN as null and infinities as the largest float. Raises ValueError, RecursionError."""
    return DECODER.decode(text)


def dumps(
    value: object,
    *,
    ensure_ascii: bool = True,
    separators: tuple[str, str] = SEPARATORS,
    sort_keys: bool = False,
) -> str:
    """Write NaN and infinities as the values that `loads` reads them as."""
    encode = _encoder(ensure_ascii, separators, sort_keys).encode
    try:
        return encode(value)
    except ValueError:
        return encode(loads(json.dumps(value)))


@cache
def _encoder(ensure_ascii: bool, separators: tuple[str, str], sort_keys: bool) -> json.JSONEncoder:
    """json.dumps makes a new one for each call."""
    return json.JSONEncoder(
        ensure_ascii=ensure_ascii, separators=separators, sort_keys=sort_keys, allow_nan=False
    )


def dumped_pieces(
    value: object,
    *,
    ensure_ascii: bool = True,
    separators: tuple[str, str] = SEPARATORS,
    sort_keys: bool = False,
) -> Iterable[str]:
    """The text of `dumps` in pieces of about PIECE bytes.

    The encoder holds the GIL for as long as one call takes; between two pieces other threads can run. The
    names of objects have to be strings.
    """
    if isinstance(value, str) and len(value) <= PIECE:
        return (dumps(value, ensure_ascii=ensure_ascii),)
    return _Pieces(ensure_ascii, separators, sort_keys).of(value)


def dumps_large(value: object) -> str:
    """Return `value` as JSON that keeps characters beyond ASCII; other threads run meanwhile."""
    return "".join(dumped_pieces(value, ensure_ascii=False))


def size_up_to(value: object, limit: int) -> int:
    """Return about how many bytes `value` takes as JSON; the walk stops once it has counted past `limit`."""
    size, values = 0, [value]
    while values and size <= limit:
        member = values.pop()
        size += 8  # a number, or the punctuation around anything else
        if isinstance(member, str):
            size += len(member)
        elif isinstance(member, Mapping):
            size += 8 * len(member)
            if size <= limit:
                size += sum(len(name) for name in member if isinstance(name, str))
                values.extend(member.values())
        elif isinstance(member, list | tuple):
            size += len(member)
            if size <= limit:
                values.extend(member)
    return size


class _Pieces:
    """Writes the small members of a list or an object in batches, and the large ones piece by piece."""

    def __init__(self, ensure_ascii: bool, separators: tuple[str, str], sort_keys: bool) -> None:
        self._dumps = partial(dumps, ensure_ascii=ensure_ascii, separators=separators, sort_keys=sort_keys)
        self._comma, self._colon = separators
        self._sort_keys = sort_keys

    def of(self, value: object) -> Iterator[str]:
        if size_up_to(value, PIECE) <= PIECE:
            yield self._dumps(value)
        elif isinstance(value, str):
            yield '"'
            for start in range(0, len(value), PIECE):
                yield self._dumps(value[start : start + PIECE])[1:-1]
            yield '"'
        elif isinstance(value, dict):
            yield "{"
            yield from self._members(value)
            yield "}"
        elif isinstance(value, list | tuple):
            yield "["
            yield from self._entries(value)
            yield "]"
        else:
            yield self._dumps(value)

    def _members(self, value: dict[str, Any]) -> Iterator[str]:
        batch: dict[str, Any] = {}
        size, comma = 0, ""
        for name, member in sorted(value.items()) if self._sort_keys else value.items():
            member_size = len(name) + size_up_to(member, PIECE)
            if batch and size + member_size > PIECE:
                yield comma + self._dumps(batch)[1:-1]
                batch, size, comma = {}, 0, self._comma
            if member_size <= PIECE:
                batch[name] = member
                size += member_size
                continue
            yield comma + self._dumps(name) + self._colon
            yield from self.of(member)
            comma = self._comma
        if batch:
            yield comma + self._dumps(batch)[1:-1]

    def _entries(self, value: list[Any] | tuple[Any, ...]) -> Iterator[str]:
        batch: list[Any] = []
        size, comma = 0, ""
        for entry in value:
            entry_size = size_up_to(entry, PIECE)
            if batch and size + entry_size > PIECE:
                yield comma + self._dumps(batch)[1:-1]
                batch, size, comma = [], 0, self._comma
            if entry_size <= PIECE:
                batch.append(entry)
                size += entry_size
                continue
            yield comma
            yield from self.of(entry)
            comma = self._comma
        if batch:
            yield comma + self._dumps(batch)[1:-1]


def finite(value: Any) -> Any:
    """Return the value with NaN and infinities replaced as `loads` reads them."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return loads(json.dumps(value))
    return value
