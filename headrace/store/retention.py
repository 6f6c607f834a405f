"""Retention: each kind of row is deleted after its configured number of days.

Deletion runs while turns do. On SQLite there is one writer at a time, so each transaction deletes at most
BATCH rows and no turn waits long for one. Rows in use (running responses, locked conversations) are left for
a later run. Items are not deleted by age: they go when nothing leads to them any more (garbage.py).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Column, Connection, Table, delete, select

from headrace.config import StoreConfig
from headrace.store.database import Database
from headrace.store.garbage import KEEP_S, collect, drop_heads
from headrace.store.processes import RUNNING
from headrace.store.tables import completions, conversations, responses

DAY_S = 86_400
BATCH = 50  # rows of one transaction


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


async def prune(database: Database, config: StoreConfig, *, keep_s: float = KEEP_S) -> dict[str, int]:
    """Delete what is past its retention, and collect garbage items that were dropped more than `keep_s`
    seconds ago. Returns how many rows of each kind.
    """
    days = {
        "responses": config.responses_days,
        "completions": config.chat_completions_days,
        "conversations": config.conversations_days,
    }
    # 0 days: kept for ever
    counts = {name: await _delete_old(database, name, days[name]) for name in KINDS if days[name]}
    return {**counts, "items": await _collect_all(database, keep_s)}


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


async def _collect_all(database: Database, keep_s: float) -> int:
    total, is_more = 0, True
    while is_more:
        count, is_more = await database.write(lambda c: collect(c, keep_s))
        total += count
    return total
