"""Migrations: an old schema is updated, a newer one is refused; the tables match their definitions."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from sqlalchemy import Connection, inspect, select

from headrace.config import StoreConfig
from headrace.errors import ConfigError
from headrace.store import Store
from headrace.store.database import Database, to_url
from headrace.store.migrations import APPLIED, MIGRATIONS, Migration
from headrace.store.tables import metadata
from tests.store.conftest import Opened
from tests.store.values import OWNER, message

NEXT = Migration(MIGRATIONS[-1].number + 1, "colours", ("ALTER TABLE conversations ADD COLUMN colour TEXT",))


def test_an_old_database_is_brought_up_to_date(opened: Opened, database_url: str) -> None:
    async def run() -> None:
        async with opened() as store:
            made = await store.conversations.create(OWNER, [message("a")], {})
        database = Database(to_url(database_url, Path()), migrations=(*MIGRATIONS, NEXT))
        await database.open()
        assert database.applied == [NEXT]
        names = await database.read(
            lambda c: [column["name"] for column in inspect(c).get_columns("conversations")]
        )
        assert "colour" in names
        numbers = await database.read(lambda c: list(c.scalars(select(APPLIED.c.number))))
        assert sorted(numbers) == [step.number for step in (*MIGRATIONS, NEXT)]
        await database.aclose()
        with pytest.raises(
            ConfigError, match=f"has schema {NEXT.number}, and this version of Headrace knows"
        ):
            async with opened():
                pass
        assert made.head is not None

    asyncio.run(run())


def test_servers_starting_together_migrate_once(database_url: str) -> None:
    async def run() -> None:
        databases = [Database(to_url(database_url, Path())) for _ in range(4)]
        await asyncio.gather(*(database.open() for database in databases))
        assert sum(len(database.applied) for database in databases) == len(MIGRATIONS)
        await asyncio.gather(*(database.aclose() for database in databases))

    asyncio.run(run())


def test_a_failed_migration_is_rolled_back(opened: Opened, database_url: str) -> None:
    torn = Migration(NEXT.number, "torn", (*NEXT.statements, "CREATE TABLE items (x TEXT)"))

    async def run() -> None:
        async with opened():
            pass
        database = Database(to_url(database_url, Path()), migrations=(*MIGRATIONS, torn))
        with pytest.raises(Exception, match="already exists"):
            await database.open()
        await database.aclose()
        database = Database(to_url(database_url, Path()), migrations=(*MIGRATIONS, NEXT))
        await database.open()
        await database.aclose()

    asyncio.run(run())


def test_the_migrated_tables_match_the_definitions(opened: Opened) -> None:
    def columns(c: Connection) -> dict[str, dict[str, bool]]:
        found = inspect(c)
        return {
            name: {column["name"]: column["nullable"] for column in found.get_columns(name)}
            for name in found.get_table_names()
            if name != APPLIED.name
        }

    async def run() -> None:
        async with opened() as store:
            expected = {
                name: {column.name: bool(column.nullable) for column in table.columns}
                for name, table in metadata.tables.items()
            }
            assert await store._database.read(columns) == expected

    asyncio.run(run())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://u:secret@h/d", "mysql:// is not known"),
        ("nonsense secret", "is no address of a database"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("postgresql+psycopg://u:secret@h/d", "is not known"),
        ("postgresql://u:secret@127.0.0.1:1/d?nonsense=1", "nonsense"),
        ("postgresql://u:secret@h:port/d", "is no address of a database"),
    ],
)
def test_the_error_for_a_bad_address_has_no_password(url: str, said: str, tmp_path: Path) -> None:
    async def run() -> None:
        store = Store(StoreConfig(url=url), tmp_path)
        try:
            await store.start()
        finally:
            await store.aclose()

    with pytest.raises(ConfigError, match=said) as refused:
        asyncio.run(run())
    assert "secret" not in refused.value.message


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)  # what the import system takes for "there is none"
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[postgres\]'"):
        to_url("postgresql://u:p@h/d", Path())


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_usual_schemes_of_addresses_are_accepted(scheme: str) -> None:
    url = to_url(f"{scheme}://u:p%40@h:5433/d?sslmode=require", Path())
    assert url.drivername == "postgresql+asyncpg"
    assert (url.password, url.port, dict(url.query)) == ("p@", 5433, {"ssl": "require"})
