"""Rows of items: put after one another, and walked back from a head. Each function is a part of a transaction."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence

from sqlalchemy import CTE, Connection, Insert, Row, Select, Table, literal, select
from sqlalchemy.dialects import postgresql, sqlite

from headrace.errors import BadRequest, ItemNotFound
from headrace.store.database import Database
from headrace.store.hashing import Place, Placed, chain, written
from headrace.store.records import Json, Page, StoredItem
from headrace.store.tables import items

ROWS = 500  # of one statement


def insert_new(c: Connection, table: Table, **values: object) -> Insert:
    """An insert that leaves rows alone which are there already."""
    insert = postgresql.insert if c.dialect.name == "postgresql" else sqlite.insert
    return insert(table).values(**values).on_conflict_do_nothing()


class Items:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def path(self, owner: str, head: str | None, limit: int | None) -> list[StoredItem]:
        return await self._database.read(lambda c: path(c, owner, head, limit=limit))

    async def window(
        self, owner: str, head: str | None, limit: int
    ) -> tuple[list[StoredItem], list[StoredItem]]:
        def work(c: Connection) -> tuple[list[StoredItem], list[StoredItem]]:
            rows = c.execute(_tail(owner, head, limit)).all()
            before = rows[0].parent if rows else None
            systems = c.execute(_systems(before)).all() if before else []
            return [*map(to_item, systems)], [*map(to_item, rows)]

        return await self._database.read(work)

    async def page(
        self, owner: str, head: str | None, *, limit: int, after: str | None, is_descending: bool
    ) -> Page[StoredItem]:
        return await self._database.read(
            lambda c: page(c, owner, head, limit=limit, after=after, is_descending=is_descending)
        )

    async def find(self, owner: str, id: str) -> StoredItem | None:
        """The newest item with this id, on whatever path."""
        statement = select(items).where(items.c.item_id == id, items.c.owner == owner)

        def work(c: Connection) -> StoredItem | None:
            row = c.execute(statement.order_by(items.c.created_at.desc()).limit(1)).first()
            return None if row is None else to_item(row)

        return await self._database.read(work)


def append(c: Connection, owner: str, after: str | None, bodies: Sequence[Json]) -> list[Placed]:
    """Rows that are there already stay as they are. Raises ItemNotFound: `after` is not there any more."""
    if not bodies:
        return []
    placed = chain(owner, place_of(c, owner, after), bodies)
    now = int(time.time())
    rows = [_row(owner, item, now) for item in placed]
    for start in range(0, len(rows), ROWS):
        c.execute(insert_new(c, items), rows[start : start + ROWS])
    return placed


def place_of(c: Connection, owner: str, hash: str | None) -> Place:
    if hash is None:
        return Place()
    statement = select(items.c.depth, items.c.system).where(items.c.hash == hash, items.c.owner == owner)
    row = c.execute(statement).first()
    if row is None:
        raise ItemNotFound("What this continues has been deleted.")
    return Place(hash, row.depth, row.system)


def path(c: Connection, owner: str, head: str | None, *, limit: int | None = None) -> list[StoredItem]:
    return [to_item(row) for row in c.execute(_tail(owner, head, limit))] if head else []


def between(c: Connection, owner: str, first: str | None, last: str | None) -> list[StoredItem]:
    """What comes after `first`, up to `last`."""
    count = place_of(c, owner, last).depth - place_of(c, owner, first).depth
    return path(c, owner, last, limit=count) if count else []


def on_path(c: Connection, owner: str, head: str | None, id: str) -> Row[tuple[object, ...]] | None:
    """The last item with this id on the path to `head`."""
    wanted = c.execute(
        select(items).where(items.c.item_id == id, items.c.owner == owner).order_by(items.c.depth.desc())
    ).all()
    if head is None or not wanted:
        return None
    walk = _walk(owner, head, until=min(row.depth for row in wanted))
    found = select(walk.c.hash).where(walk.c.hash.in_([row.hash for row in wanted]))
    hashes = set(c.scalars(found))
    return next((row for row in wanted if row.hash in hashes), None)


def page(
    c: Connection, owner: str, head: str | None, *, limit: int, after: str | None, is_descending: bool
) -> Page[StoredItem]:
    cursor = None
    if after is not None:
        cursor = on_path(c, owner, head, after)
        if cursor is None:
            raise BadRequest(f"No item with id '{after}' found.", param="after")
    if head is None:
        return Page((), has_more=False)
    if is_descending:
        start = cursor.parent if cursor is not None else head
        rows = c.execute(_tail(owner, start, limit + 1)).all()[::-1] if start else []
    else:
        first = cursor.depth + 1 if cursor is not None else 0
        walk = _walk(owner, head, until=first)
        chosen = select(items).join(walk, items.c.hash == walk.c.hash).order_by(items.c.depth)
        rows = c.execute(chosen.where(walk.c.depth >= first).limit(limit + 1)).all()
    return Page([to_item(row) for row in rows[:limit]], has_more=len(rows) > limit)


def to_item(row: Row[tuple[object, ...]]) -> StoredItem:
    return StoredItem(row.item_id, row.hash, json.loads(row.body))


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


def _tail(owner: str, head: str | None, limit: int | None) -> Select[tuple[object, ...]]:
    """The last rows up to `head`, oldest first."""
    walk = _walk(owner, head, limit=limit)
    return select(items).join(walk, items.c.hash == walk.c.hash).order_by(items.c.depth)


def _walk(owner: str, head: str | None, *, limit: int | None = None, until: int = 0) -> CTE:
    """From `head` back: hash, parent, depth; as far as the depth `until`, and `limit` items at most."""
    columns = (items.c.hash, items.c.parent, items.c.depth)
    start = select(*columns, literal(1).label("count")).where(items.c.hash == head, items.c.owner == owner)
    walk = start.cte("walk", recursive=True)
    further = select(*columns, walk.c.count + 1).where(items.c.hash == walk.c.parent, walk.c.depth > until)
    if limit is not None:
        further = further.where(walk.c.count < limit)
    return walk.union_all(further)


def _systems(head: str | None) -> Select[tuple[object, ...]]:
    """The system and developer messages at and above `head`, oldest first; the others are leapt over."""
    above, parents = items.alias(), items.alias()
    first = select(above.c.hash, above.c.parent)
    walk = (
        first.join(parents, above.c.hash == parents.c.system)
        .where(parents.c.hash == head)
        .cte("systems", recursive=True)
    )
    walk = walk.union_all(
        first.join(parents, above.c.hash == parents.c.system).where(parents.c.hash == walk.c.parent)
    )
    return select(items).join(walk, items.c.hash == walk.c.hash).order_by(items.c.depth)
