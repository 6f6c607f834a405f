"""One transaction on either database. SQLite's run in threads, one hop each, since a hop for each statement would
cost more than the statements; PostgreSQL's run on the event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

NUM_READERS = 4
POOL_SIZE = 10
POOL_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 2.0
STATEMENT_TIMEOUT_S = 30.0
PRAGMAS = (
    "journal_mode=WAL",  # who reads and who writes do not wait for each other
    "synchronous=FULL",  # what is committed outlives a loss of power
    "foreign_keys=ON",
    "busy_timeout=10000",
)

T = TypeVar("T")
Work = Callable[[Connection], T]


class Unsettled(Exception, Generic[T]):
    """The connection was lost in the commit: it has taken place, or it has not."""

    def __init__(self, result: T, cause: DBAPIError) -> None:
        super().__init__(str(cause))
        self.result, self.cause = result, cause


class Engine(Protocol):
    async def run(self, work: Work[T], *, writes: bool) -> T:
        """One transaction. Raises Unsettled, and what the driver raises."""
        ...

    async def aclose(self) -> None: ...


def to_engine(url: URL, *, statement_timeout_s: float = STATEMENT_TIMEOUT_S) -> Engine:
    if url.get_backend_name() == "postgresql":
        return PostgreSQL(url, statement_timeout_s)
    return SQLite(url)


class SQLite:
    """Creates the file and its folder so that nobody but their owner reads them. Writers of one process wait here,
    of several there.
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
        self._to_write = self._engine.execution_options(writes=True)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="store-reader")

    async def run(self, work: Work[T], *, writes: bool) -> T:
        loop = asyncio.get_running_loop()
        if writes:
            return await loop.run_in_executor(self._writer, self._write, work)
        return await loop.run_in_executor(self._readers, self._read, work)

    def _write(self, work: Work[T]) -> T:
        if not self._file.exists():
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self._file, os.O_CREAT | os.O_RDWR, 0o600))
        with self._to_write.connect() as c:
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


class PostgreSQL:
    def __init__(self, url: URL, statement_timeout_s: float) -> None:
        milliseconds = str(int(1000 * statement_timeout_s))
        server = {"application_name": "headrace", "statement_timeout": milliseconds}
        self._engine = create_async_engine(
            url,
            connect_args={"timeout": CONNECT_TIMEOUT_S, "server_settings": server},
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_S,
            pool_reset_on_return=None,
            hide_parameters=True,
        )

    async def run(self, work: Work[T], *, writes: bool) -> T:
        async with self._engine.connect() as c:
            result = await c.run_sync(work)
            if writes:
                try:
                    await c.commit()
                except DBAPIError as exc:
                    if exc.connection_invalidated:
                        raise Unsettled(result, exc) from exc
                    raise
            return result

    async def aclose(self) -> None:
        await self._engine.dispose()


def _prepare(connection: Any, _: object) -> None:
    """A connection to SQLite whose transactions begin where `_begin` says so."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
