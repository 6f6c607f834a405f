"""Writes to the terminal: rows of text in columns, a progress bar, the providers that a server has."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

from headrace.config import Config
from headrace.logs import one_line

WIDTH, SHORTEST = 30, 5  # of a bar


def print_table(rows: Sequence[Sequence[str]], *, right_from: int | None = None) -> None:
    """Print rows in columns. The first row is the head. Columns from `right_from` on are aligned at the
    right.
    """
    from rich.cells import cell_len  # Chinese signs are two columns wide

    lines = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = []
        for place, (cell, width) in enumerate(zip(line, widths, strict=True)):
            room = " " * (width - cell_len(cell))
            cells.append(room + cell if right_from is not None and place >= right_from else cell + room)
        print("  ".join(cells).rstrip())


class ProgressBar:
    """A progress bar on a terminal; elsewhere one line per tenth. Call it with a label, the amount done and
    the total (0: unknown), in bytes or in items.
    """

    def __init__(self, stream: TextIO = sys.stderr, *, is_bytes: bool = True) -> None:
        self._stream, self._is_terminal, self._is_bytes = stream, stream.isatty(), is_bytes
        self._label, self._tenth = "", -1

    def __call__(self, label: str, done: int, total: int) -> None:
        if label != self._label:
            self._finish_line()
            self._label, self._tenth = label, -1
        if self._is_terminal:
            columns = shutil.get_terminal_size().columns - 1  # a line that wraps cannot be written over
            self._stream.write("\r" + self._bar(label, done, total, columns)[:columns] + "\x1b[K")
            self._stream.flush()
        elif (tenth := 10 * done // total if total else 0) != self._tenth:
            self._tenth = tenth
            self._stream.write(self._bar(label, done, total) + "\n")
            self._stream.flush()

    def close(self) -> None:
        self._finish_line()
        self._label = ""

    def _finish_line(self) -> None:
        if self._label and self._is_terminal:
            self._stream.write("\n")

    def _bar(self, label: str, done: int, total: int, columns: int = 200) -> str:
        if not total:
            return f"{label} …" if self._is_bytes or not done else f"{label} {done} …"
        is_large = self._is_bytes and total > 10_000
        amount = f"{done / 1e6:.1f} of {total / 1e6:.1f} MB" if is_large else f"{done} of {total}"
        percent = f"{100 * done // total:3d} %"
        width = min(WIDTH, columns - len(f"{label} [] {percent}  {amount}"))
        if width < SHORTEST:
            return f"{percent}  {amount}  {label}"
        filled = width * done // total
        return f"{label} [{'#' * filled}{'.' * (width - filled)}] {percent}  {amount}"


def print_providers(config: Config) -> None:
    """The lines about providers that a server prints when it starts."""
    for name, provider in config.providers.items():
        at = ", ".join(provider.replicas) or provider.base_url
        print(f"  remote  {name} ({provider.kind}{f' at {at}' if at else ''})")
