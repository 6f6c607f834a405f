"""Reads files that are small, whatever their path names: a device or a pipe may have no end. Writes files so
that readers see them whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

MAX_BYTES = 4 * 2**20
UNFINISHED = ".tmp"  # the suffix of files that are being written


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


def write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file, with the permissions 0600, under another name, and rename it. Raises OSError."""
    number, unfinished = tempfile.mkstemp(UNFINISHED, dir=path.parent)
    try:
        with open(number, "wb") as file:
            file.writelines(parts)
        os.replace(unfinished, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise
