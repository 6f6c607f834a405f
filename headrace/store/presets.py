"""Presets: models of other names that are made of served ones. They belong to the server, not to an owner."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

from sqlalchemy import Connection, delete, func, insert, select

from headrace.errors import BadRequest
from headrace.store.database import Database, reads
from headrace.store.hashing import to_json
from headrace.store.records import StoredPreset
from headrace.store.tables import presets

MAX_PRESETS = 1_000


class Presets:
    def __init__(self, database: Database) -> None:
        self._database = database

    @reads
    def all(self, c: Connection) -> Sequence[StoredPreset]:
        rows = c.execute(select(presets).order_by(presets.c.name)).all()
        return [StoredPreset(**{**row._mapping, "body": json.loads(row.body)}) for row in rows]

    async def save(self, preset: StoredPreset) -> StoredPreset:
        """Store a preset in place of the one of its name. Raises BadRequest if there are too many."""
        saved = replace(preset, created_at=int(time.time()))

        def work(c: Connection) -> StoredPreset:
            c.execute(delete(presets).where(presets.c.name == saved.name))
            if (c.scalar(select(func.count()).select_from(presets)) or 0) >= MAX_PRESETS:
                raise BadRequest(f"there are {MAX_PRESETS} created models already", param="model")
            c.execute(insert(presets).values({**asdict(saved), "body": to_json(dict(saved.body))}))
            return saved

        return await self._database.write(work)

    async def delete(self, name: str) -> None:
        """Delete a preset, if there is one of this name."""
        await self._database.write(lambda c: c.execute(delete(presets).where(presets.c.name == name)))
