"""A JSON object in which members can be replaced while all others keep their exact bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from headrace.finite import dumped_pieces

BEGINNING = re.compile(r"[ \t\n\r]*\{[ \t\n\r]*")
NAME = re.compile(r'("(?:[^"\\\x00-\x1f]|\\.)*+")[ \t\n\r]*:[ \t\n\r]*')
COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
END = re.compile(r"[ \t\n\r]*\}[ \t\n\r]*")


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


DECODER = json.JSONDecoder(parse_constant=_no_json)


class Verbatim:
    """Parses `raw`, a JSON object in UTF-8. `members`: the parsed object; of duplicate names the last counts.
    Raises ValueError or RecursionError if it is not a JSON object.
    """

    __slots__ = ("_spans", "_start", "_text", "members")

    def __init__(self, raw: bytes) -> None:
        self._text = text = raw.decode()
        self.members: dict[str, Any] = {}
        self._spans: list[tuple[str, int, int]] = []  # (name, start of the value, its end)
        beginning = BEGINNING.match(text)
        if beginning is None:
            raise ValueError("it is no object")
        self._start = at = beginning.end()
        end = END.match(text, at)
        if end is None:
            at = self._member(at)
            while comma := COMMA.match(text, at):
                at = self._member(comma.end())
            end = END.match(text, at)
        if end is None or end.end() != len(text):
            raise ValueError(f"it does not end at {at}")

    @property
    def size(self) -> int:
        """The length in characters."""
        return len(self._text)

    def changed(self, members: Mapping[str, object]) -> bytes:
        """The object with these members replaced or, in front, added; all else unchanged."""
        text, parts, at = self._text, [self._text[: self._start]], self._start
        new = {name: value for name, value in members.items() if name not in self.members}
        if new:
            comma = ", " if self.members else ""
            parts += ["".join(dumped_pieces(new))[1:-1], comma]
        for name, start, end in self._spans:
            if name in members:
                parts += [text[at:start], *dumped_pieces(members[name])]
                at = end
        parts.append(text[at:])
        return "".join(parts).encode()

    def _member(self, at: int) -> int:
        """Read the member at a position. Returns where its value ends."""
        found = NAME.match(self._text, at)
        if found is None:
            raise ValueError(f"a name is missing at {at}")
        name: str = json.loads(found[1]) if "\\" in found[1] else found[1][1:-1]
        self.members[name], end = DECODER.raw_decode(self._text, found.end())
        self._spans.append((name, found.end(), end))
        return end
