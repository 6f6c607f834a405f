"""Writes answers to the terminal as they come: as they are, or as formatted markdown."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from headrace.logs import one_line

FENCE = re.compile(r"^ {0,3}(```+|~~~+)", re.MULTILINE)
REFRESHES = 8  # a second


class Writer(Protocol):
    def think(self, piece: str) -> None:
        """Write a piece of what the model thinks before it answers."""
        ...

    def write(self, piece: str) -> None: ...

    def end(self) -> None:
        """Finish the answer, whether it is whole or not."""
        ...


def shown(text: str) -> str:
    """Escape control characters other than line ends and tabs: they could change the terminal."""
    return "".join(sign if sign in "\n\t" else one_line(sign) for sign in text)


@contextmanager
def unechoed() -> Iterator[None]:
    """The terminal does not show what is typed in the block. The `^C` of Ctrl-C would begin a line below an
    answer that fills its own, and the answer would be drawn twice. What is pasted meanwhile is marked, as at
    a prompt, so that the next prompt reads its lines as one message.
    """
    if sys.platform == "win32" or sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    import termios

    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)
    changed = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(file, termios.TCSADRAIN, changed)
    marks = sys.stdout.isatty()
    print(end="\x1b[?2004h" if marks else "", flush=True)
    try:
        yield
    finally:
        print(end="\x1b[?2004l" if marks else "", flush=True)
        termios.tcsetattr(file, termios.TCSADRAIN, before)


class Thoughts:
    """Writes thoughts dimly, where a person sees them: never into a file or a pipe."""

    def __init__(self) -> None:
        self._is_open = False

    def write(self, piece: str) -> None:
        if sys.stderr.isatty() and sys.stdout.isatty():
            self._is_open = True
            print(f"\x1b[2m{shown(piece)}\x1b[0m", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._is_open:
            print("\n", file=sys.stderr, flush=True)
        self._is_open = False


class PlainWriter:
    def __init__(self) -> None:
        self._thoughts = Thoughts()

    def think(self, piece: str) -> None:
        self._thoughts.write(piece)

    def write(self, piece: str) -> None:
        if piece:
            self._thoughts.end()
        print(shown(piece), end="", flush=True)

    def end(self) -> None:
        self._thoughts.end()
        print(flush=True)


class MarkdownWriter:
    """Prints each block of an answer (a paragraph, a list, a code block) once, when it is complete. The block
    that is still growing is shown below, and redrawn.
    """

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console()
        self._thoughts = Thoughts()
        self._text = ""  # not printed yet
        self._live: object | None = None

    def think(self, piece: str) -> None:
        self._thoughts.write(piece)

    def write(self, piece: str) -> None:
        if piece:
            self._thoughts.end()
        self._text += shown(piece)
        cut = complete(self._text)
        if cut:
            self._stop()
            self._print(self._text[:cut])
            self._text = self._text[cut:]
        self._show()

    def end(self) -> None:
        self._thoughts.end()
        self._stop()
        if self._text.strip():
            self._print(self._text)
        self._text = ""

    def _print(self, text: str) -> None:
        from rich.markdown import Markdown

        self._console.print(Markdown(text, hyperlinks=False))
        if text.endswith("\n\n"):
            self._console.print()

    def _show(self) -> None:
        from rich.live import Live
        from rich.markdown import Markdown

        if not self._text.strip():
            return
        block = Markdown(self._text, hyperlinks=False)
        if isinstance(self._live, Live):
            self._live.update(block)
            return
        # what `unechoed` prints meanwhile is for the terminal: redirected, it would be shown as text
        self._live = live = Live(
            block,
            console=self._console,
            transient=True,
            refresh_per_second=REFRESHES,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        live.start()

    def _stop(self) -> None:
        from rich.live import Live

        live, self._live = self._live, None
        if isinstance(live, Live):
            live.stop()


def complete(text: str) -> int:
    """How many characters of a markdown text are whole blocks: up to the last empty line outside of code."""
    found = at = 0
    while (end := text.find("\n\n", at)) >= 0:
        at = end + 2
        if len(FENCE.findall(text[:at])) % 2 == 0:
            found = at
    return found


def writer(*, is_plain: bool) -> Writer:
    """Formatted in a terminal, plain where the output goes elsewhere."""
    return PlainWriter() if is_plain or not sys.stdout.isatty() else MarkdownWriter()
