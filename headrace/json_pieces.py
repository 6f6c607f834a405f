"""Writes JSON without holding the interpreter lock for long. Python's encoder holds it until a text is
written, a megabyte in four milliseconds, and all other threads wait. Also finds the end of an object that
arrives in pieces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

LONG = 256 * 1024  # characters of a text that are encoded at once
USUAL, COMPACT = (", ", ": "), (",", ":")  # what separates members, and a name from its value

MARKS = re.compile(r'\\.|["{}\[\]]', re.DOTALL)


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


class Nesting:
    """Tracks the brackets of a text, in linear time and without storing it."""

    __slots__ = ("_depth", "_is_escaped", "_is_quoted", "is_closed")

    def __init__(self) -> None:
        self._depth, self._is_quoted, self._is_escaped = 0, False, False
        self.is_closed = False  # an object has ended

    def push(self, piece: str) -> None:
        at = 1 if self._is_escaped and piece else 0
        if piece:
            self._is_escaped = False
        for match in MARKS.finditer(piece, at):
            self._mark(match.group())
            at = match.end()
        if self._is_quoted and piece.endswith("\\") and at < len(piece):
            self._is_escaped = True

    def _mark(self, mark: str) -> None:
        if self._is_quoted:
            self._is_quoted = mark != '"'
        elif mark == '"':
            self._is_quoted = True
        elif mark in "{[":
            self._depth += 1
        elif mark in "}]":
            self._depth -= 1
            self.is_closed = self.is_closed or (self._depth == 0 and mark == "}")


class Objects:
    """Splits lines into JSON objects, which may take several lines or share one. What is between them, as the
    brackets and commas of a list, is left out.
    """

    def __init__(self) -> None:
        self._held: list[str] = []  # the lines of an object that has not ended
        self._depth, self._is_quoted = 0, False

    @property
    def is_open(self) -> bool:
        return self._depth > 0

    def push(self, line: str) -> list[str]:
        """Return the objects that end in this line."""
        found, start = list[str](), 0
        for match in MARKS.finditer(line):
            mark = match.group()
            if mark == '"' or self._is_quoted:
                self._is_quoted = self._depth > 0 and self._is_quoted != (mark == '"')
            elif mark == "{" or (mark == "[" and self._depth):
                start = start if self._depth else match.start()
                self._depth += 1
            elif mark in "}]" and self._depth:
                self._depth -= 1
                if not self._depth:
                    found.append("".join([*self._held, line[start : match.end()]]))
                    self._held = []
        if self._depth:
            self._held.append(line[start:] + "\n")
        return found
