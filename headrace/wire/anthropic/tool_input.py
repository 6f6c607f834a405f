"""Writes the arguments of one call, which arrive in pieces, as the `input` of a streamed tool_use block."""

from __future__ import annotations

from headrace.dialects.anthropic import WRAPPED
from headrace.finite import dumps

BEFORE, AFTER = f'{{"{WRAPPED}": "', '"}'  # the text of the arguments, where it is wrapped


class ToolInput:
    """As in whole answers, text that is no JSON object is wrapped in one. Whether it may be an object shows
    in its first two characters, which are held back until then; one that breaks later stays as it is.
    """

    def __init__(self) -> None:
        self._held: list[str] = []  # pieces that are not decided
        self._has_bracket = False  # they have the one that begins an object
        self._is_wrapped: bool | None = None  # None: not decided

    def push(self, piece: str) -> str:
        """Return the next piece of the input."""
        if self._is_wrapped is not None:
            return _quoted(piece) if self._is_wrapped else piece
        self._held.append(piece)
        rest = piece.lstrip()
        if not self._has_bracket and rest.startswith("{"):
            self._has_bracket, rest = True, rest[1:].lstrip()
        if not rest:
            return ""
        self._is_wrapped = not (self._has_bracket and rest.startswith(('"', "}")))
        return self._decided()

    def end(self) -> str:
        """Return the last piece of the input; without arguments there is none."""
        first = ""
        if self._is_wrapped is None and self._has_bracket:
            self._is_wrapped = True
            first = self._decided()
        return first + AFTER if self._is_wrapped else ""

    def _decided(self) -> str:
        text = "".join(self._held)
        self._held.clear()
        return BEFORE + _quoted(text) if self._is_wrapped else text


def _quoted(text: str) -> str:
    return dumps(text, ensure_ascii=False)[1:-1]
