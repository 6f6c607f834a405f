"""Reads the input of a custom tool's call from function arguments that arrive in pieces."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from headrace.wire.items.messages import CUSTOM_ARGUMENT

# The arguments are parsed again when they have grown by 1/FINENESS, which keeps the total work linear.
FINENESS = 32


class InputReader:
    """Returns the input piece by piece. Arguments without the expected shape are the input themselves."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0
        self._read_at = 0  # length of the arguments at which they are parsed again
        self._said = ""

    def push(self, arguments: str) -> str:
        """Add arguments; return the new part of the input that is certain."""
        self._pieces.append(arguments)
        self._length += len(arguments)
        if self._length < self._read_at:
            return ""
        self._read_at = self._length + self._length // FINENESS
        return self._new(self._input() or "")

    def rest(self) -> str:
        """Return the rest of the input, after the last piece."""
        read = self._input()
        return self._new(self._arguments() if read is None and not self._said else read or "")

    def _new(self, text: str) -> str:
        if not text.startswith(self._said):
            return ""
        new, self._said = text[len(self._said) :], text
        return new

    def _arguments(self) -> str:
        """All arguments so far."""
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]

    def _input(self) -> str | None:
        try:
            value: Any = from_json(self._arguments(), allow_partial="trailing-strings")
        except ValueError:
            return None
        text = value.get(CUSTOM_ARGUMENT) if isinstance(value, dict) else None
        return text if isinstance(text, str) else None
