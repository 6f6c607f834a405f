"""API keys, which administrators create, list, change, rotate and revoke. A key's secret is shown once, when
it is made; the database has its SHA-256. The secret is 256 random bits, so that a fast hash without a salt
is enough: there is no dictionary of them.

What each key has used of each model on each day: processes count in memory and add batches to the rows.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from sqlalchemy import Connection, Insert, Row, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from headrace.callers import Limits
from headrace.errors import BadRequest, KeyNotFound
from headrace.store.database import Database, reads, writes
from headrace.store.records import Order, Page, StoredKey, UsageRow
from headrace.store.tables import cursor_of, following, keys, processes, usage, usage_batches

SECRET = re.compile(r"sk-hr-[A-Za-z0-9_-]{43}")  # what a secret looks like; others are never looked up
COUNTS = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "cost")
KEY = ("key", "provider", "model", "day")


def digest_of(secret: str) -> str:
    """The SHA-256 of a secret, in hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Keys:
    """Methods that name a key raise KeyNotFound (404)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, key: StoredKey) -> tuple[StoredKey, str]:
        """Store a key with these settings; its id, hint and time of creation are new. Returns it with its
        secret.
        """
        secret = _new_secret()
        added = time.time_ns() // 1000
        new = replace(
            key, id=f"key_{secrets.token_hex(12)}", hint=_hint(secret), created_at=added // 1_000_000
        )

        def work(c: Connection) -> None:
            # a repeated transaction finds the row of its first run
            if c.execute(select(keys.c.id).where(keys.c.id == new.id)).first() is None:
                values = {**_values(new), "id": new.id, "hint": new.hint, "added": added}
                c.execute(insert(keys).values(**values, digest=digest_of(secret)))

        await self._database.write(work)
        return new, secret

    async def get(self, id: str) -> StoredKey:
        return await self._database.read(lambda c: _to_record(_row(c, id)))

    async def find(self, secret: str) -> StoredKey | None:
        """The key with this secret, valid or not."""
        statement = select(keys).where(keys.c.digest == digest_of(secret))

        def work(c: Connection) -> StoredKey | None:
            row = c.execute(statement).first()
            return None if row is None else _to_record(row)

        return await self._database.read(work)

    @reads
    def page(
        self, c: Connection, *, limit: int, after: str | None = None, order: Order = "desc"
    ) -> Page[StoredKey]:
        """Keys by their time of creation, revoked ones included. Raises BadRequest (param `after`) if there
        is no such key.
        """
        cursor = cursor_of(c, select(keys), keys, after, "key")
        rows = c.execute(following(select(keys), keys, cursor, order).limit(limit + 1)).all()
        return Page([_to_record(row) for row in rows[:limit]], has_more=len(rows) > limit)

    @writes
    def update(self, c: Connection, id: str, change: Callable[[StoredKey], StoredKey]) -> StoredKey:
        """Give the key the settings that `change` makes of its own: name, owner, expiry, models, limits,
        rights. Changes at the same time follow each other, so that none undoes another.
        """
        values = _values(change(_to_record(_row(c, id, is_locked=True))))
        c.execute(update(keys).where(keys.c.id == id).values(**values))
        return _to_record(_row(c, id))

    async def rotate(self, id: str) -> tuple[StoredKey, str]:
        """Give the key a new secret; the old one stops working. Returns the key with its secret. Raises
        BadRequest for a revoked key.
        """
        secret = _new_secret()

        def work(c: Connection) -> StoredKey:
            if _row(c, id, is_locked=True).revoked_at is not None:
                raise BadRequest("A revoked key cannot be rotated: create another.", param="key_id")
            values = {"digest": digest_of(secret), "hint": _hint(secret)}
            c.execute(update(keys).where(keys.c.id == id).values(**values))
            return _to_record(_row(c, id))

        return await self._database.write(work), secret

    async def revoke(self, id: str) -> StoredKey:
        """End the use of a key, for good; what it owns stays. Idempotent."""
        now = int(time.time())

        def work(c: Connection) -> StoredKey:
            if _row(c, id).revoked_at is None:
                c.execute(update(keys).where(keys.c.id == id).values(revoked_at=now))
            return _to_record(_row(c, id))

        return await self._database.write(work)


def _new_secret() -> str:
    return f"sk-hr-{secrets.token_urlsafe(32)}"


def _hint(secret: str) -> str:
    return f"{secret[:9]}…{secret[-4:]}"


def _row(c: Connection, id: str, *, is_locked: bool = False) -> Row[tuple[object, ...]]:
    """The row of a key; locked, no other transaction changes it until this one ends."""
    found = select(keys).where(keys.c.id == id)
    row = c.execute(found.with_for_update() if is_locked else found).first()
    if row is None:
        raise KeyNotFound(f"No key with id '{id[:100]}' found.", param="key_id")
    return row


def _values(key: StoredKey) -> dict[str, object]:
    """The columns of a key's settings."""
    settings = {"models": key.models, "limits": asdict(key.limits), "may_hurry": key.may_hurry}
    return {
        "name": key.name,
        "owner": key.owner,
        "expires_at": key.expires_at,
        "settings": json.dumps(settings),
    }


