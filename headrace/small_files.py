"""Reads files that are small, whatever their path names: a device or a pipe may have no end."""

from __future__ import annotations

import errno
import os
from pathlib import Path

MAX_BYTES = 4 * 2**20


def read_small(path: Path) -> bytes:
    """The file's content. Raises OSError, also beyond MAX_BYTES, and for a named pipe: it may have no writer
    (a shell's `<(command)` has no name).
    """
    if Path(os.path.realpath(path)).is_fifo():
        raise OSError(errno.EINVAL, "it is a named pipe", str(path))
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return content


def read_small_text(path: Path) -> str:
    """The file's text. Raises OSError, UnicodeDecodeError."""
    return read_small(path).decode("utf-8")
