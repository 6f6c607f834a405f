"""The files of a SQLite database. A process that has one open goes on writing into it after it was removed or
replaced, and all of that would be lost in silence.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

SUFFIXES = ("", "-wal", "-shm")  # beside the file: what is not yet in it, and an index of that

Identity = tuple[int, int]  # device and inode


class Files:
    """Remembers which files were at `path` when the database was first used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Identity] = {}

    def create_missing(self) -> None:
        """Create an empty file, and its folder, where there is none and there never was one."""
        if not self._known and self._identity("") is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))

    def remember(self) -> None:
        """Once a connection is open, which keeps SQLite from removing the files beside the database."""
        if not self._known:
            found = {suffix: self._identity(suffix) for suffix in SUFFIXES}
            self._known = {suffix: identity for suffix, identity in found.items() if identity is not None}

    def check(self) -> None:
        """Raises OSError when one of the files that were remembered is another one now, or gone."""
        for suffix, identity in self._known.items():
            if self._identity(suffix) != identity:
                words = "its file was removed or replaced while the server ran; restart the server"
                raise OSError(errno.ESTALE, words, f"{self._path}{suffix}")

    def _identity(self, suffix: str) -> Identity | None:
        try:
            status = os.stat(f"{self._path}{suffix}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_dev, status.st_ino
