"""The usage of an answer that is passed on, found in its bytes without parsing the rest."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from headrace.dialects.values import DECODER, Object
from headrace.types import Usage

# It never matches inside a string: there a quote has a backslash before it.
USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')
MAX_USAGE = 4096  # bytes


class PassingUsage:
    """`read` reads the members of a usage in the answer's dialect; None: they do not say enough."""

    def __init__(self, read: Callable[[Object], Usage | None]) -> None:
        self._read = read
        self._pieces: list[bytes] = []  # the first and the last that have a usage

    def saw(self, piece: bytes) -> None:
        """Look at whole events, or at a whole body."""
        if b'"usage"' in piece and USAGE.search(piece):
            self._pieces[1:] = [piece]

    def usage(self) -> Usage | None:
        """What the pieces told so far: of several, each member counts as it was told last. None: nothing."""
        members: dict[str, Any] = {}
        for piece in self._pieces:
            for match in USAGE.finditer(piece):
                text = piece[match.end() : match.end() + MAX_USAGE].decode(errors="replace")
                try:
                    members |= DECODER.raw_decode(text)[0]
                except (ValueError, RecursionError):
                    continue
        return self._read(members) if members else None
