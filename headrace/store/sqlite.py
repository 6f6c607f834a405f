"""Transactions on SQLite. A whole transaction runs in a thread: a hop to a thread for each statement would
cost more than the statements do.

A process that has the database's file open can go on writing into it after it was removed or replaced, and
would lose those writes without an error; here that is detected.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from headrace.store.transactions import Mode, Work

SUFFIXES = ("", "-wal", "-shm")  # the database, its write-ahead log, and the log's index

Identity = tuple[int, int]  # device and inode
NUM_READERS = 4
WAIT_MS = 10_000  # how long a transaction waits for another process's lock
PRAGMAS = (
    "journal_mode=WAL",  # readers and writers do not wait for each other
    "foreign_keys=ON",
)

T = TypeVar("T")


class SQLite:
    """Creates the file and its folder readable by their owner only.

    There is one writer at a time: writers of this process queue for one thread, writers of several processes
    wait for SQLite's lock. A transaction raises OSError if the file was removed or replaced.
    """

    def __init__(self, url: URL) -> None:
        self._files = Files(Path(str(url.database)))
        self._engine = create_engine(
            url,
            connect_args={"check_same_thread": False},
            pool_size=NUM_READERS + 1,
            max_overflow=0,
            pool_reset_on_return=None,  # `_transaction` ends each transaction itself
            hide_parameters=True,  # content is never logged
        )
        event.listen(self._engine, "connect", self._prepare)
        event.listen(self._engine, "begin", _begin)
        self._to_write = self._engine.execution_options(synchronous="FULL")  # survives a power loss
        self._to_lock = self._engine.execution_options(synchronous="NORMAL")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="store-reader")
        self._write_lock, self._read_lock = _LockWait(), _LockWait()

    async def run(self, work: Work[T], mode: Mode) -> T:
        loop = asyncio.get_running_loop()
        if mode == "read":
            return await loop.run_in_executor(self._readers, self._read, work)
        engine = self._to_lock if mode == "lock" else self._to_write
        return await loop.run_in_executor(self._writer, self._write, engine, work)

    def _write(self, engine: Engine, work: Work[T]) -> T:
        self._files.check()
        self._files.create_missing()
        result = self._write_lock.run(partial(_transaction, engine, work, commits=True))
        self._files.remember()
        self._files.check()  # a commit to a file that is gone must not be acknowledged
        return result

    def _read(self, work: Work[T]) -> T:
        self._files.check()
        return self._read_lock.run(partial(_transaction, self._engine, work, commits=False))

    def _prepare(self, connection: Any, record: ConnectionPoolEntry) -> None:
        """Set up a new connection. Python's own transaction handling is off; `_begin` begins transactions."""
        wait_ms = min(self._write_lock.wait_ms, self._read_lock.wait_ms)
        record.info["wait_ms"] = wait_ms
        connection.isolation_level = None
        cursor = connection.cursor()
        # the timeout first: the other settings may have to wait for a lock
        for pragma in (f"busy_timeout={wait_ms}", *PRAGMAS):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    async def aclose(self) -> None:
        self._writer.shutdown()
        self._readers.shutdown()
        self._engine.dispose()


class _LockWait:
    """How long transactions wait for a lock of another process.

    Transactions queue for few threads. If each waited the full time, the tenth in the queue would wait ten
    times as long. So after one has timed out, all others try once without waiting, until one of them gets the
    lock.
    """

    def __init__(self) -> None:
        self._is_locked = False

    @property
    def wait_ms(self) -> int:
        return 0 if self._is_locked else WAIT_MS

    def run(self, transaction: Callable[[int], T]) -> T:
        """Call `transaction` with the number of milliseconds that it may wait."""
        try:
            result = transaction(self.wait_ms)
        except OperationalError as exc:
            if getattr(exc.orig, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
                self._is_locked = True
            raise
        self._is_locked = False
        return result


def _transaction(engine: Engine, work: Work[T], wait_ms: int, *, commits: bool) -> T:
    with engine.connect() as c:
        if c.info["wait_ms"] != wait_ms:
            c.info["wait_ms"] = wait_ms
            c.connection.cursor().execute(f"PRAGMA busy_timeout={wait_ms}")
        result = work(c)
        if commits:
            c.commit()
        return result


def _begin(connection: Connection) -> None:
    synchronous = connection.get_execution_options().get("synchronous")
    if synchronous is not None:
        connection.exec_driver_sql(f"PRAGMA synchronous={synchronous}")
    connection.exec_driver_sql("BEGIN" if synchronous is None else "BEGIN IMMEDIATE")


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
        """Raise OSError if a remembered file is gone, or is another one now."""
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
