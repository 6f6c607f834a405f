"""Reads messages in the terminal: with line editing, a history that is kept, and messages of several lines by
pasting them or between two lines of three quotation marks.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

QUOTES = '"""'


class Reader:
    """`history`: the file that keeps what was typed; only this user may read it."""

    def __init__(self, history: Path) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory, History, InMemoryHistory

        lines: History = InMemoryHistory()
        try:
            history.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(history, os.O_CREAT | os.O_APPEND, 0o600))
            lines = FileHistory(str(history))
        except OSError as exc:
            print(f"what is typed is not kept: {exc}", file=sys.stderr)
        self._session: PromptSession[str] = PromptSession(history=lines)

    def read(self) -> str | None:
        """The next message, or a command; None at the end of the input. Ctrl-C drops what is being typed."""
        while True:
            try:
                text = self._session.prompt("> ").strip()
                return self._quoted(text) if text.startswith(QUOTES) else text
            except KeyboardInterrupt:
                print("(Ctrl-D or /bye leaves)", file=sys.stderr)
            except EOFError:
                return None

    def _quoted(self, text: str) -> str:
        """A message that began with quotation marks, up to the marks that end it."""
        text = text.removeprefix(QUOTES)
        while not text.rstrip().endswith(QUOTES):
            text += "\n" + self._session.prompt("... ")
        return text.rstrip().removesuffix(QUOTES).strip("\n")
