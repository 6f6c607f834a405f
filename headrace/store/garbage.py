"""Garbage collection of items.

Items are shared: a row may lie on the paths of many heads. To drop a head (when a response is deleted, or a
conversation moves on) only registers it in the table `loose`; nothing is removed then. An hour later,
`collect` removes the items that only this head led to, from the end of its path towards the beginning. The
hour is for a turn that was started on the head before it was dropped and will store its answer after it.

An item is garbage when it has no child and no head names it. A turn may append to the item at the moment when
it is found to be garbage: then a foreign key is violated in one of the two transactions, which is retried.
The turn's retry finds no item (ItemNotFound), or the collection's retry finds a child.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from sqlalchemy import Connection, bindparam, delete, exists, select

from headrace.store.items import insert_new
from headrace.store.tables import completions, conversations, items, loose, responses

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


def drop_heads(c: Connection, heads: Iterable[str | None]) -> None:
    """Register heads that a row no longer names, for a later collection."""
    since = int(time.time())
    rows = [{"head": head, "since": since} for head in {*heads} - {None}]
    if rows:
        c.execute(insert_new(loose, c.dialect.name), rows)


def collect(c: Connection, keep_s: float = KEEP_S) -> tuple[int, bool]:
    """Remove the garbage of a few heads that were dropped more than `keep_s` ago. Returns the number of
    removed items, and whether more may be left.
    """
    until = int(time.time() - keep_s)
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
