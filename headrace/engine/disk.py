"""The prefix cache's second level: blocks that leave the pool are written to files, and read back ahead of
the sequences whose prompts begin with them.

           evicted                     first missing block of a prompt
    pool ──────────→ writer's queue ─→ files ─→ reader ─→ pool
                           └──────────────────────↑

DiskCache is called on the engine's thread, and nothing waits for the disk there: one thread writes, and
what it cannot keep up with is dropped; another reads, a piece of a prompt at a time, straight into blocks
that are held for it meanwhile. Blocks that wait to be written are found, too. A sequence joins the scheduler
after its last piece, and finds the blocks in the pool like any others.

One file per block, named after the block's key: a header (see _HEADER), then the keys and values as the
runner stores them. Any number of processes may share the folder: a file is written under another name and
renamed when it is complete, and is never changed afterwards. A reader checks everything; a file that is
damaged, truncated or foreign counts as missing and is deleted. The content of prompts can be guessed from
such files, so they are readable by their owner only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from headrace.engine.blocks import BlockPool
from headrace.engine.prefix import PrefixCache
from headrace.engine.runner import Runner
from headrace.engine.scheduler import Scheduler
from headrace.engine.sequence import Sequence
from headrace.small_files import UNFINISHED, write_whole

log = logging.getLogger(__name__)

PIECE = 16  # blocks read at a time: other prompts and the steps of running sequences come in between
MAX_QUEUED_BYTES = 64 * 2**20  # copies of evicted blocks that wait to be written
CLOSE_S = 5.0  # how long `close` may write what the pool still has
AGE_STEP_S = 0.01  # see _age; more than the time in which a block is read
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
        """Open or create the folder. Raises OSError, also if it belongs to another user."""
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


@dataclass(slots=True)
class _Fetch:
    """A piece that is being read: `present` blocks are in the pool already, `new` ones are filled."""

    sequence: Sequence
    keys: list[bytes]  # of `present`, then of `new`
    present: list[int]
    new: list[int]
    exactness: Future[list[bool]]  # of the blocks that were read: the leading ones of `new`


class DiskCache:
    """Connects a block pool with its files."""

    def __init__(
        self, files: BlockFiles, scheduler: Scheduler, prefixes: PrefixCache, runner: Runner
    ) -> None:
        self._files, self._scheduler, self._prefixes, self._runner = files, scheduler, prefixes, runner
        self._pool: BlockPool = scheduler.pool
        self._pool.on_evict = self._spill
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="disk-writer")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="disk-reader")
        # Blocks that wait to be written, by key. The engine's thread adds, the writer removes, the reader
        # looks up: single operations of a dictionary, which are atomic.
        self._queued: dict[bytes, Stored] = {}
        self._waiting: deque[tuple[Sequence, int]] = deque()  # with how many blocks each had the last time
        self._fetch: _Fetch | None = None
        self._ready: list[Sequence] = []
        self.num_written = self.num_dropped = self.num_read = self.num_failures = 0  # blocks
        self._writer.submit(self._trim)

    @property
    def is_fetching(self) -> bool:
        return self._fetch is not None or bool(self._ready)  # while any waits, there is a piece being read

    @property
    def blocks(self) -> list[int]:
        """The blocks of the pool that are held for reading."""
        return [*self._fetch.present, *self._fetch.new] if self._fetch is not None else []

    def fetch(self, sequence: Sequence) -> bool:
        """Start to read the sequence's blocks; `fetched` returns it afterwards. False if there are none."""
        if sequence.leader is not None:
            return False  # it will find its leader's blocks in the pool
        keys, exactly = self._prefixes.shareable(sequence), sequence.params.invariant
        missing = next((key for key in keys if not self._pool.has(key, exactly=exactly)), None)
        if missing is None or not self._has(missing):
            return False
        self._waiting.append((sequence, -1))
        self._begin()
        return True

    def fetched(self) -> list[Sequence]:
        """The sequences whose blocks were all read; each is returned once."""
        if self._fetch is not None and self._fetch.exactness.done():
            self._end(self._fetch)
            self._begin()
        ready, self._ready = self._ready, []
        return [sequence for sequence in ready if sequence.finish_reason is None]

    def wait(self, timeout_s: float) -> None:
        """Wait until a piece is read."""
        if self._fetch is not None:
            wait([self._fetch.exactness], timeout_s)

    def drop(self, sequence: Sequence) -> None:
        """Delete the files of a sequence's blocks, whose content is not to be trusted."""
        for key in sequence.keys:
            self._queued.pop(key, None)
            self._writer.submit(self._files.remove, key)

    def flush(self) -> None:
        """Wait until what was evicted is written."""
        self._writer.submit(int).result()

    def close(self) -> None:
        """Write the blocks that the pool still has, the most recently used first, for a limited time."""
        self._reader.shutdown(cancel_futures=True)
        deadline, room = time.monotonic() + CLOSE_S, self._files.max_bytes // self._runner.block_bytes
        for age, (block, key, is_exact) in enumerate(self._pool.sealed()):
            if age >= room or time.monotonic() > deadline:
                break
            content = memoryview(self._runner.read_block(block))
            self._writer.submit(self._write, key, content, is_exact, _age(age)).result()
        self._writer.submit(self._trim)
        self._writer.shutdown()

    def _begin(self) -> None:
        """Start the next piece, if none is being read."""
        while self._fetch is None and self._waiting:
            sequence, before = self._waiting.popleft()
            if sequence.finish_reason is not None or not self._begin_for(sequence, before):
                self._ready.append(sequence)

    def _begin_for(self, sequence: Sequence, before: int) -> bool:
        """Start to read the next piece of this sequence's prompt. `before`: how many blocks of it were found
        in the pool the last time; if there are no more now, the pool is too full for the prompt.
        """
        keys, exactly = self._prefixes.shareable(sequence), sequence.params.invariant
        present: list[int] = []
        for key in keys:
            block = self._pool.find(key, exactly=exactly)
            if block is None:
                break
            present.append(block)
        count = min(PIECE, len(keys) - len(present), self._pool.num_available - len(self._scheduler.running))
        if count <= 0 or len(present) <= before or not self._has(keys[len(present)]):
            self._pool.release(reversed(present))
            return False
        new = [self._pool.allocate() for _ in range(count)]
        keys = keys[: len(present) + count]
        future = self._reader.submit(self._read, keys, len(present), new, exactly)
        self._fetch = _Fetch(sequence, keys, present, new, future)
        return True

    def _end(self, fetch: _Fetch) -> None:
        """Publish what was read, and let the sequence wait for its next piece if there may be one."""
        self._fetch = None
        failure = fetch.exactness.exception()
        if failure is not None:  # the prompt is computed instead
            log.warning("cached blocks cannot be read", exc_info=failure)
        exactness = [] if failure is not None else fetch.exactness.result()
        blocks = enumerate(zip(fetch.new, exactness, strict=False), len(fetch.present))
        for position, (block, is_exact) in blocks:
            self._prefixes.publish_block(fetch.sequence, position, block, is_exact=is_exact)
        self._pool.release(reversed([*fetch.present, *fetch.new]))
        self.num_read += len(exactness)
        if len(exactness) == len(fetch.new):
            self._waiting.append((fetch.sequence, len(fetch.present)))
        else:
            self._ready.append(fetch.sequence)

    def _read(self, keys: list[bytes], start: int, blocks: list[int], exactly: bool) -> list[bool]:
        """In the reader's thread: fill the blocks from the files of keys[start:], up to the first that is
        missing.
        """
        exactness = []
        for position, block in enumerate(blocks, start):
            key = keys[position]
            stored = self._queued.get(key) or self._files.read(key, age_s=_age(position))
            if stored is None or (exactly and not stored.is_exact):
                break
            self._runner.write_block(block, stored.content)
            exactness.append(stored.is_exact)
        return exactness

    def _has(self, key: bytes) -> bool:
        return key in self._queued or self._files.has(key)

    def _spill(self, block: int, key: bytes, is_exact: bool) -> None:
        """Copy an evicted block, which is overwritten next, and queue it for the writer."""
        if len(self._queued) * self._runner.block_bytes >= MAX_QUEUED_BYTES:
            self.num_dropped += 1
            return
        waiting = self._queued.get(key)
        if waiting is not None and waiting.is_exact >= is_exact:
            return
        stored = Stored(memoryview(self._runner.read_block(block)), is_exact)
        self._queued[key] = stored
        self._writer.submit(self._write_queued, key, stored)

    def _write_queued(self, key: bytes, stored: Stored) -> None:
        if self._queued.get(key) is stored:  # else it was dropped, or a better one has taken its place
            self._write(key, stored.content, stored.is_exact, 0)
            if self._queued.get(key) is stored:
                self._queued.pop(key, None)

    def _write(self, key: bytes, content: memoryview, is_exact: bool, age_s: float) -> None:
        try:
            self._files.write(key, content, is_exact=is_exact, age_s=age_s)
            self.num_written += 1
        except OSError as exc:
            self._report(exc)

    def _trim(self) -> None:
        try:
            self._files.trim()
        except OSError as exc:
            self._report(exc)

    def _report(self, exc: OSError) -> None:
        """Log the first failure only. A block that is not written is merely computed again, and the next one
        may find room.
        """
        log.log(logging.DEBUG if self.num_failures else logging.WARNING,
                "the prefix cache cannot be written to %s: %s", self._files.folder, exc)  # fmt: skip
        self.num_failures += 1


def _age(position: int) -> float:
    """By how many seconds a prompt's block counts as used earlier than its first: the last ones are deleted
    first, because none is found without those before it.
    """
    return position * AGE_STEP_S
