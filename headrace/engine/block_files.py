"""Files that hold KV-cache blocks, so that the prefix cache outlives the process.

One file per block, named after the block's key: a header (see _HEADER), then the keys and values as the
runner stores them. Any number of processes may share the folder: a file is written under another name and
renamed when it is complete, and is never changed afterwards. A reader checks everything; a file that is
damaged, truncated or foreign counts as missing and is deleted.

The content of prompts can be guessed from such files, so they are readable by their owner only.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from headrace.small_files import UNFINISHED, write_whole

MAGIC = b"headrkv1"
_HEADER = struct.Struct("<8s16s16s?3xI")  # magic, fingerprint, key, whether the block is exact, CRC-32
SUFFIX = ".kv"
STALE_S = 600  # after so long an unfinished file belongs to a process that was killed
SLACK = 1 / 16  # of max_bytes: how much is written between two times that the folder is measured


@dataclass(frozen=True, slots=True)
class Stored:
    """A block outside the pool."""

    content: memoryview
    is_exact: bool  # see BlockPool.seal


class BlockFiles:
    """The files of all models in `folder`, `max_bytes` together at most; this object reads and writes those
    of one model, whose blocks are of `block_bytes`. `fingerprint`: 16 bytes, which stand for everything that
    the content depends on beside the tokens.
    """

    def __init__(self, folder: Path, max_bytes: int, *, fingerprint: bytes, block_bytes: int) -> None:
        """Raises OSError, also if the folder belongs to another user."""
        self.folder, self.max_bytes, self.block_bytes = folder, max_bytes, block_bytes
        self._fingerprint, self._unmeasured = fingerprint, 0  # bytes written since `trim`
        self._make_folder()
        if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to another user")
        folder.chmod(0o700)

    def has(self, key: bytes) -> bool:
        """Whether there is a file under this key, readable or not."""
        return os.path.exists(self._path(key))  # false also where the folder cannot be looked into

    def read(self, key: bytes, *, age_s: float = 0) -> Stored | None:
        """Return the block and mark it as used `age_s` seconds ago. None if there is no good file of it."""
        path = self._path(key)
        try:
            stored = self._load(path, key)
            if stored is None:
                path.unlink()
        except OSError:
            return None
        if stored is not None:
            _mark_used(path, age_s)
        return stored

    def write(self, key: bytes, content: bytes | memoryview, *, is_exact: bool, age_s: float = 0) -> None:
        """Store a full block, unless it is stored already, as exact as this. Raises OSError."""
        path = self._path(key)
        stored = self.read(key, age_s=age_s)
        if stored is not None and stored.is_exact >= is_exact:
            return
        header = _HEADER.pack(MAGIC, self._fingerprint, key, is_exact, crc32(content))
        self._make_folder()  # a user may have deleted it to clear the cache
        write_whole(path, header, content)
        _mark_used(path, age_s)
        self._unmeasured += len(header) + len(content)
        if self._unmeasured > self.max_bytes * SLACK:
            self.trim()

    def remove(self, key: bytes) -> None:
        with contextlib.suppress(OSError):
            self._path(key).unlink()

    def trim(self) -> None:
        """Delete the least recently used files until `max_bytes` are left, less the bytes that may be written
        before the next call. Raises OSError.
        """
        self._unmeasured = 0
        files = sorted(self._files())
        excess = sum(size for _, size, _ in files) - self.max_bytes * (1 - SLACK)
        for _, size, path in files:
            if excess <= 0:
                break
            with contextlib.suppress(OSError):  # another process was faster
                os.unlink(path)
            excess -= size

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _files(self) -> Iterator[tuple[int, int, str]]:
        """(time of last use, size, path) of each block of any model. Deletes what killed processes left."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if entry.name.endswith(SUFFIX):
                        yield status.st_mtime_ns, status.st_size, entry.path
                    elif entry.name.endswith(UNFINISHED) and status.st_mtime < time.time() - STALE_S:
                        os.unlink(entry.path)

    def _path(self, key: bytes) -> Path:
        return self.folder / (key.hex() + SUFFIX)

    def _load(self, path: Path, key: bytes) -> Stored | None:
        """The block in a file; None if the file is not exactly what `write` wrote under this key."""
        length = _HEADER.size + self.block_bytes
        with path.open("rb", buffering=0) as file:
            data = file.read(length + 1)  # no more, however long it is
        if len(data) != length:
            return None
        *names, is_exact, checksum = _HEADER.unpack_from(data)
        content = memoryview(data)[_HEADER.size :]
        if names != [MAGIC, self._fingerprint, key] or crc32(content) != checksum:
            return None
        return Stored(content, is_exact)


def _mark_used(path: Path, age_s: float) -> None:
    used = time.time() - age_s
    with contextlib.suppress(FileNotFoundError):  # another process has deleted it
        os.utime(path, (used, used))
