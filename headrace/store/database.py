"""Reads the database's address in the configuration, and runs transactions: retries passing failures, and
turns the lasting ones into StoreUnavailable.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

from sqlalchemy import URL, AdaptedConnection, Connection, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from headrace.config import install_command
from headrace.errors import ConfigError, HeadraceError, NotFound, StoreUnavailable
from headrace.offload import SMALL, aside
from headrace.store.migrations import MIGRATIONS, Migration, migrate
from headrace.store.transactions import Engine, Mode, Unsettled, Work

log = logging.getLogger(__name__)

ATTEMPTS = 3
STATEMENT_TIMEOUT_S = 30.0
HEALTHY_S = 1.0  # how long after an answer `check` asks no further
PASSING = ("40001", "40P01")  # serialization failure, deadlock
PATHS = re.compile(r"(?<![\w:/])(?:[A-Za-z]:)?[/\\][^\s'\",;)]*")  # of files and sockets
REFUSED = ("28000", "28P01", "3D000", "42501")  # bad credentials or database name: no retry will help

FILE = "headrace.db"

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(slots=True)
class _Health:
    """`answered_at`: the last answer (monotonic). `write_error`: of the last write; None if it succeeded.
    The others count transactions, and the seconds that they took, their waits included.
    """

    answered_at: float = -HEALTHY_S
    write_error: BaseException | None = None
    num_read: int = 0
    num_written: int = 0
    num_failed: int = 0
    seconds: float = 0.0


class Database:
    """Runs each `work` as one transaction, to its end even if the caller is cancelled. A work may run more
    than once, so it must have no effect but on the database. `enter`: the first work, after the
    migrations.
    """

    def __init__(
        self,
        url: URL,
        *,
        enter: Work[None] | None = None,
        migrations: tuple[Migration, ...] = MIGRATIONS,
        statement_timeout_s: float = STATEMENT_TIMEOUT_S,
    ) -> None:
        self.url, self._enter, self._migrations = url, enter, migrations
        self._engine = _to_engine(url, statement_timeout_s)
        self._opening = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._health = _Health()
        self._is_open = False
        self.applied: list[Migration] = []  # by this process

    async def open(self) -> None:
        """Migrate the schema. Raises StoreUnavailable, or ConfigError where another attempt would fail as
        well.
        """
        async with self._opening:
            while not self._is_open and await self._run_to_end(self._migrate_once()) is not None:
                pass
            if not self._is_open and self._enter is not None:
                await self._run_to_end(self._translated(self._enter, "write"))
            self._is_open = True

    async def aclose(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._engine.aclose()

    async def read(self, work: Work[T], *, attempts: int = ATTEMPTS) -> T:
        return await self._run(work, "read", attempts)

    async def write(self, work: Work[T], *, attempts: int = ATTEMPTS) -> T:
        return await self._run(work, "write", attempts)

    async def lock(self, work: Work[T]) -> T:
        """Run one statement without fsync: locks need not survive a power loss, as their holders do not."""
        return await self._run(work, "lock", ATTEMPTS)

    @property
    def cannot_write(self) -> bool:
        """Whether the last write failed."""
        return self._health.write_error is not None

    @property
    def is_available(self) -> bool:
        """Whether the database answered last, and took the last write."""
        return self._health.answered_at > -HEALTHY_S and not self.cannot_write

    @property
    def counts(self) -> dict[str, float]:
        """The transactions so far, by kind, and their seconds."""
        health = self._health
        return {
            "read": health.num_read,
            "write": health.num_written,
            "failed": health.num_failed,
            "seconds": health.seconds,
        }

    async def check(self) -> None:
        """Run a trivial query, unless the database has answered just now. Raises StoreUnavailable."""
        if time.monotonic() - self._health.answered_at > HEALTHY_S:
            await self.read(_select_one)

    async def _run(self, work: Work[T], mode: Mode, attempts: int) -> T:
        if not self._is_open:
            try:
                await self.open()
            except ConfigError as exc:
                raise StoreUnavailable(f"The database cannot be used: {exc.message}") from exc
        return await self._run_to_end(self._translated(work, mode, attempts))

    async def _run_to_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`; it runs to completion even if the caller is cancelled, so no transaction is abandoned
        midway.
        """
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as retrieved: the caller may be gone

    async def _migrate_once(self) -> Migration | None:
        try:
            step = await self._engine.run(lambda c: migrate(c, self._migrations), "write")
        except TypeError as exc:  # asyncpg raises it for an unknown parameter in the address
            raise ConfigError(f"store.url: {exc}") from exc
        except Exception as exc:
            if _sqlstate(exc) in REFUSED:
                raise ConfigError(f"store.url: {_public_message(exc)}") from exc
            raise self._translate(exc) from exc
        if step is not None:
            self.applied.append(step)
            log.info("database: migration %d, %s", step.number, step.name)
        return step

    async def _translated(self, work: Work[T], mode: Mode, attempts: int = ATTEMPTS) -> T:
        health, began = self._health, time.monotonic()
        try:
            result = await self._attempts(work, mode, attempts)
        except HeadraceError:
            raise
        except Exception as exc:
            health.num_failed += 1
            if self._health.answered_at > -HEALTHY_S and _is_of_database(exc):
                log.warning("the database fails: %s", exc)  # with paths, unlike the public message
            if mode != "read":
                self._health.write_error = exc
            self._health.answered_at = -HEALTHY_S
            raise self._translate(exc) from exc
        health.answered_at = time.monotonic()
        health.seconds += health.answered_at - began
        if mode == "read":
            health.num_read += 1
        else:
            health.num_written += 1
            health.write_error = None
        return result

    async def _attempts(self, work: Work[T], mode: Mode, attempts: int) -> T:
        # A commit with an unknown outcome is repeated, too: works are written so that twice is as once. Those
        # that delete find nothing the second time.
        unsettled: Unsettled[T] | None = None
        for num_left in reversed(range(attempts)):
            try:
                return await self._engine.run(work, mode)
            except Unsettled as exc:
                if not num_left:
                    raise exc.cause from None
                unsettled = exc
            except NotFound:
                if unsettled is None:
                    raise
                return unsettled.result  # the row to delete is gone: the first commit had succeeded
            except DBAPIError as exc:
                if not num_left or not _is_passing(exc):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _translate(self, exc: Exception) -> Exception:
        """The error to raise for `exc`: StoreUnavailable for the database's own, `exc` itself for bugs."""
        if isinstance(exc, ProgrammingError) or not _is_of_database(exc):
            return exc
        return StoreUnavailable(f"The database cannot be used now: {_public_message(exc)}.")


