"""Rows of items: put after one another, and walked back from a head. Functions are parts of a transaction."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import cache

from sqlalchemy import CTE, Connection, Insert, Row, Select, Table, bindparam, literal, select
from sqlalchemy.dialects import sqlite

from headrace.errors import BadRequest, ItemNotFound
from headrace.store.database import Database
from headrace.store.hashing import Place, Placed, chain, written
from headrace.store.records import Json, Page, StoredItem
from headrace.store.tables import items, plain

ROWS = 500  # of one statement
ALL = 2**31 - 1  # more than there are

ItemRow = Row[tuple[object, ...]]


@cache
def insert_new(table: Table, dialect: str) -> Insert:
    """An insert that leaves rows alone which are there already."""
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def _walk() -> CTE:
    """From `:head` back: hash, parent, depth; as far as the depth `:until`, and `:limit` items at most."""
    columns = (items.c.hash, items.c.parent, items.c.depth)
    is_head = items.c.hash == bindparam("head"), items.c.owner == bindparam("owner")
    walk = select(*columns, literal(1).label("number")).where(*is_head).cte("walk", recursive=True)
    further = select(*columns, walk.c.number + 1).where(
        items.c.hash == walk.c.parent,
        walk.c.depth > bindparam("until"),
        walk.c.number < bindparam("limit"),
    )
    return walk.union_all(further)


def _systems() -> Select[tuple[object, ...]]:
    """The system and developer messages at and above `:head`, oldest first; the others are leapt over."""
    above, below = items.alias(), items.alias()
    first = select(above.c.hash, above.c.parent).join(below, above.c.hash == below.c.system)
    walk = first.where(below.c.hash == bindparam("head")).cte("systems", recursive=True)
    walk = walk.union_all(first.where(below.c.hash == walk.c.parent))
    return select(items).join(walk, items.c.hash == walk.c.hash).order_by(items.c.depth)


# Built once: to build a statement costs more than to run it.
WALK = _walk()
TAIL = select(items).join(WALK, items.c.hash == WALK.c.hash).order_by(items.c.depth)
FROM = TAIL.where(WALK.c.depth >= bindparam("until")).limit(bindparam("count"))
AMONG = select(WALK.c.hash).where(WALK.c.hash.in_(bindparam("hashes", expanding=True)))
SYSTEMS = _systems()
PLACE = select(items.c.depth, items.c.system).where(
    items.c.hash == bindparam("hash"), items.c.owner == bindparam("owner")
)
AMONG_IDS = (
    select(items)
    .where(items.c.item_id.in_(bindparam("ids", expanding=True)), items.c.owner == bindparam("owner"))
    .order_by(items.c.created_at)
)
BY_ID = select(items).where(items.c.item_id == bindparam("id"), items.c.owner == bindparam("owner"))


class Items:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def path(self, owner: str, head: str | None, limit: int | None) -> list[StoredItem]:
        return await self._database.read(lambda c: path(c, owner, head, limit=limit))

    async def window(
        self, owner: str, head: str | None, limit: int
    ) -> tuple[list[StoredItem], list[StoredItem]]:
        def work(c: Connection) -> tuple[list[StoredItem], list[StoredItem]]:
            rows = _tail(c, owner, head, limit)
            before = rows[0].parent if rows else None
            systems = c.execute(SYSTEMS, {"head": before}).all() if before else []
            return [*map(to_item, systems)], [*map(to_item, rows)]

        return await self._database.read(work)

    async def page(
        self, owner: str, head: str | None, *, limit: int, after: str | None, is_descending: bool
    ) -> Page[StoredItem]:
        def work(c: Connection) -> Page[StoredItem]:
            cursor = None if after is None else on_path(c, owner, head, after)
            if after is not None and cursor is None:
                raise BadRequest(f"No item with id '{after}' found.", param="after")
            if is_descending:
                rows = _tail(c, owner, head if cursor is None else cursor.parent, limit + 1)[::-1]
            else:
                rows = _from(c, owner, head, 0 if cursor is None else cursor.depth + 1, limit + 1)
            return Page([to_item(row) for row in rows[:limit]], has_more=len(rows) > limit)

        return await self._database.read(work)

    async def find(self, owner: str, ids: Sequence[str]) -> dict[str, StoredItem]:
        """By id: the newest item with each, on whatever path. Ids that there are none of are left out."""
        wanted = list(dict.fromkeys(ids))

        def work(c: Connection) -> dict[str, StoredItem]:
            found: dict[str, StoredItem] = {}
            for start in range(0, len(wanted), ROWS):
                rows = c.execute(AMONG_IDS, {"ids": wanted[start : start + ROWS], "owner": owner})
                found |= {row.item_id: to_item(row) for row in rows}  # of two, the later one counts
            return {id: found[plain(id)] for id in wanted if plain(id) in found}

        return await self._database.read(work)


def append(c: Connection, owner: str, after: str | None, bodies: Sequence[Json]) -> list[Placed]:
    """Rows that are there already stay as they are. Raises ItemNotFound: `after` is not there any more."""
    if not bodies:
        return []
    placed = chain(owner, place_of(c, owner, after), bodies)
    now = int(time.time())
    rows = [_row(owner, item, now) for item in placed]
    for start in range(0, len(rows), ROWS):
        c.execute(insert_new(items, c.dialect.name), rows[start : start + ROWS])
    return placed


def place_of(c: Connection, owner: str, hash: str | None) -> Place:
    if hash is None:
        return Place()
    row = c.execute(PLACE, {"hash": hash, "owner": owner}).first()
    if row is None:
        raise ItemNotFound("What this continues has been deleted.")
    return Place(hash, row.depth, row.system)


def path(c: Connection, owner: str, head: str | None, *, limit: int | None = None) -> list[StoredItem]:
    return [to_item(row) for row in _tail(c, owner, head, limit)]


def between(c: Connection, owner: str, first: str | None, last: str | None) -> list[StoredItem]:
    """What comes after `first`, up to `last`."""
    count = place_of(c, owner, last).depth - place_of(c, owner, first).depth
    return path(c, owner, last, limit=count) if count else []


def on_path(c: Connection, owner: str, head: str | None, id: str) -> ItemRow | None:
    """The last item with this id on the path to `head`."""
    wanted = c.execute(BY_ID.order_by(items.c.depth.desc()), {"id": id, "owner": owner}).all()
    if head is None or not wanted:
        return None
    bounds = {"until": min(row.depth for row in wanted), "limit": ALL}
    values = {"head": head, "owner": owner, "hashes": [row.hash for row in wanted], **bounds}
    found = set(c.scalars(AMONG, values))
    return next((row for row in wanted if row.hash in found), None)


def to_item(row: ItemRow) -> StoredItem:
    body = json.loads(row.body)
    return StoredItem(body["id"], row.hash, body)


def _row(owner: str, item: Placed, now: int) -> Mapping[str, object]:
    return {
        "hash": item.hash,
        "owner": owner,
        "parent": item.parent,
        "system": item.system,
        "depth": item.depth,
        "item_id": item.id,
        "created_at": now,
        "body": written(item.body),
    }


def _tail(c: Connection, owner: str, head: str | None, limit: int | None) -> Sequence[ItemRow]:
    """The last rows up to `head`, oldest first."""
    if head is None:
        return []
    values = {"head": head, "owner": owner, "until": 0, "limit": ALL if limit is None else limit}
    return c.execute(TAIL, values).all()


def _from(c: Connection, owner: str, head: str | None, depth: int, count: int) -> Sequence[ItemRow]:
    """Rows of the path to `head` from `depth` on."""
    if head is None:
        return []
    return c.execute(FROM, {"head": head, "owner": owner, "until": depth, "limit": ALL, "count": count}).all()
