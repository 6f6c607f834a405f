"""Items as rows: appended to a path, and read from a head back to the root.

A row is never changed. Its hash covers its owner, its parent's hash and its body (hashing.py), so two writers
that append the same item to the same path write the same row, and the second insert does nothing. A path is
read backwards, because only the parent is stored; `depth` tells how far back a position is without a walk,
and `system` leads from one system message to the previous one, over everything that lies between them.

The functions take a connection: each is a part of its caller's transaction.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import cache, partial

from sqlalchemy import CTE, Connection, Insert, Row, Select, Table, bindparam, literal, select
from sqlalchemy.dialects import sqlite

from headrace.errors import BadRequest, ItemNotFound
from headrace.finite import size_up_to
from headrace.offload import SMALL
from headrace.store.database import Database, computed, reads
from headrace.store.hashing import AddressedItem, Position, address_all, to_json
from headrace.store.records import Json, Order, Page, StoredItem
from headrace.store.tables import items, storable

ROWS_PER_STATEMENT = 500
UNLIMITED = 2**31 - 1  # items of a path

ItemRow = Row[tuple[object, ...]]


@cache
def insert_new(table: Table, dialect: str) -> Insert:
    """An insert that skips rows whose key exists already."""
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def _walk() -> CTE:
    """The path from `:head` back to the depth `:until`, `:limit` items at most: hash, parent and depth."""
    # Each step looks up one row by its primary key. The owner is checked at the head only, because a parent
    # always has the owner of its child.
    columns = (items.c.hash, items.c.parent, items.c.depth)
    is_head = items.c.hash == bindparam("head"), items.c.owner == bindparam("owner")
    walk = select(*columns, literal(1).label("number")).where(*is_head).cte("walk", recursive=True)
    further = select(*columns, walk.c.number + 1).where(
        items.c.hash == walk.c.parent, walk.c.depth > bindparam("until"), walk.c.number < bindparam("limit")
    )
    return walk.union_all(further)


def _systems() -> Select[tuple[object, ...]]:
    """The system and developer messages on the path to `:head`, oldest first; other items are not read."""
    # An item's `system` is the nearest system message at or above it. From there the walk goes on with the
    # parent's `system`, so it takes as many steps as there are system messages.
    above, below = items.alias(), items.alias()
    first = select(above.c.hash, above.c.parent).join(below, above.c.hash == below.c.system)
    walk = first.where(below.c.hash == bindparam("head")).cte("systems", recursive=True)
    walk = walk.union_all(first.where(below.c.hash == walk.c.parent))
    return select(items).join(walk, items.c.hash == walk.c.hash).order_by(items.c.depth)


# Statements are built once: building one costs more than running it.
WALK = _walk()
TAIL = select(items).join(WALK, items.c.hash == WALK.c.hash).order_by(items.c.depth)
SLICE = TAIL.where(WALK.c.depth >= bindparam("until")).limit(bindparam("count"))
ON_PATH = select(WALK.c.hash).where(WALK.c.hash.in_(bindparam("hashes", expanding=True)))
SYSTEMS = _systems()
POSITION = select(items.c.depth, items.c.system).where(
    items.c.hash == bindparam("hash"), items.c.owner == bindparam("owner")
)
BY_IDS = (
    select(items)
    .where(items.c.item_id.in_(bindparam("ids", expanding=True)), items.c.owner == bindparam("owner"))
    .order_by(items.c.created_at)
)
BY_ID = select(items).where(items.c.item_id == bindparam("id"), items.c.owner == bindparam("owner"))


class Items:
    """Reads paths of items. An unknown head, or another owner's, is an empty path."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def path(self, owner: str, head: str | None, *, limit: int | None = None) -> list[StoredItem]:
        """The last `limit` items (None: all) of the path to `head`, oldest first."""
        return await self._database.read(lambda c: path(c, owner, head, limit=limit))

    @reads
    def window(
        self, c: Connection, owner: str, head: str | None, limit: int
    ) -> tuple[list[StoredItem], list[StoredItem]]:
        """The last `limit` items of the path to `head`, preceded by the system and developer messages that
        lie before them: (messages, items), each oldest first.
        """
        rows = _tail(c, owner, head, limit)
        before = rows[0].parent if rows else None
        systems = c.execute(SYSTEMS, {"head": before}).all() if before else []
        return _to_items(c, systems), _to_items(c, rows)

    @reads
    def page(
        self,
        c: Connection,
        owner: str,
        head: str | None,
        *,
        limit: int,
        after: str | None = None,
        order: Order = "desc",
    ) -> Page[StoredItem]:
        """A part of the path to `head`. `after`: an item's id. Raises BadRequest (param `after`) if the path
        does not have it.
        """
        cursor = None if after is None else find_on_path(c, owner, head, after)
        if after is not None and cursor is None:
            raise BadRequest(f"No item with id '{after}' found.", param="after")
        # Both orders walk back from a head. Newest first, the walk is the page itself, from the cursor's
        # parent on; oldest first, it goes down to the cursor's depth, and the page is its other end.
        if order == "desc":
            rows = _tail(c, owner, head if cursor is None else cursor.parent, limit + 1)[::-1]
        else:
            rows = _slice(c, owner, head, 0 if cursor is None else cursor.depth + 1, limit + 1)
        return Page(_to_items(c, rows[:limit]), has_more=len(rows) > limit)

    async def find(self, owner: str, ids: Sequence[str]) -> dict[str, StoredItem]:
        """Items by their ids, on any path: of several with one id the newest. Unknown ids are left out."""
        wanted = list(dict.fromkeys(ids))

        def work(c: Connection) -> dict[str, StoredItem]:
            items_by_id: dict[str, StoredItem] = {}
            for start in range(0, len(wanted), ROWS_PER_STATEMENT):
                ids = wanted[start : start + ROWS_PER_STATEMENT]
                rows = c.execute(BY_IDS, {"ids": ids, "owner": owner}).all()
                # ordered by age: the newest wins
                items_by_id |= {row.item_id: item for row, item in zip(rows, _to_items(c, rows), strict=True)}
            return {id: items_by_id[storable(id)] for id in wanted if storable(id) in items_by_id}

        return await self._database.read(work)


