"""Reads and checks the database's address in the configuration."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from headrace.config import install_command
from headrace.errors import ConfigError

FILE = "headrace.db"


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
