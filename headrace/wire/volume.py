"""The amount of JSON in a body, counted before it is parsed: the parser would hold the interpreter lock, and
build all values before any limit is checked.
"""

from __future__ import annotations

import re

from pydantic_core import from_json

from headrace.errors import BadRequest
from headrace.finite import STRING
from headrace.offload import check_wanted
from headrace.wire.limits import MAX_CONTAINERS, MAX_DIGITS, MAX_MEMBERS, MAX_VALUES, SHOWN

SLICE = 64 * 1024  # bytes that are counted in one step; other threads run between steps
PUNCTUATION = b"{}[],: \t\r\n"
TOKEN = re.compile(rf"{STRING}|[{{}}\[\]:]".encode(), re.DOTALL)


class Volume:
    """Counts values, members and containers outside of strings, slice by slice. Counts of invalid JSON mean
    nothing: the parser stops at the error.
    """

    def __init__(self) -> None:
        self.values, self.members, self.containers, self.digits = 1, 0, 0, 0
        self._in_string = False
        self._is_escaped = False  # whether a backslash escapes the next byte

    def add(self, piece: bytes) -> None:
        piece = piece[1:] if self._is_escaped else piece
        num_backslashes = len(piece) - len(piece.rstrip(b"\\"))
        self._is_escaped = num_backslashes % 2 == 1
        # after escapes are removed, every quote begins or ends a string
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[self._in_string :: 2])
        self._in_string ^= len(parts) % 2 == 0
        opened = outside.count(b"{") + outside.count(b"[")
        self.values += outside.count(b",") + opened
        self.members += outside.count(b":")
        self.containers += opened
        self.digits += len(outside.translate(None, PUNCTUATION))

    @property
    def excess(self) -> str | None:
        """The limit that is exceeded, in words; None if none is."""
        for count, limit, name in (
            (self.containers, MAX_CONTAINERS, "objects and lists"),
            (self.members, MAX_MEMBERS, "members of objects"),
            (self.values, MAX_VALUES, "values"),
            (self.digits, MAX_DIGITS, "characters of numbers"),
        ):
            if count > limit:
                return f"more than {limit:,} {name}"
        return None


def checked_volume(raw: bytes) -> Volume:
    """Count a body's JSON. Raises BadRequest, whose `param` is the member that exceeds a limit."""
    volume = Volume()
    for start in range(0, len(raw), SLICE):
        check_wanted()
        volume.add(raw[start : start + SLICE])
        if volume.excess is not None:
            param = _member(raw[: start + SLICE])
            raise BadRequest.at(param, f"a body may not hold {volume.excess}")
    return volume


def _member(beginning: bytes) -> str:
    """The name of the body's member in which `beginning` ends. A search token by token lets other threads
    run, unlike a parser.
    """
    name, depth, last = b"", 0, b""
    for match in TOKEN.finditer(beginning):
        token = match[0]
        if token in b"{[":
            depth += 1
        elif token in b"}]":
            depth -= 1
        elif token == b":" and depth == 1:
            name = last
        last = token
    try:
        return str(from_json(name))[:SHOWN] if name else "body"
    except ValueError:
        return "body"