def _to_record(row: Row[tuple[object, ...]]) -> StoredKey:
    settings = json.loads(row.settings)
    return StoredKey(
        row.id, row.name, row.owner, row.hint, row.added // 1_000_000, row.expires_at, row.revoked_at,
        tuple(settings["models"]), Limits(**settings["limits"]), settings["may_hurry"],
    )  # fmt: skip


class UsageCounts:
    """What the keys have used. `process`: the id of this process."""

    def __init__(self, database: Database, process: str) -> None:
        self._database, self._process = database, process

    @writes
    def add(self, c: Connection, number: int, rows: Sequence[UsageRow]) -> None:
        """Add a batch to what is counted, exactly once: numbers grow, and a batch that is repeated because
        its commit was in doubt is found to be counted. Raises StoreUnavailable: try the same batch again.
        """
        if _is_counted(c, self._process, number):
            return
        for row in rows:
            c.execute(_addition(row, c.dialect.name))

    async def page(
        self, *, since: int, until: int, key: str | None = None, limit: int = 10_000
    ) -> Page[UsageRow]:
        """The rows of the days from `since` to before `until` (days since 1970), the newest first; of one
        key, or of all. A page has whole days: at least one, and others while they are `limit` rows at most.
        """
        named = usage.outerjoin(keys, keys.c.id == usage.c.key)
        statement = (
            select(usage, keys.c.name).select_from(named).where(usage.c.day >= since, usage.c.day < until)
        )
        if key is not None:
            statement = statement.where(usage.c.key == key)
        statement = statement.order_by(usage.c.day.desc(), usage.c.key, usage.c.provider, usage.c.model)

        def work(c: Connection) -> Page[UsageRow]:
            rows = [_to_usage(row) for row in c.execute(statement.limit(limit + 1))]
            if len(rows) <= limit:
                return Page(rows, has_more=False)
            newest, cut = rows[0].day, rows[-1].day
            if newest == cut:
                rows = [_to_usage(row) for row in c.execute(statement.where(usage.c.day == newest))]
            return Page([row for row in rows if row.day > cut or row.day == newest], has_more=True)

        return await self._database.read(work)

    async def spent(self, key: str) -> tuple[int, int]:
        """The tokens that a key has used in its whole life, and their cost in billionths."""
        tokens = func.sum(usage.c.prompt_tokens + usage.c.completion_tokens)
        statement = select(tokens, func.sum(usage.c.cost)).where(usage.c.key == key)

        def work(c: Connection) -> tuple[int, int]:
            row = c.execute(statement).one()
            return int(row[0] or 0), int(row[1] or 0)

        return await self._database.read(work)


def _is_counted(c: Connection, process: str, number: int) -> bool:
    """Whether the batch was added before; if not, record that it is."""
    mine = usage_batches.c.process == process
    last = c.scalar(select(usage_batches.c.number).where(mine))
    if last is None:
        living = select(processes.c.id)
        c.execute(delete(usage_batches).where(usage_batches.c.process.not_in(living)))  # of dead processes
        c.execute(insert(usage_batches).values(process=process, number=number))
        return False
    if last >= number:
        return True
    c.execute(update(usage_batches).where(mine).values(number=number))
    return False


def _addition(row: UsageRow, dialect: str) -> Insert:
    """Insert the row, or add its counts to the row that has its key."""
    values = {name: getattr(row, name) for name in (*KEY, *COUNTS)}
    if dialect == "postgresql":
        pg = postgresql.insert(usage).values(**values)
        sums = {name: usage.c[name] + pg.excluded[name] for name in COUNTS}
        return pg.on_conflict_do_update(index_elements=KEY, set_=sums)
    lite = sqlite.insert(usage).values(**values)
    sums = {name: usage.c[name] + lite.excluded[name] for name in COUNTS}
    return lite.on_conflict_do_update(index_elements=KEY, set_=sums)


def _to_usage(row: Row[tuple[object, ...]]) -> UsageRow:
    return UsageRow(*(getattr(row, name) for name in (*KEY, *COUNTS, "name")))
