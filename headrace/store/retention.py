"""Retention: each kind of row is deleted after its configured number of days.

Deletion runs while turns do. On SQLite there is one writer at a time, so each transaction deletes at most
BATCH rows and no turn waits long for one. Rows in use (running responses, locked conversations) are left for
a later run. Items are not deleted by age: they go when nothing leads to them any more.

Items are shared: a row may lie on the paths of many heads. To drop a head (when a response is deleted, or a
conversation moves on) only registers it in the table `loose`; nothing is removed then. An hour later,
`collect` removes the items that only this head led to, from the end of its path towards the beginning. The
hour is for a turn that was started on the head before it was dropped and will store its answer after it.

An item is garbage when it has no child and no head names it. A turn may append to the item at the moment when
it is found to be garbage: then a foreign key is violated in one of the two transactions, which is retried.
The turn's retry finds no item (ItemNotFound), or the collection's retry finds a child.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Column, Connection, Table, bindparam, delete, exists, select

from headrace.config import StoreConfig
from headrace.store.database import Database
from headrace.store.items import insert_new
from headrace.store.processes import RUNNING
from headrace.store.tables import completions, conversations, items, loose, responses

DAY_S = 86_400
BATCH = 50  # rows of one transaction
KEEP_S = 3600.0
HEADS_PER_TRANSACTION = 20
ITEMS_PER_TRANSACTION = 200

_child = items.alias()
_HEADS = (
    conversations.c.head, responses.c.input_head, responses.c.output_head, completions.c.head, loose.c.head,
)  # fmt: skip
PARENT_OF_GARBAGE = select(items.c.parent).where(
    items.c.hash == bindparam("hash"),
    ~exists().where(_child.c.parent == items.c.hash),
    *(~exists().where(head == items.c.hash) for head in _HEADS),
)
DROPPED_BEFORE = select(loose.c.head).where(loose.c.since <= bindparam("until")).order_by(loose.c.since)
REMOVE = delete(items).where(items.c.hash == bindparam("its_hash"))


@dataclass(frozen=True, slots=True)
class _Kind:
    table: Table
    used_at: Column[int]  # seconds since 1970
    heads: tuple[Column[str], ...]


KINDS: Mapping[str, _Kind] = {
    "responses": _Kind(responses, responses.c.created_at, (responses.c.input_head, responses.c.output_head)),
    "completions": _Kind(completions, completions.c.created_at, (completions.c.head,)),
    "conversations": _Kind(conversations, conversations.c.used_at, (conversations.c.head,)),
}


async def prune(
    database: Database, config: StoreConfig, *, keep_s: float = KEEP_S, before: float = math.inf
) -> dict[str, int]:
    """Delete what is past its retention, and collect garbage items that were dropped more than `keep_s`
    seconds ago and before the time `before`. Returns how many rows of each kind.
    """
    days = {
        "responses": config.responses_days,
        "completions": config.chat_completions_days,
        "conversations": config.conversations_days,
    }
    # 0 days: kept for ever
    counts = {name: await _delete_old(database, name, days[name]) for name in KINDS if days[name]}
    return {**counts, "items": await _collect_all(database, int(min(time.time() - keep_s, before)))}


async def _delete_old(database: Database, name: str, days: int) -> int:
    until, total = int(time.time()) - days * DAY_S, 0
    while count := await database.write(lambda c: _delete_batch(c, KINDS[name], until)):
        total += count
    return total


def _delete_batch(c: Connection, kind: _Kind, until: int) -> int:
    """Delete up to BATCH rows last used before `until` (seconds since 1970). Returns how many."""
    old = select(kind.table.c.id, *kind.heads).where(kind.used_at < until)
    # A row in use stays, however old: its process would write to a row that is gone.
    if kind.table is responses:
        old = old.where(responses.c.status.not_in(RUNNING))
    if kind.table is conversations:
        old = old.where(conversations.c.token.is_(None))
    # The oldest first, so that a run that is interrupted has deleted those.
    rows = c.execute(old.order_by(kind.used_at).limit(BATCH)).all()
    if rows:
        c.execute(delete(kind.table).where(kind.table.c.id.in_([row.id for row in rows])))
        # in the same transaction: a head that no row names and no entry registers would never be collected
        drop_heads(c, {head for row in rows for head in row[1:]})
    return len(rows)


async def _collect_all(database: Database, until: int) -> int:
    total, is_more = 0, True
    while is_more:
        count, is_more = await database.write(lambda c: collect(c, until))
        total += count
    return total


def drop_heads(c: Connection, heads: Iterable[str | None]) -> None:
    """Register heads that a row no longer names, for a later collection."""
    since = int(time.time())
    rows = [{"head": head, "since": since} for head in {*heads} - {None}]
    if rows:
        c.execute(insert_new(loose, c.dialect.name), rows)


def collect(c: Connection, until: int) -> tuple[int, bool]:
    """Remove the garbage of a few heads that were dropped until a time. Returns the number of removed items,
    and whether more may be left.
    """
    heads = list(c.scalars(DROPPED_BEFORE.limit(HEADS_PER_TRANSACTION), {"until": until}))
    count = 0
    for head in heads:
        c.execute(delete(loose).where(loose.c.head == head))
        num_removed, rest = _remove(c, head, ITEMS_PER_TRANSACTION - count)
        count += num_removed
        if rest is not None:  # a long path is continued by the next transaction
            c.execute(insert_new(loose, c.dialect.name), {"head": rest, "since": until})
            return count, True
    return count, len(heads) == HEADS_PER_TRANSACTION


def _remove(c: Connection, hash: str, limit: int) -> tuple[int, str | None]:
    """Remove up to `limit` items from `hash` towards the root, as long as they are garbage. Returns how many,
    and the hash to continue from (None: done).
    """
    count, next_hash = 0, hash
    while count < limit:
        row = c.execute(PARENT_OF_GARBAGE, {"hash": next_hash}).first()
        if row is None:
            return count, None
        c.execute(REMOVE, {"its_hash": next_hash})
        count += 1
        if row.parent is None:
            return count, None
        next_hash = row.parent
    return count, next_hash
