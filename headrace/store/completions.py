"""Stored chat completions: the answer as clients see it, and the messages of the request."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from sqlalchemy import Connection, Row, delete, select, update

from headrace.errors import CompletionNotFound
from headrace.finite import size_up_to
from headrace.offload import SMALL
from headrace.store.database import Database, computed, writes
from headrace.store.hashing import to_json
from headrace.store.items import append_items, insert_new
from headrace.store.records import Json, Order, Page, StoredCompletion
from headrace.store.retention import drop_heads
from headrace.store.tables import completions, cursor_of, following

ROWS_PER_SCAN = 200  # fetched at once, and filtered by metadata

CompletionRow = Row[tuple[object, ...]]


class Completions:
    """Stored chat completions. Methods that name a completion raise CompletionNotFound (404)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(
        self, owner: str, completion: StoredCompletion, messages: Sequence[Json]
    ) -> StoredCompletion:
        """Store a completion with the messages of its request. Returns the record with its head set."""
        added = time.time_ns() // 1000

        def work(c: Connection) -> StoredCompletion:
            appended = append_items(c, owner, None, messages)
            saved = replace(completion, head=appended[-1].hash if appended else None)
            values = {
                "id": saved.id,
                "owner": owner,
                "added": added,
                "created_at": saved.created_at,
                "model": saved.model,
                "head": saved.head,
                "metadata": to_json(dict(saved.metadata)),
                "body": computed(c, size_up_to(saved.body, SMALL), partial(to_json, dict(saved.body))),
            }
            c.execute(insert_new(completions, c.dialect.name), values)
            return saved

        return await self._database.write(work)

    async def get(self, owner: str, id: str) -> StoredCompletion:
        return await self._database.read(lambda c: _to_record(_row(c, owner, id)))

    async def page(
        self,
        owner: str,
        *,
        limit: int,
        after: str | None = None,
        order: Order = "asc",
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Page[StoredCompletion]:
        """A page of the completions of `model` whose metadata have all pairs of `metadata`. `after`: the id
        of a completion. Raises BadRequest (param `after`) if it does not exist.
        """
        pairs = (metadata or {}).items()
        statement = of_owner = select(completions).where(completions.c.owner == owner)
        if model is not None:
            statement = statement.where(completions.c.model == model)
        for name, value in pairs:
            fragment = to_json({name: value})[1:-1]  # may match elsewhere in the JSON: filtered again below
            statement = statement.where(completions.c.metadata.contains(fragment, autoescape=True))

        def work(c: Connection) -> Page[StoredCompletion]:
            cursor = cursor_of(c, of_owner, completions, after, "chat completion")
            matching: list[StoredCompletion] = []
            while len(matching) <= limit:
                rows = c.execute(following(statement, completions, cursor, order).limit(ROWS_PER_SCAN)).all()
                records = computed(c, sum(len(row.body) for row in rows), partial(_to_records, rows))
                matching += [record for record in records if pairs <= record.metadata.items()]
                if len(rows) < ROWS_PER_SCAN:
                    break
                cursor = rows[-1]
            return Page(matching[:limit], has_more=len(matching) > limit)

        return await self._database.read(work)

    @writes
    def update(self, c: Connection, owner: str, id: str, metadata: Mapping[str, str]) -> StoredCompletion:
        """Replace the metadata."""
        _row(c, owner, id)
        statement = update(completions).where(completions.c.id == id)
        c.execute(statement.values(metadata=to_json(dict(metadata))))
        return _to_record(_row(c, owner, id))

    @writes
    def delete(self, c: Connection, owner: str, id: str) -> None:
        row = _row(c, owner, id)
        c.execute(delete(completions).where(completions.c.id == id))
        drop_heads(c, [row.head])


def _row(c: Connection, owner: str, id: str) -> CompletionRow:
    row = c.execute(select(completions).where(completions.c.id == id, completions.c.owner == owner)).first()
    if row is None:
        raise CompletionNotFound(f"Chat completion with id '{id}' not found.")
    return row


def _to_records(rows: Sequence[CompletionRow]) -> list[StoredCompletion]:
    return [*map(_to_record, rows)]


def _to_record(row: CompletionRow) -> StoredCompletion:
    return StoredCompletion(
        row.id, row.created_at, row.model, json.loads(row.body), json.loads(row.metadata), row.head
    )
