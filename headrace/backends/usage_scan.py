"""Finds the usage in the bytes of a relayed answer, without parsing the rest of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from headrace.dialects.values import DECODER, Object
from headrace.types import Usage

# This cannot match inside a JSON string, where a backslash precedes every quote.
USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')
MAX_USAGE = 4096  # bytes


class UsageScan:
    """`read` turns the members of a `usage` object into a Usage, or None if they are incomplete."""

    def __init__(self, read: Callable[[Object], Usage | None]) -> None:
        self._read = read
        self._pieces: list[bytes] = []  # the first and the last piece with a usage

    def saw(self, piece: bytes) -> None:
        """Inspect whole events."""
        if b'"usage"' in piece and USAGE.search(piece):
            self._pieces[1:] = [piece]

    def usage(self) -> Usage | None:
        """The usage so far, in which a later piece overrides the members of an earlier one; None: unknown."""
        members: dict[str, Any] = {}
        for piece in self._pieces:
            for match in USAGE.finditer(piece):
                text = piece[match.end() : match.end() + MAX_USAGE].decode(errors="replace")
                try:
                    members |= DECODER.raw_decode(text)[0]
                except (ValueError, RecursionError):
                    continue
        return self._read(members) if members else None