def _to_engine(url: URL, statement_timeout_s: float) -> Engine:
    """The engine for this kind of database. Imports only its own driver, because a server's start waits."""
    if url.get_backend_name() == "postgresql":
        from headrace.store.postgresql import PostgreSQL

        return PostgreSQL(url, statement_timeout_s)
    from headrace.store.sqlite import SQLite

    return SQLite(url)


def _select_one(c: Connection) -> None:
    c.execute(text("SELECT 1"))


def _is_passing(exc: DBAPIError) -> bool:
    return exc.connection_invalidated or isinstance(exc, IntegrityError) or _sqlstate(exc) in PASSING


def _sqlstate(exc: Exception) -> str | None:
    """PostgreSQL's error code."""
    origin = exc.orig if isinstance(exc, DBAPIError) else exc
    return getattr(origin, "sqlstate", None)


def _is_of_database(exc: Exception) -> bool:
    """Whether the database or its driver raised it; SQLAlchemy does not wrap errors of connecting."""
    return isinstance(exc, (DBAPIError, PoolTimeout, OSError)) or type(exc).__module__.startswith("asyncpg")


def _public_message(exc: Exception) -> str:
    """The database's message for clients: without values and without paths."""
    origin = exc.orig if isinstance(exc, DBAPIError) else exc
    if isinstance(exc, (PoolTimeout, TimeoutError)):
        return "no answer in time"
    if isinstance(origin, OSError) and origin.strerror:
        return PATHS.sub("(path)", origin.strerror)
    message = str(origin).strip().splitlines()[0] if str(origin).strip() else type(origin).__name__
    # SQLAlchemy puts the class of the error before the message
    return PATHS.sub("(path)", message.rpartition(">: ")[2].removesuffix("."))


class _Transactional(Protocol):
    _database: Database


Rows = TypeVar("Rows", bound=_Transactional)


def reads(
    work: Callable[Concatenate[Rows, Connection, P], T],
) -> Callable[Concatenate[Rows, P], Coroutine[Any, Any, T]]:
    """Decorate a method whose first argument is a connection: each call is a transaction that reads."""

    @wraps(work)
    async def run(self: Rows, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._database.read(lambda c: work(self, c, *args, **kwargs))

    return run


def writes(
    work: Callable[Concatenate[Rows, Connection, P], T],
) -> Callable[Concatenate[Rows, P], Coroutine[Any, Any, T]]:
    """Decorate a method whose first argument is a connection: each call is a transaction that writes. The
    method may run more than once (see Database).
    """

    @wraps(work)
    async def run(self: Rows, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._database.write(lambda c: work(self, c, *args, **kwargs))

    return run


def computed(c: Connection, size: int, work: Callable[[], T]) -> T:
    """Return the result of `work`. On PostgreSQL, work of a size over SMALL runs in a thread (offload.py)."""
    if size <= SMALL or c.dialect.name != "postgresql":
        return work()
    connection = cast(AdaptedConnection, c.connection.dbapi_connection)
    return connection.run_async(lambda _: aside(size, work))


def to_url(text: str, data: Path) -> URL:
    """The URL for SQLAlchemy. `data`: the SQLite file's folder if `text` is empty. Raises ConfigError."""
    if not text:
        return URL.create("sqlite", database=str(data.absolute() / FILE))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as exc:
        message = "store.url is no address of a database; write postgresql://… or sqlite:///PATH"
        raise ConfigError(message) from exc
    if url.drivername in ("sqlite", "sqlite+aiosqlite", "sqlite+pysqlite"):
        return _sqlite(url)
    if url.drivername in ("postgres", "postgresql", "postgresql+asyncpg"):
        return _postgresql(url)
    raise ConfigError(f"store.url: {url.drivername}:// is not known; write postgresql://… or sqlite:///PATH")


def _sqlite(url: URL) -> URL:
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise ConfigError("store.url names no file; write sqlite:///PATH (four slashes: an absolute one)")
    return url.set(drivername="sqlite")


def _postgresql(url: URL) -> URL:
    if find_spec("asyncpg") is None:
        raise ConfigError(f"store.url: PostgreSQL needs asyncpg: {install_command('postgres')}")
    query = dict(url.query)
    if "sslmode" in query:  # libpq's name for it
        query["ssl"] = query.pop("sslmode")
    return url.set(drivername="postgresql+asyncpg", query=query)
