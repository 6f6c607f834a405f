"""Everything in a database as lines of JSON, and back into another, of whichever kind."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Table, func, select
from sqlalchemy.exc import DBAPIError, StatementError

from headrace.errors import ConfigError, ItemNotFound
from headrace.store.hashing import Placed, place
from headrace.store.items import insert_new, place_of
from headrace.store.migrations import MIGRATIONS
from headrace.store.processes import RUNNING
from headrace.store.tables import completions, conversations, events, items, plain, responses
from headrace.store.verify import ROWS, STREAMED

FORMAT = "headrace"
NOBODY = "imported"  # the process of what was not finished: none, so that it is found to have failed
# In this order, so that what a row names comes before it.
TABLES: Mapping[str, Table] = {
    "items": items,
    "conversations": conversations,
    "responses": responses,
    "events": events,
    "completions": completions,
}
OWN = ("holder", "token", "process", "is_deleted", "is_wanted")  # matter only while a process runs


@dataclass(slots=True)
class Counts:
    """Rows that are new, and rows that were there already."""

    num_new: int = 0
    num_known: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.num_new + other.num_new, self.num_known + other.num_known)


def num_rows(c: Connection) -> int:
    return sum(c.scalar(select(func.count()).select_from(table)) or 0 for table in TABLES.values())


def lines(c: Connection) -> Iterator[str]:
    yield json.dumps({"format": FORMAT, "schema": MIGRATIONS[-1].number})
    for name, table in TABLES.items():
        chosen = select(*(column for column in table.c if column.name not in OWN))
        if name == "items":
            chosen = chosen.order_by(items.c.depth)
        if name == "responses":
            chosen = chosen.where(~responses.c.is_deleted)
        if name == "events":
            chosen = chosen.join(responses, responses.c.id == events.c.response)
            chosen = chosen.where(~responses.c.is_deleted)
        for row in c.execute(chosen, execution_options=STREAMED):
            yield json.dumps({"table": name, **row._mapping})


def batches(source: Iterable[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """Lines in batches, each with the number of its first. Raises ConfigError when it is no export."""
    numbered = iter(source)
    first = next(numbered, "")
    head = _parsed(first, 1)
    if head.get("format") != FORMAT:
        raise ConfigError("line 1: this is no export of Headrace")
    if head.get("schema") != MIGRATIONS[-1].number:
        raise ConfigError(
            f"line 1: this was exported with schema {head.get('schema')}, this version has "
            f"{MIGRATIONS[-1].number}: export with the same version"
        )
    number = 2
    while batch := list(islice(numbered, ROWS)):
        yield number, batch
        number += len(batch)


def put(c: Connection, *, first: int, batch: Sequence[str]) -> Counts:
    """Raises ConfigError naming the line that is no row, or whose item is not what its hash says."""
    counts = Counts()
    for number, line in enumerate(batch, first):
        row = _parsed(line, number)
        name = row.pop("table", None)
        table = TABLES.get(str(name))
        if table is None:
            raise ConfigError(f"line {number}: there is no table {name!r}")
        if set(row) != {column.name for column in table.c} - {*OWN}:
            raise ConfigError(f"line {number}: its members are not those of {name}")
        if table is items:
            _check(c, row, number)
        counts.num_new += c.execute(insert_new(table, c.dialect.name), {**row, **_own(table, row)}).rowcount
    counts.num_known = len(batch) - counts.num_new
    return counts


def _own(table: Table, row: Mapping[str, Any]) -> Mapping[str, object]:
    if table is not responses:
        return {}
    process = NOBODY if row["status"] in RUNNING else None
    return {"is_wanted": True, "is_deleted": False, "process": process}


def _check(c: Connection, row: Mapping[str, Any], number: int) -> None:
    try:
        expected = _expected(c, row)
    except DBAPIError:
        raise  # the database's own: it may be tried again
    except (ItemNotFound, StatementError, ValueError, TypeError, AttributeError) as exc:
        raise ConfigError(f"line {number}: no item, or what it follows is missing") from exc
    told = tuple(row[name] for name in ("hash", "item_id", "depth", "system"))
    if (expected.hash, plain(expected.id), expected.depth, expected.system) != told:
        raise ConfigError(f"line {number}: the item is not what its hash says")


def _expected(c: Connection, row: Mapping[str, Any]) -> Placed:
    after = place_of(c, row["owner"], row["parent"])
    return place(row["owner"], after, json.loads(row["body"]))


def _parsed(line: str, number: int) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except ValueError as exc:
        raise ConfigError(f"line {number} is not JSON: {exc}") from exc
    if not isinstance(parsed, dict):
        raise ConfigError(f"line {number} is no object")
    return parsed
