"""Conversations: a head each, that one turn at a time may move."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Connection, Row, bindparam, delete, func, select, tuple_, update
from sqlalchemy.sql.dml import ReturningUpdate

from headrace.errors import (
    BadRequest,
    ConversationLocked,
    ConversationNotFound,
    ItemNotFound,
    StoreUnavailable,
)
from headrace.store.database import Database
from headrace.store.garbage import let_go
from headrace.store.hashing import Placed, written
from headrace.store.items import append, between, insert_new, on_path, to_item
from headrace.store.processes import Processes
from headrace.store.records import Chain, Held, Json, Page, StoredConversation, StoredItem
from headrace.store.tables import conversations

STEP = 500  # items that are written in one transaction
LOCKED = "Another process is currently operating on this conversation. Please retry in a few seconds."

ConversationRow = Row[tuple[object, ...]]

HELD = select(conversations).where(conversations.c.id == bindparam("id")).with_for_update()
ONE = select(conversations).where(
    conversations.c.id == bindparam("id"), conversations.c.owner == bindparam("owner")
)
TO_CHANGE = ONE.with_for_update()
CHANGE = update(conversations).where(conversations.c.id == bindparam("its_id"))
TAKE = (
    update(conversations)
    .where(
        conversations.c.id == bindparam("its_id"),
        conversations.c.owner == bindparam("its_owner"),
        conversations.c.token.is_(None) | (conversations.c.token == bindparam("token")),
    )
    .values(holder=bindparam("by"), token=bindparam("token"), used_at=bindparam("now"))
)


@dataclass(slots=True)
class _Copied:
    """The path to `old_head` without one item: `bodies` go after `parent`; `new_head` is the last of them."""

    old_head: str | None
    parent: str | None
    bodies: Sequence[Json]
    new_head: str | None = None


class Conversations:
    def __init__(self, database: Database, processes: Processes) -> None:
        self._database, self._processes = database, processes
        self._owed: dict[str, Held] = {}  # by token: to be let go of once the database can be reached

    async def create(
        self, owner: str, bodies: Sequence[Json], metadata: Mapping[str, str], id: str | None
    ) -> StoredConversation:
        name = id or f"conv_{secrets.token_hex(24)}"
        added = time.time_ns() // 1000

        def work(c: Connection) -> StoredConversation:
            placed = append(c, owner, None, bodies)
            head = placed[-1].hash if placed else None
            times = {"added": added, "used_at": added // 10**6}
            values = {"id": name, "owner": owner, "head": head, "metadata": written(dict(metadata))}
            c.execute(insert_new(conversations, c.dialect.name), {**values, **times})
            return _to_record(_row(c, owner, name))

        return await self._database.write(work)

    async def get(self, owner: str, id: str) -> StoredConversation:
        return await self._database.read(lambda c: _to_record(_row(c, owner, id)))

    async def page(
        self, owner: str, *, limit: int, after: str | None, is_descending: bool
    ) -> Page[StoredConversation]:
        place = tuple_(conversations.c.added, conversations.c.id)
        order = (conversations.c.added, conversations.c.id)

        def work(c: Connection) -> Page[StoredConversation]:
            chosen = select(conversations).where(conversations.c.owner == owner).limit(limit + 1)
            chosen = chosen.order_by(*(column.desc() if is_descending else column for column in order))
            if after is not None:
                cursor = c.execute(ONE, {"id": after, "owner": owner}).first()
                if cursor is None:
                    raise BadRequest(f"No conversation with id '{after}' found.", param="after")
                at = tuple_(cursor.added, cursor.id)
                chosen = chosen.where(place < at if is_descending else place > at)
            rows = c.execute(chosen).all()
            return Page([_to_record(row) for row in rows[:limit]], has_more=len(rows) > limit)

        return await self._database.read(work)

    async def update(self, owner: str, id: str, metadata: Mapping[str, str]) -> StoredConversation:
        def work(c: Connection) -> StoredConversation:
            _row(c, owner, id)
            _change(c, id, metadata=written(dict(metadata)))
            return _to_record(_row(c, owner, id))

        return await self._database.write(work)

    async def delete(self, owner: str, id: str) -> None:
        def work(c: Connection) -> None:
            row = _row(c, owner, id)
            c.execute(delete(conversations).where(conversations.c.id == id))
            let_go(c, [row.head])

        await self._database.write(work)

    async def add_items(self, owner: str, id: str, bodies: Sequence[Json]) -> list[StoredItem]:
        tried: list[Placed] = []  # by an attempt whose commit may have taken place

        def work(c: Connection) -> list[StoredItem]:
            nonlocal tried
            row = self._free(c, owner, id)
            if not (tried and row.head == tried[-1].hash):
                tried = append(c, owner, row.head, bodies)
                _move(c, id, tried[-1].hash if tried else row.head)
            return [StoredItem(item.id, item.hash, item.body) for item in tried]

        return await self._database.write(work)

    async def item(self, owner: str, id: str, item: str) -> StoredItem:
        def work(c: Connection) -> StoredItem:
            row = on_path(c, owner, _row(c, owner, id).head, item)
            if row is None:
                raise _no_item(item)
            return to_item(row)

        return await self._database.read(work)

    async def delete_item(self, owner: str, id: str, item: str) -> StoredConversation:
        copied = await self._database.read(lambda c: self._without(c, owner, id, item))
        await self._append_in_steps(owner, copied)

        def work(c: Connection) -> StoredConversation:
            head = self._free(c, owner, id).head
            new_head = copied.new_head
            if head != copied.old_head:  # it has changed meanwhile
                now = self._without(c, owner, id, item)
                placed = append(c, owner, now.parent, now.bodies)
                new_head = placed[-1].hash if placed else now.parent
            _move(c, id, new_head)
            let_go(c, [head])
            return _to_record(_row(c, owner, id))

        return await self._database.write(work)

    def _without(self, c: Connection, owner: str, id: str, item: str) -> _Copied:
        """Raises ConversationNotFound, ItemNotFound."""
        head = _row(c, owner, id).head
        row = on_path(c, owner, head, item)
        if row is None:
            raise _no_item(item)
        bodies = [later.body for later in between(c, owner, row.hash, head)]
        return _Copied(head, row.parent, bodies)

    async def _append_in_steps(self, owner: str, copied: _Copied) -> None:
        """Many items in several transactions, so that other writers get their turn. Should this be the last
        that is heard of them, they are collected like what was let go of.
        """
        after = copied.parent
        for start in range(0, len(copied.bodies), STEP):
            step = copied.bodies[start : start + STEP]

            def work(c: Connection, after: str | None = after, step: Sequence[Json] = step) -> str:
                last = append(c, owner, after, step)[-1].hash
                let_go(c, [last])
                return last

            after = await self._database.write(work)
        copied.new_head = after

    async def hold(self, owner: str, id: str) -> Held:
        token = secrets.token_hex(16)

        def take(c: Connection) -> Held | None:
            values = {"by": self._processes.id, "token": token, "now": int(time.time())}
            row = c.execute(_taking(c.dialect.name), {"its_id": id, "its_owner": owner, **values}).first()
            return None if row is None else Held(_to_record(row), token)

        def work(c: Connection) -> Held:
            row = self._free(c, owner, id, token)
            _change(c, id, holder=self._processes.id, token=token, used_at=int(time.time()))
            return Held(_to_record(row), token)

        async def either() -> Held:
            taken: Held | None = await self._database.hold(take)
            return taken if taken is not None else await self._database.write(work)

        def is_left(task: asyncio.Task[Held]) -> None:
            """Nobody has the token of what is, or may be, held."""
            if not task.cancelled() and isinstance(task.exception(), StoreUnavailable | None):
                self._owed[token] = Held(StoredConversation(id, 0, {}, None), token)

        task = asyncio.create_task(either())
        try:
            return await asyncio.shield(task)
        except (asyncio.CancelledError, StoreUnavailable):
            task.add_done_callback(is_left)
            raise

    async def release(self, held: Held, add: Chain | None) -> None:
        def work(c: Connection) -> None:
            row = locked_row(c, held)
            if row is None:
                return  # deleted meanwhile
            placed = append(c, row.owner, add.parent, add.items) if add is not None else []
            settle(c, row, held, placed[-1].hash if placed else None)

        try:
            await self._database.write(work)
        except StoreUnavailable:
            self._owed[held.token] = held
            raise
        self._owed.pop(held.token, None)

    async def release_owed(self) -> None:
        """Let go of what could not be let go of when it was time."""
        for held in [*self._owed.values()]:
            await self.release(held, None)

    def _free(self, c: Connection, owner: str, id: str, token: str | None = None) -> ConversationRow:
        """The row, when nobody but `token` holds it."""
        row = _row(c, owner, id, is_for_update=True)
        if row.token in (None, token, *self._owed) or self._processes.bury_if_dead(c, row.holder):
            return row
        raise ConversationLocked(LOCKED, param="conversation")


@cache
def _taking(dialect: str) -> ReturningUpdate[tuple[object, ...]]:
    """Take what nobody holds: its row."""
    lightly = [func.set_config("synchronous_commit", "off", True)] if dialect == "postgresql" else []
    return TAKE.returning(*conversations.c, *lightly)


def settle(c: Connection, row: ConversationRow, held: Held, head: str | None) -> None:
    """Let go, and move the head, if one is given, as far as nobody else has moved it meanwhile."""
    is_ours = row.token == held.token
    freed = {"holder": None, "token": None} if is_ours else {}
    if head is not None and head != row.head:
        if not is_ours and (row.head != held.conversation.head or row.token is not None):
            raise ConversationLocked(LOCKED, param="conversation")
        _change(c, row.id, head=head, used_at=int(time.time()), **freed)
    elif freed:
        _change(c, row.id, **freed)


def locked_row(c: Connection, held: Held) -> ConversationRow | None:
    return c.execute(HELD, {"id": held.conversation.id}).first()


def _row(c: Connection, owner: str, id: str, *, is_for_update: bool = False) -> ConversationRow:
    row = c.execute(TO_CHANGE if is_for_update else ONE, {"id": id, "owner": owner}).first()
    if row is None:
        raise ConversationNotFound(f"Conversation with id '{id}' not found.")
    return row


def _move(c: Connection, id: str, head: str | None) -> None:
    _change(c, id, head=head, used_at=int(time.time()))


def _change(c: Connection, id: str, **values: object) -> None:
    c.execute(CHANGE, {"its_id": id, **values})


def _no_item(id: str) -> ItemNotFound:
    return ItemNotFound(f"Item with id '{id}' not found.")


def _to_record(row: ConversationRow) -> StoredConversation:
    return StoredConversation(row.id, row.added // 10**6, json.loads(row.metadata), row.head)
