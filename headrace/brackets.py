"""Follows the brackets of JSON that arrives in pieces, to find where an object ends."""

from __future__ import annotations

import re

MARKS = re.compile(r'\\.|["{}\[\]]', re.DOTALL)


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
        objects, start = list[str](), 0
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
                    objects.append("".join([*self._held, line[start : match.end()]]))
                    self._held = []
        if self._depth:
            self._held.append(line[start:] + "\n")
        return objects
