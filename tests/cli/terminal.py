"""A program in a terminal that a test reads and types into."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyte

from tests.cli.process import environment

COLUMNS, LINES = 80, 30
WITHIN_S = 60.0
CTRL_C, CTRL_D, UP, ENTER = "\x03", "\x04", "\x1b[A", "\r"


class Terminal:
    """`lines` are what a user sees and has seen: those of the screen, and those that have scrolled off it,
    without trailing spaces.
    """

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process, self._master = process, master
        self._screen = pyte.HistoryScreen(COLUMNS, LINES, history=2000, ratio=0.5)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def lines(self) -> list[str]:
        above = ["".join(row[at].data for at in range(COLUMNS)) for row in self._screen.history.top]
        return [line.rstrip() for line in (*above, *self._screen.display)]

    @property
    def marks_pastes(self) -> bool:
        """Whether the program has asked for marks around what is pasted (pyte shifts such modes)."""
        return 2004 << 5 in self._screen.mode

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def paste(self, text: str) -> None:
        """As terminals send it: line ends as carriage returns, between two marks."""
        self.type("\x1b[200~" + text.replace("\n", "\r") + "\x1b[201~")

    def enter(self, text: str) -> None:
        self.type(text + ENTER)

    def until(self, text: str, count: int = 1) -> None:
        """Wait until the terminal has shown a text so many times."""
        deadline = time.monotonic() + WITHIN_S
        while self.text.count(text) < count:
            assert time.monotonic() < deadline, f"no {text!r} in\n{self.text}"
            self.read(0.05)

    def read(self, wait_s: float) -> None:
        ready, _, _ = select.select([self._master], [], [], wait_s)
        if not ready:
            return
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux: the program has ended
            data = b""
        self._stream.feed(data)
        for query, answer in ((b"\x1b[6n", "\x1b[1;1R"), (b"\x1b[c", "\x1b[?1;2c")):
            if query in data:  # where the cursor is, and what this terminal can do
                self.type(answer)

    def end(self) -> int:
        """Wait for the program to end, and return its exit code."""
        deadline = time.monotonic() + WITHIN_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it did not end:\n{self.text}"
            self.read(0.05)
        self.read(0.1)
        return self.process.returncode


@contextmanager
def terminal(*arguments: str, cwd: Path, **members: str) -> Iterator[Terminal]:
    """`headrace` with these arguments."""
    command: Sequence[str] = [sys.executable, "-m", "headrace", *arguments]
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))

    def control() -> None:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # it is ignored in what a shell runs in the background
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    variables = environment(TERM="xterm-256color", XDG_DATA_HOME=str(cwd / "data"), **members)
    process = subprocess.Popen(
        command, cwd=cwd, env=variables, stdin=slave, stdout=slave, stderr=slave, preexec_fn=control
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(master)
