"""Commands for operators: verify, prune, export, import and keys, whether servers are running or not. An
export is lines of JSON, to import into another database, of either kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import Connection, Table, func, select
from sqlalchemy.exc import DBAPIError, StatementError

from headrace.config import StoreConfig
from headrace.errors import ConfigError, ItemNotFound
from headrace.store.database import Database, to_url
from headrace.store.hashing import AddressedItem, address
from headrace.store.items import insert_new, position_of
from headrace.store.keys import Keys, UsageCounts
from headrace.store.migrations import MIGRATIONS
from headrace.store.processes import RUNNING
from headrace.store.retention import prune
from headrace.store.tables import (
    attachments,
    completions,
    conversations,
    defaults,
    events,
    items,
    presets,
    profiles,
    responses,
    storable,
)
from headrace.store.verify import ROWS, STREAMED, Progress, problems

NO_TIMEOUT_S = 0.0
FORMAT = "headrace"
# The process of an unfinished response. No process has this id, so the response is found to have failed.
IMPORTED = "imported"
# Rows come after the rows that they reference.
TABLES: Mapping[str, Table] = {
    "items": items,
    "conversations": conversations,
    "responses": responses,
    "events": events,
    "completions": completions,
    "steering_profiles": profiles,
    "steering_defaults": defaults,
    "steering_attachments": attachments,
    "presets": presets,
}
TRANSIENT = ("holder", "token", "process", "is_deleted", "is_wanted")  # columns for running processes


def no_progress(num_done: int, num_total: int) -> None:
    """Report no progress."""


async def verify(database: Database, report: Progress = no_progress) -> list[str]:
    """Recompute all hashes and follow all references. Returns a line for each thing that is wrong."""
    return await database.read(lambda c: problems(_snapshot(c), report))


class Maintenance:
    """An open, migrated database. Entering it raises ConfigError, StoreUnavailable."""

    def __init__(self, config: StoreConfig, data: Path) -> None:
        self._config = config
        self._database = Database(to_url(config.url, data), statement_timeout_s=NO_TIMEOUT_S)
        self.keys = Keys(self._database)
        self.usage = UsageCounts(self._database, process="")  # to read from

    async def __aenter__(self) -> Maintenance:
        try:
            await self._database.open()
        except BaseException:
            await self._database.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._database.aclose()

    @property
    def applied(self) -> list[str]:
        """The migrations that were applied on opening, as NUMBER (NAME)."""
        return [f"{step.number} ({step.name})" for step in self._database.applied]

    async def verify(self, report: Progress) -> list[str]:
        return await verify(self._database, report)

    async def prune(self) -> dict[str, int]:
        """Delete what is past its retention. Returns how many rows of each kind."""
        return await prune(self._database, self._config)

    async def write_to(self, write: Callable[[str], object], report: Progress) -> int:
        """Export the rows of all owners, one per line. Returns the number of lines."""

        def work(c: Connection) -> int:
            total, done = num_rows(_snapshot(c)), 0
            for done, line in enumerate(lines(c)):
                write(line + "\n")
                report(min(done, total), total)
            return done

        return await self._database.read(work, attempts=1)  # lines that were written cannot be taken back

    async def read_from(self, source: Iterable[str], report: Callable[[int], None]) -> Counts:
        """Import an export. `report` gets the number of lines read so far. Rows that exist already stay as
        they are. Raises ConfigError naming a line.
        """
        counts = Counts()
        for first, batch in batches(source):
            counts += await self._database.write(partial(insert_batch, first=first, batch=batch))
            report(first + len(batch) - 1)
        return counts


def _snapshot(c: Connection) -> Connection:
    """The connection, reading the database as it is now, whatever others write meanwhile."""
    if c.dialect.name == "postgresql":
        return c.execution_options(isolation_level="REPEATABLE READ")
    return c  # a SQLite transaction reads a snapshot anyway


@dataclass(slots=True)
class Counts:
    """Rows that were inserted, and rows that existed already."""

    num_new: int = 0
    num_known: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.num_new + other.num_new, self.num_known + other.num_known)


def num_rows(c: Connection) -> int:
    """The number of rows in all exported tables."""
    return sum(c.scalar(select(func.count()).select_from(table)) or 0 for table in TABLES.values())


def lines(c: Connection) -> Iterator[str]:
    """The export: a header, then a line for each row."""
    yield json.dumps({"format": FORMAT, "schema": MIGRATIONS[-1].number})
    for name, table in TABLES.items():
        statement = select(*(column for column in table.c if column.name not in TRANSIENT))
        if name == "items":
            statement = statement.order_by(items.c.depth)
        if name == "responses":
            statement = statement.where(~responses.c.is_deleted)
        if name == "events":
            statement = statement.join(responses, responses.c.id == events.c.response)
            statement = statement.where(~responses.c.is_deleted)
        for row in c.execute(statement, execution_options=STREAMED):
            yield json.dumps({"table": name, **row._mapping})


def batches(source: Iterable[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """The lines after the header in batches, each with the number of its first line. Raises ConfigError if
    this is no export, or one with another schema.
    """
    numbered = iter(source)
    first = next(numbered, "")
    header = _parse(first, 1)
    if header.get("format") != FORMAT:
        raise ConfigError("line 1: this is no export of Headrace")
    if header.get("schema") != MIGRATIONS[-1].number:
        raise ConfigError(
            f"line 1: this was exported with schema {header.get('schema')}, this version has "
            f"{MIGRATIONS[-1].number}: export with the same version"
        )
    number = 2
    while batch := list(islice(numbered, ROWS)):
        yield number, batch
        number += len(batch)


def insert_batch(c: Connection, *, first: int, batch: Sequence[str]) -> Counts:
    """Insert rows. `first`: the number of the first line. Raises ConfigError naming the line that is no row,
    or an item with a wrong hash.
    """
    counts = Counts()
    for number, line in enumerate(batch, first):
        row = _parse(line, number)
        name = row.pop("table", None)
        table = TABLES.get(str(name))
        if table is None:
            raise ConfigError(f"line {number}: there is no table {name!r}")
        if set(row) != {column.name for column in table.c} - {*TRANSIENT}:
            raise ConfigError(f"line {number}: its members are not those of {name}")
        if table is items:
            _check_item(c, row, number)
        values = {**row, **_transient(table, row)}
        counts.num_new += c.execute(insert_new(table, c.dialect.name), values).rowcount
    counts.num_known = len(batch) - counts.num_new
    return counts


def _transient(table: Table, row: Mapping[str, Any]) -> Mapping[str, object]:
    if table is not responses:
        return {}
    process = IMPORTED if row["status"] in RUNNING else None
    return {"is_wanted": True, "is_deleted": False, "process": process}


def _check_item(c: Connection, row: Mapping[str, Any], number: int) -> None:
    try:
        expected = _address(c, row)
    except DBAPIError:
        raise  # an error of the database, which may be retried
    except (ItemNotFound, StatementError, ValueError, TypeError, AttributeError) as exc:
        raise ConfigError(f"line {number}: no item, or what it follows is missing") from exc
    imported = tuple(row[name] for name in ("hash", "item_id", "depth", "system"))
    if (expected.hash, storable(expected.id), expected.depth, expected.system) != imported:
        raise ConfigError(f"line {number}: the item is not what its hash says")


def _address(c: Connection, row: Mapping[str, Any]) -> AddressedItem:
    after = position_of(c, row["owner"], row["parent"])
    return address(row["owner"], after, json.loads(row["body"]))


def _parse(line: str, number: int) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except ValueError as exc:
        raise ConfigError(f"line {number} is not JSON: {exc}") from exc
    if not isinstance(parsed, dict):
        raise ConfigError(f"line {number} is no object")
    return parsed
