"""Transactions: what fails in passing is tried again, what cannot be done is StoreUnavailable."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, text
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from headrace.errors import ConfigError, HeadraceError, NotFound, StoreUnavailable
from headrace.store.migrations import MIGRATIONS, Migration, migrate
from headrace.store.transactions import Engine, Mode, Unsettled, Work

log = logging.getLogger(__name__)

ATTEMPTS = 3
STATEMENT_TIMEOUT_S = 30.0
KNOWN_S = 1.0  # so long a database that has answered is believed to answer
PASSING = ("40001", "40P01")  # serialization failure, deadlock
PATH = re.compile(r"(?<![\w:/])(?:[A-Za-z]:)?[/\\][^\s'\",;)]*")  # of a file or a socket here
REFUSED = ("28000", "28P01", "3D000", "42501")  # who we are, or which database: no retry will help

T = TypeVar("T")


@dataclass(slots=True)
class _Health:
    """`answered`: when it last did (monotonic); `error`: what a write failed with, until one succeeds."""

    answered: float = -KNOWN_S
    error: BaseException | None = None


class Database:
    """Work runs as one transaction, to its end even when its caller leaves. It may run more than once.
    `enter`: the first work, once the schema is as it must be.
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
        self.applied: list[Migration] = []  # by this one

    async def open(self) -> None:
        """Migrate. Raises StoreUnavailable, and ConfigError where trying again is of no use."""
        async with self._opening:
            while not self._is_open and await self._finished(self._step()) is not None:
                pass
            if not self._is_open and self._enter is not None:
                await self._finished(self._translated(self._enter, "write"))
            self._is_open = True

    async def aclose(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._engine.aclose()

    async def read(self, work: Work[T], *, attempts: int = ATTEMPTS) -> T:
        return await self._run(work, "read", attempts)

    async def write(self, work: Work[T], *, attempts: int = ATTEMPTS) -> T:
        return await self._run(work, "write", attempts)

    async def hold(self, work: Work[T]) -> T:
        """One statement, which need not outlive a loss of power: those who hold something do not, either."""
        return await self._run(work, "hold", ATTEMPTS)

    @property
    def cannot_write(self) -> bool:
        """Whether the last write has failed."""
        return self._health.error is not None

    async def check(self) -> None:
        """Raises StoreUnavailable. Free when it has answered just now."""
        if time.monotonic() - self._health.answered > KNOWN_S:
            await self.read(_touch)

    async def _run(self, work: Work[T], mode: Mode, attempts: int) -> T:
        if not self._is_open:
            try:
                await self.open()
            except ConfigError as exc:
                raise StoreUnavailable(f"The database cannot be used: {exc.message}") from exc
        return await self._finished(self._translated(work, mode, attempts))

    async def _finished(self, work: Coroutine[Any, Any, T]) -> T:
        """What it gives; when the caller is cancelled it goes on, so that no transaction is left half-way."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # it has been told, or nobody is left to be told

    async def _step(self) -> Migration | None:
        try:
            step = await self._engine.run(lambda c: migrate(c, self._migrations), "write")
        except TypeError as exc:  # asyncpg's word for a member of the address that it does not know
            raise ConfigError(f"store.url: {exc}") from exc
        except Exception as exc:
            if _sqlstate(exc) in REFUSED:
                raise ConfigError(f"store.url: {_told(exc)}") from exc
            raise self._translate(exc) from exc
        if step is not None:
            self.applied.append(step)
            log.info("database: migration %d, %s", step.number, step.name)
        return step

    async def _translated(self, work: Work[T], mode: Mode, attempts: int = ATTEMPTS) -> T:
        try:
            result = await self._attempts(work, mode, attempts)
        except HeadraceError:
            raise
        except Exception as exc:
            if self._health.answered > -KNOWN_S and _is_of_database(exc):
                log.warning("the database fails: %s", exc)  # with its paths, which no caller is told
            if mode != "read":
                self._health.error = exc
            self._health.answered = -KNOWN_S
            raise self._translate(exc) from exc
        self._health.answered = time.monotonic()
        if mode != "read":
            self._health.error = None
        return result

    async def _attempts(self, work: Work[T], mode: Mode, attempts: int) -> T:
        unsettled: Unsettled[T] | None = None
        for left in reversed(range(attempts)):
            try:
                return await self._engine.run(work, mode)
            except Unsettled as exc:
                if not left:
                    raise exc.cause from None
                unsettled = exc
            except NotFound:
                if unsettled is None:
                    raise
                return unsettled.result  # what it deletes is gone: the commit had taken place
            except DBAPIError as exc:
                if not left or not _is_passing(exc):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _translate(self, exc: Exception) -> Exception:
        """Errors of ours, and of programs, stay what they are."""
        if isinstance(exc, ProgrammingError) or not _is_of_database(exc):
            return exc
        return StoreUnavailable(f"The database cannot be used now: {_told(exc)}.")


def _to_engine(url: URL, statement_timeout_s: float) -> Engine:
    """The engine for this kind of database. Imports only its own driver, because a server's start waits."""
    if url.get_backend_name() == "postgresql":
        from headrace.store.postgresql import PostgreSQL

        return PostgreSQL(url, statement_timeout_s)
    from headrace.store.sqlite import SQLite

    return SQLite(url)


def _touch(c: Connection) -> None:
    c.execute(text("SELECT 1"))


def _is_passing(exc: DBAPIError) -> bool:
    return exc.connection_invalidated or isinstance(exc, IntegrityError) or _sqlstate(exc) in PASSING


def _sqlstate(exc: Exception) -> str | None:
    """PostgreSQL's code of what went wrong."""
    origin = exc.orig if isinstance(exc, DBAPIError) else exc
    return getattr(origin, "sqlstate", None)


def _is_of_database(exc: Exception) -> bool:
    """What a driver raises while it connects is not wrapped."""
    return isinstance(exc, (DBAPIError, PoolTimeout, OSError)) or type(exc).__module__.startswith("asyncpg")


def _told(exc: Exception) -> str:
    """The database's own words, without values and without paths: a caller reads them."""
    origin = exc.orig if isinstance(exc, DBAPIError) else exc
    if isinstance(exc, (PoolTimeout, TimeoutError)):
        return "no answer in time"
    if isinstance(origin, OSError) and origin.strerror:
        return PATH.sub("(path)", origin.strerror)
    words = str(origin).strip().splitlines()[0] if str(origin).strip() else type(origin).__name__
    # without the class that SQLAlchemy puts before it
    return PATH.sub("(path)", words.rpartition(">: ")[2].removesuffix("."))
