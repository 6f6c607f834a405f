"""Finds the end of a JSON object that arrives in pieces."""

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
