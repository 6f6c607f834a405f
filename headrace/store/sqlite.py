"""One transaction on SQLite: in a thread, by one hop, since a hop for each statement would cost more than the
statements do. PostgreSQL's are in postgresql.py.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event

from headrace.store.engines import Mode, Work

NUM_READERS = 4
PRAGMAS = (
    "busy_timeout=10000",  # before the others, which may have to wait themselves
    "journal_mode=WAL",  # who reads and who writes do not wait for each other
    "foreign_keys=ON",
)

T = TypeVar("T")


class SQLite:
    """Creates the file and its folder so that nobody but their owner reads them. Writers of one process
    wait here, of several there.
    """

    def __init__(self, url: URL) -> None:
        self._file = Path(str(url.database))
        self._engine = create_engine(
            url,
            connect_args={"check_same_thread": False},
            pool_size=NUM_READERS + 1,
            max_overflow=0,
            pool_reset_on_return=None,  # each transaction is ended where it began
            hide_parameters=True,  # content is never logged
        )
        event.listen(self._engine, "connect", _prepare)
        event.listen(self._engine, "begin", _begin)
        self._to_write = self._engine.execution_options(synchronous="FULL")  # it outlives a loss of power
        self._to_hold = self._engine.execution_options(synchronous="NORMAL")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="store-reader")

    async def run(self, work: Work[T], mode: Mode) -> T:
        loop = asyncio.get_running_loop()
        if mode == "read":
            return await loop.run_in_executor(self._readers, self._read, work)
        engine = self._to_hold if mode == "hold" else self._to_write
        return await loop.run_in_executor(self._writer, self._write, engine, work)

    def _write(self, engine: Engine, work: Work[T]) -> T:
        if not self._file.exists():
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self._file, os.O_CREAT | os.O_RDWR, 0o600))
        with engine.connect() as c:
            result = work(c)
            c.commit()
            return result

    def _read(self, work: Work[T]) -> T:
        with self._engine.connect() as c:
            return work(c)

    async def aclose(self) -> None:
        self._writer.shutdown()
        self._readers.shutdown()
        self._engine.dispose()


def _prepare(connection: Any, _: object) -> None:
    """A connection to SQLite whose transactions begin where `_begin` says so."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    synchronous = connection.get_execution_options().get("synchronous")
    if synchronous is not None:
        connection.exec_driver_sql(f"PRAGMA synchronous={synchronous}")
    connection.exec_driver_sql("BEGIN" if synchronous is None else "BEGIN IMMEDIATE")