def append_items(c: Connection, owner: str, after: str | None, bodies: Sequence[Json]) -> list[AddressedItem]:
    """Insert items after `after`; rows that exist already stay as they are. Raises ItemNotFound if `after`
    has been deleted.
    """
    if not bodies:
        return []
    position = position_of(c, owner, after)
    size = size_up_to(list(bodies), SMALL)
    appended, rows = computed(c, size, partial(_addressed, owner, position, bodies, int(time.time())))
    # In the order of the path, so that every row's parent exists before it (a foreign key).
    for start in range(0, len(rows), ROWS_PER_STATEMENT):
        c.execute(insert_new(items, c.dialect.name), rows[start : start + ROWS_PER_STATEMENT])
    return appended


def _addressed(
    owner: str, after: Position, bodies: Sequence[Json], now: int
) -> tuple[list[AddressedItem], list[Mapping[str, object]]]:
    """The items with their hashes, and their rows."""
    addressed = address_all(owner, after, bodies)
    return addressed, [_row(owner, item, now) for item in addressed]


def position_of(c: Connection, owner: str, hash: str | None) -> Position:
    """Where an item that follows `hash` goes. Raises ItemNotFound."""
    if hash is None:
        return Position()
    row = c.execute(POSITION, {"hash": hash, "owner": owner}).first()
    if row is None:
        raise ItemNotFound("What this continues has been deleted.")
    return Position(hash, row.depth, row.system)


def path(c: Connection, owner: str, head: str | None, *, limit: int | None = None) -> list[StoredItem]:
    """The last `limit` items (None: all) of the path to `head`, oldest first."""
    return _to_items(c, _tail(c, owner, head, limit))


def items_between(c: Connection, owner: str, first: str | None, last: str | None) -> list[StoredItem]:
    """The items after `first` up to `last`, which must be on one path. Raises ItemNotFound."""
    # The difference of the depths is the number of items: no need to look for `first` on the way.
    count = position_of(c, owner, last).depth - position_of(c, owner, first).depth
    return path(c, owner, last, limit=count) if count else []


def find_on_path(c: Connection, owner: str, head: str | None, id: str) -> ItemRow | None:
    """The last item with this id on the path to `head`."""
    # An id may be used many times, on many paths: read the rows that have it, then walk back from the head as
    # far as the shallowest of them to see which lie on the path.
    candidates = c.execute(BY_ID.order_by(items.c.depth.desc()), {"id": id, "owner": owner}).all()
    if head is None or not candidates:
        return None
    bounds = {"until": min(row.depth for row in candidates), "limit": UNLIMITED}
    values = {"head": head, "owner": owner, "hashes": [row.hash for row in candidates], **bounds}
    on_path = set(c.scalars(ON_PATH, values))
    return next((row for row in candidates if row.hash in on_path), None)


def to_item(row: ItemRow) -> StoredItem:
    body = json.loads(row.body)
    return StoredItem(body["id"], row.hash, body)


def _to_items(c: Connection, rows: Sequence[ItemRow]) -> list[StoredItem]:
    return computed(c, sum(len(row.body) for row in rows), lambda: [*map(to_item, rows)])


def _row(owner: str, item: AddressedItem, now: int) -> Mapping[str, object]:
    return {
        "hash": item.hash,
        "owner": owner,
        "parent": item.parent,
        "system": item.system,
        "depth": item.depth,
        "item_id": item.id,
        "created_at": now,
        "body": to_json(item.body),
    }


def _tail(c: Connection, owner: str, head: str | None, limit: int | None) -> Sequence[ItemRow]:
    """The last `limit` rows (None: all) of the path to `head`, oldest first."""
    if head is None:
        return []
    values = {"head": head, "owner": owner, "until": 0, "limit": UNLIMITED if limit is None else limit}
    return c.execute(TAIL, values).all()


def _slice(c: Connection, owner: str, head: str | None, depth: int, count: int) -> Sequence[ItemRow]:
    """`count` rows of the path to `head`, from `depth` on, oldest first."""
    if head is None:
        return []
    return c.execute(
        SLICE, {"head": head, "owner": owner, "until": depth, "limit": UNLIMITED, "count": count}
    ).all()
