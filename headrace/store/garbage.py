"""What nothing names any more. A head that is let go of keeps its path for a while, since a turn may have
been asked on it; then items that nothing names are collected, from the ends of paths towards their
beginnings.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from sqlalchemy import Connection, bindparam, delete, exists, select

from headrace.store.items import insert_new
from headrace.store.tables import completions, conversations, items, loose, responses

KEEP_S = 3600.0
NUM_HEADS = 20  # of one transaction
NUM_ITEMS = 200

_child = items.alias()
_HEADS = (
    conversations.c.head,
    responses.c.input_head,
    responses.c.output_head,
    completions.c.head,
    loose.c.head,
)
# `:hash`, if nothing names it
UNNAMED = select(items.c.parent).where(
    items.c.hash == bindparam("hash"),
    ~exists().where(_child.c.parent == items.c.hash),
    *(~exists().where(head == items.c.hash) for head in _HEADS),
)
OLD = select(loose.c.head).where(loose.c.since <= bindparam("until")).order_by(loose.c.since)
REMOVE = delete(items).where(items.c.hash == bindparam("its_hash"))


def let_go(c: Connection, heads: Iterable[str | None]) -> None:
    since = int(time.time())
    rows = [{"head": head, "since": since} for head in {*heads} - {None}]
    if rows:
        c.execute(insert_new(loose, c.dialect.name), rows)


def collect(c: Connection, keep_s: float = KEEP_S) -> tuple[int, bool]:
    """A few of the heads that were let go of longer ago than `keep_s`, and what only they named: how many
    items went, and whether there may be more to do.
    """
    until = int(time.time() - keep_s)
    heads = list(c.scalars(OLD.limit(NUM_HEADS), {"until": until}))
    count = 0
    for head in heads:
        c.execute(delete(loose).where(loose.c.head == head))
        gone, rest = _remove(c, head, NUM_ITEMS - count)
        count += gone
        if rest is not None:
            c.execute(insert_new(loose, c.dialect.name), {"head": rest, "since": until})
            return count, True
    return count, len(heads) == NUM_HEADS


def _remove(c: Connection, hash: str, limit: int) -> tuple[int, str | None]:
    """Items from `hash` on, as far as nothing else names them: how many went, and where it stopped."""
    count, next_hash = 0, hash
    while count < limit:
        row = c.execute(UNNAMED, {"hash": next_hash}).first()
        if row is None:
            return count, None
        c.execute(REMOVE, {"its_hash": next_hash})
        count += 1
        if row.parent is None:
            return count, None
        next_hash = row.parent
    return count, next_hash
