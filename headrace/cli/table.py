"""Prints rows of text in columns."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.logs import one_line


def print_table(rows: Sequence[Sequence[str]], *, right_from: int | None = None) -> None:
    """The first row is the head. Columns from `right_from` on are aligned at the right."""
    lines = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (
            cell.rjust(width) if right_from is not None and place >= right_from else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(cells).rstrip())
