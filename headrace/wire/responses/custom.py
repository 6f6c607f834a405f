"""The text that a custom tool is called with, out of a function's arguments that come in pieces."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from headrace.wire.items.messages import CUSTOM_ARGUMENT

FINENESS = (
    32  # it is read again when it has grown by this fraction: reading all of it each time takes too long
)


class InputReader:
    """Arguments that are not what they should be are the text, as they are."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0
        self._read_at = 0  # how long the arguments have to be before they are read again
        self._said = ""

    def push(self, arguments: str) -> str:
        """The text that is certain now."""
        self._pieces.append(arguments)
        self._length += len(arguments)
        if self._length < self._read_at:
            return ""
        self._read_at = self._length + self._length // FINENESS
        return self._new(self._input() or "")

    def rest(self) -> str:
        """The text that is left when no more comes."""
        read = self._input()
        return self._new(self._arguments() if read is None and not self._said else read or "")

    def _new(self, text: str) -> str:
        if not text.startswith(self._said):
            return ""
        new, self._said = text[len(self._said) :], text
        return new

    def _arguments(self) -> str:
        """All of them so far."""
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]

    def _input(self) -> str | None:
        try:
            value: Any = from_json(self._arguments(), allow_partial="trailing-strings")
        except ValueError:
            return None
        text = value.get(CUSTOM_ARGUMENT) if isinstance(value, dict) else None
        return text if isinstance(text, str) else None
