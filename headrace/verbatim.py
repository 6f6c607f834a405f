"""A JSON object as it came: what is not changed stays byte for byte what it was."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

BLANK = re.compile(r"[ \t\n\r]*")


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


DECODER = json.JSONDecoder(parse_constant=_no_json)


class Verbatim:
    """`members`: the object, parsed; of a member that is there twice the last counts. Raises ValueError or
    RecursionError for what is no JSON object.
    """

    __slots__ = ("_spans", "_start", "_text", "members")

    def __init__(self, raw: bytes) -> None:
        self._text = raw.decode()
        self.members: dict[str, Any] = {}
        self._spans: list[tuple[str, int, int]] = []  # of each member its name and where its value is
        self._start = self._skip(0, "{")
        at = self._blank(self._start)
        if self._text[at : at + 1] != "}":
            at = self._member(at)
            while self._text[at : at + 1] == ",":
                at = self._member(self._blank(at + 1))
        if self._blank(self._skip(at, "}")) != len(self._text):
            raise ValueError("there is something after the object")

    def changed(self, members: Mapping[str, object]) -> bytes:
        """With these members, and whatever else it has as it was. New ones come first."""
        text, parts, at = self._text, [self._text[: self._start]], self._start
        new = {name: value for name, value in members.items() if name not in self.members}
        if new:
            comma = ", " if self.members else ""
            parts.append(json.dumps(new)[1:-1] + comma)
        for name, start, end in self._spans:
            if name in members:
                parts += [text[at:start], json.dumps(members[name])]
                at = end
        parts.append(text[at:])
        return "".join(parts).encode()

    def _member(self, at: int) -> int:
        """Reads one; where what follows it begins."""
        if self._text[at : at + 1] != '"':
            raise ValueError(f"a member's name is missing at {at}")
        name, end = DECODER.raw_decode(self._text, at)
        start = self._blank(self._skip(end, ":"))
        self.members[name], end = DECODER.raw_decode(self._text, start)
        self._spans.append((name, start, end))
        return self._blank(end)

    def _blank(self, at: int) -> int:
        found = BLANK.match(self._text, at)
        assert found is not None, "it matches nothing, too"
        return found.end()

    def _skip(self, at: int, mark: str) -> int:
        """Past blanks and this mark."""
        at = self._blank(at)
        if self._text[at : at + 1] != mark:
            raise ValueError(f"{mark} is missing at {at}")
        return at + 1
