"""Stored chat completions: the answer as it was given, and the messages it was asked."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection, Row, Select, delete, select, tuple_, update

from headrace.errors import BadRequest, CompletionNotFound
from headrace.store.database import Database
from headrace.store.garbage import let_go
from headrace.store.hashing import written
from headrace.store.items import append, insert_new
from headrace.store.records import Json, Page, StoredCompletion
from headrace.store.tables import completions

SCANNED = 200  # rows looked at together for metadata

CompletionRow = Row[tuple[object, ...]]


class Completions:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(
        self, owner: str, completion: StoredCompletion, messages: Sequence[Json]
    ) -> StoredCompletion:
        added = time.time_ns() // 1000

        def work(c: Connection) -> StoredCompletion:
            placed = append(c, owner, None, messages)
            saved = replace(completion, head=placed[-1].hash if placed else None)
            values = {
                "id": saved.id,
                "owner": owner,
                "added": added,
                "created_at": saved.created_at,
                "model": saved.model,
                "head": saved.head,
                "metadata": written(dict(saved.metadata)),
                "body": written(dict(saved.body)),
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
        after: str | None,
        is_descending: bool,
        model: str | None,
        metadata: Mapping[str, str],
    ) -> Page[StoredCompletion]:
        chosen = select(completions).where(completions.c.owner == owner)
        if model is not None:
            chosen = chosen.where(completions.c.model == model)
        for name, value in metadata.items():
            fragment = written({name: value})[1:-1]  # whatever else matches is left out below
            chosen = chosen.where(completions.c.metadata.contains(fragment, autoescape=True))

        def work(c: Connection) -> Page[StoredCompletion]:
            cursor = None
            if after is not None:
                cursor = c.execute(_where(owner, after)).first()
                if cursor is None:
                    raise BadRequest(f"No chat completion with id '{after}' found.", param="after")
            found: list[StoredCompletion] = []
            while len(found) <= limit:
                rows = c.execute(_next(chosen, cursor, is_descending=is_descending)).all()
                records = map(_to_record, rows)
                found += [record for record in records if metadata.items() <= record.metadata.items()]
                if len(rows) < SCANNED:
                    break
                cursor = rows[-1]
            return Page(found[:limit], has_more=len(found) > limit)

        return await self._database.read(work)

    async def update(self, owner: str, id: str, metadata: Mapping[str, str]) -> StoredCompletion:
        def work(c: Connection) -> StoredCompletion:
            _row(c, owner, id)
            changed = update(completions).where(completions.c.id == id)
            c.execute(changed.values(metadata=written(dict(metadata))))
            return _to_record(_row(c, owner, id))

        return await self._database.write(work)

    async def delete(self, owner: str, id: str) -> None:
        def work(c: Connection) -> None:
            row = _row(c, owner, id)
            c.execute(delete(completions).where(completions.c.id == id))
            let_go(c, [row.head])

        await self._database.write(work)


def _next(
    chosen: Select[tuple[object, ...]], cursor: CompletionRow | None, *, is_descending: bool
) -> Select[tuple[object, ...]]:
    order = (completions.c.added, completions.c.id)
    if cursor is not None:
        place, at = tuple_(*order), tuple_(cursor.added, cursor.id)
        chosen = chosen.where(place < at if is_descending else place > at)
    return chosen.order_by(*(column.desc() if is_descending else column for column in order)).limit(SCANNED)


def _where(owner: str, id: str) -> Select[tuple[object, ...]]:
    return select(completions).where(completions.c.id == id, completions.c.owner == owner)


def _row(c: Connection, owner: str, id: str) -> CompletionRow:
    row = c.execute(_where(owner, id)).first()
    if row is None:
        raise CompletionNotFound(f"Chat completion with id '{id}' not found.")
    return row


def _to_record(row: CompletionRow) -> StoredCompletion:
    return StoredCompletion(
        row.id, row.created_at, row.model, json.loads(row.body), json.loads(row.metadata), row.head
    )
