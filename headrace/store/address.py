"""Where the database is: an address of the configuration, and the engine that speaks to it."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from headrace.errors import ConfigError

FILE = "headrace.db"
POOL_SIZE = 8
POOL_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 2.0
STATEMENT_TIMEOUT_S = 30
BUSY_TIMEOUT_MS = 10_000
SQLITE_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    f"busy_timeout={BUSY_TIMEOUT_MS}",
    "cache_size=-8000",
)


def to_url(text: str, data: Path) -> URL:
    """`data`: the folder of the SQLite file where no database is named. Raises ConfigError."""
    if not text:
        return URL.create("sqlite+aiosqlite", database=str(data.absolute() / FILE))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as exc:
        raise ConfigError(
            "store.url is no address of a database; write postgresql://… or sqlite:///PATH"
        ) from exc
    if url.drivername in ("sqlite", "sqlite+aiosqlite"):
        return _sqlite(url)
    if url.drivername in ("postgres", "postgresql", "postgresql+asyncpg"):
        return _postgresql(url)
    raise ConfigError(
        f"store.url: there is no driver {url.drivername}; known: postgresql+asyncpg, sqlite+aiosqlite"
    )


def to_engine(url: URL, *, statement_timeout_s: float = STATEMENT_TIMEOUT_S) -> AsyncEngine:
    """Opens nothing, but makes an SQLite file and its folder that only their owner reads."""
    settings: dict[str, Any] = {
        "pool_size": POOL_SIZE,
        "max_overflow": 0,
        "pool_timeout": POOL_TIMEOUT_S,
        "pool_reset_on_return": None,  # each transaction is ended where it began
        "hide_parameters": True,  # content is never logged
    }
    if url.get_backend_name() == "postgresql":
        milliseconds = int(1000 * statement_timeout_s)
        server = {"application_name": "headrace", "statement_timeout": str(milliseconds)}
        arguments = {"timeout": CONNECT_TIMEOUT_S, "server_settings": server}
        return create_async_engine(url, connect_args=arguments, **settings)
    _make_file(Path(str(url.database)))
    engine = create_async_engine(url, **settings)
    event.listen(engine.sync_engine, "connect", _prepare)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _sqlite(url: URL) -> URL:
    if url.database in (None, "", ":memory:") or str(url.database).startswith("file:"):
        raise ConfigError("store.url names no file; write sqlite:///PATH (four slashes: an absolute one)")
    return url.set(drivername="sqlite+aiosqlite")


def _postgresql(url: URL) -> URL:
    if find_spec("asyncpg") is None:
        raise ConfigError("store.url: PostgreSQL needs asyncpg: pip install 'headrace[postgres]'")
    query = dict(url.query)
    if "sslmode" in query:  # as libpq calls it
        query["ssl"] = query.pop("sslmode")
    return url.set(drivername="postgresql+asyncpg", query=query)


def _make_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_CREAT | os.O_RDONLY, 0o600))


def _prepare(connection: Any, _: object) -> None:
    """A connection to SQLite whose transactions begin where `_begin` says so."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in SQLITE_PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
