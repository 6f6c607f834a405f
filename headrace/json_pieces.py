"""Writes JSON without holding the interpreter lock for long. Python's encoder holds it until a text is
written, a megabyte in four milliseconds, and all other threads wait.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

LONG = 256 * 1024  # characters of a text that are encoded at once
USUAL, COMPACT = (", ", ": "), (",", ":")  # what separates members, and a name from its value


def dumps(value: object) -> str:
    """Return what `json.dumps(value, ensure_ascii=False)` does, for a value with names that are strings."""
    return "".join(pieces(value, ensure_ascii=False))


def pieces(
    value: object,
    separators: tuple[str, str] = USUAL,
    *,
    ensure_ascii: bool = True,
    sort_keys: bool = False,
    long: int = LONG,
) -> Iterator[str]:
    """A value as JSON, in pieces. A text longer than `long` characters is split."""
    if not _has_long_text(value, long):
        yield json.dumps(value, ensure_ascii=ensure_ascii, sort_keys=sort_keys, separators=separators)
        return
    inner = partial(pieces, separators=separators, ensure_ascii=ensure_ascii, sort_keys=sort_keys, long=long)
    between, after_name = separators
    if isinstance(value, str):
        yield '"'
        for start in range(0, len(value), long):
            yield json.dumps(value[start : start + long], ensure_ascii=ensure_ascii)[1:-1]
        yield '"'
    elif isinstance(value, Mapping):
        for index, (name, member) in enumerate(sorted(value.items()) if sort_keys else value.items()):
            quoted = json.dumps(name, ensure_ascii=ensure_ascii)
            yield f"{between if index else '{'}{quoted}{after_name}"
            yield from inner(member)
        yield "}"
    elif isinstance(value, Sequence):
        for index, entry in enumerate(value):
            yield between if index else "["
            yield from inner(entry)
        yield "]"


def _has_long_text(value: object, long: int) -> bool:
    if isinstance(value, str):
        return len(value) > long
    if isinstance(value, Mapping):
        return any(_has_long_text(member, long) for member in value.values())
    return isinstance(value, list | tuple) and any(_has_long_text(entry, long) for entry in value)
