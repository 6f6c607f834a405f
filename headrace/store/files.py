"""The files of a SQLite database. A process that has a file open can go on writing into it after it was
removed or replaced, and would lose those writes without an error; here that is detected.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

SUFFIXES = ("", "-wal", "-shm")  # the database, its write-ahead log, and the log's index

Identity = tuple[int, int]  # device and inode


class Files:
    """Remembers which files belonged to the database at `path` when it was first used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Identity] = {}

    def create_missing(self) -> None:
        """Create the folder and an empty file, unless a file was seen before."""
        if not self._known and self._identity("") is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))

    def remember(self) -> None:
        """Record the files' identities. Call it while a connection is open: SQLite removes the write-ahead
        log with the last one.
        """
        if not self._known:
            identities = {suffix: self._identity(suffix) for suffix in SUFFIXES}
            self._known = {
                suffix: identity for suffix, identity in identities.items() if identity is not None
            }

    def check(self) -> None:
        """Raises OSError if a remembered file is gone, or is another one now."""
        for suffix, identity in self._known.items():
            if self._identity(suffix) != identity:
                message = "its file was removed or replaced while the server ran; restart the server"
                raise OSError(errno.ESTALE, message, f"{self._path}{suffix}")

    def _identity(self, suffix: str) -> Identity | None:
        try:
            status = os.stat(f"{self._path}{suffix}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_dev, status.st_ino
