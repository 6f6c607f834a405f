"""Conversations: each is a head, which one turn at a time may move.

A turn locks the conversation, generates an answer and releases the lock together with the new items. The lock
is a row's `holder` (the process) and `token` (this lock). Three rules keep it from staying for ever:
- a process that dies loses its locks to the first process that notices (processes.py);
- a lock whose release failed, or whose caller left before it had the token, is in `_unreleased`: this process
  treats it as free at once, and releases it in the database with the next heartbeat;
- a head moves only if the row still has the lock's token, or if it was neither moved nor locked since.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Connection, Row, bindparam, delete, func, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from headrace.errors import (
    BadRequest,
    ConversationLocked,
    ConversationNotFound,
    ItemNotFound,
    StoreUnavailable,
)
from headrace.store.database import Database, reads, writes
from headrace.store.hashing import AddressedItem, to_json
from headrace.store.items import append_items, find_on_path, insert_new, items_between, to_item
from headrace.store.processes import Processes
from headrace.store.records import Chain, ConversationLock, Json, Order, Page, StoredConversation, StoredItem
from headrace.store.retention import drop_heads
from headrace.store.search import find_conversations, words_of
from headrace.store.tables import conversations, cursor_of, following

ITEMS_PER_TRANSACTION = 500
LOCKED = "Another process is currently operating on this conversation. Please retry in a few seconds."

ConversationRow = Row[tuple[object, ...]]

BY_IDS = select(conversations).where(conversations.c.id.in_(bindparam("ids", expanding=True)))
BY_ID_FOR_UPDATE = select(conversations).where(conversations.c.id == bindparam("id")).with_for_update()
OF_OWNER = select(conversations).where(
    conversations.c.id == bindparam("id"), conversations.c.owner == bindparam("owner")
)
OF_OWNER_FOR_UPDATE = OF_OWNER.with_for_update()
CHANGE = update(conversations).where(conversations.c.id == bindparam("its_id"))
LOCK_IF_FREE = (
    update(conversations)
    .where(
        conversations.c.id == bindparam("its_id"),
        conversations.c.owner == bindparam("its_owner"),
        conversations.c.token.is_(None) | (conversations.c.token == bindparam("token")),
    )
    .values(holder=bindparam("by"), token=bindparam("token"), used_at=bindparam("now"))
)


@dataclass(slots=True)
class _Relinked:
    """The path to `old_head` without one item: `bodies` follow `parent`; `new_head` is the last of them."""

    old_head: str | None
    parent: str | None
    bodies: Sequence[Json]
    new_head: str | None = None


class Conversations:
    """Stored conversations. Methods that name a conversation raise ConversationNotFound (404)."""

    def __init__(self, database: Database, processes: Processes) -> None:
        self._database, self._processes = database, processes
        self._unreleased: dict[str, ConversationLock] = {}  # by token

    async def create(
        self, owner: str, items: Sequence[Json], metadata: Mapping[str, str], *, id: str | None = None
    ) -> StoredConversation:
        """`id`: None makes a random one."""
        name = id or f"conv_{secrets.token_hex(24)}"
        added = time.time_ns() // 1000

        def work(c: Connection) -> StoredConversation:
            appended = append_items(c, owner, None, items)
            head = appended[-1].hash if appended else None
            times = {"added": added, "used_at": added // 10**6}
            values = {"id": name, "owner": owner, "head": head, "metadata": to_json(dict(metadata))}
            c.execute(insert_new(conversations, c.dialect.name), {**values, **times})
            return _to_record(_row(c, owner, name))

        return await self._database.write(work)

    async def fork(
        self, owner: str, id: str, item: str | None, metadata: Mapping[str, str]
    ) -> StoredConversation:
        """Create a conversation that shares the items of another up to `item` (None: it shares none), which
        costs one row. Raises ItemNotFound.
        """
        name = f"conv_{secrets.token_hex(24)}"
        added = time.time_ns() // 1000

        def work(c: Connection) -> StoredConversation:
            # The row is locked, so that its items cannot be collected as garbage before they are shared.
            head = _row(c, owner, id, is_for_update=True).head
            shared = None if item is None else find_on_path(c, owner, head, item)
            if item is not None and shared is None:
                raise _no_item(item)
            values = {"id": name, "owner": owner, "metadata": to_json(dict(metadata)), "added": added}
            last = {"head": shared.hash if shared is not None else None, "used_at": added // 10**6}
            c.execute(insert_new(conversations, c.dialect.name), {**values, **last})
            return _to_record(_row(c, owner, name))

        return await self._database.write(work)

    async def get(self, owner: str, id: str) -> StoredConversation:
        return await self._database.read(lambda c: _to_record(_row(c, owner, id)))

    @reads
    def page(
        self, c: Connection, owner: str, *, limit: int, after: str | None = None, order: Order = "desc"
    ) -> Page[StoredConversation]:
        """A page of the owner's conversations. `after`: the id of one. Raises BadRequest (param `after`) if
        it does not exist.
        """
        statement = select(conversations).where(conversations.c.owner == owner)
        cursor = cursor_of(c, statement, conversations, after, "conversation")
        rows = c.execute(following(statement, conversations, cursor, order).limit(limit + 1)).all()
        return Page([_to_record(row) for row in rows[:limit]], has_more=len(rows) > limit)

    @reads
    def search(
        self,
        c: Connection,
        owner: str,
        text: str,
        *,
        limit: int,
        after: str | None = None,
        order: Order = "desc",
    ) -> Page[StoredConversation]:
        """The page of those that have all words of a text, in what was said or in the title that their
        metadata has, in whatever case. Raises BadRequest (param `after`) if it is none of them.
        """
        rows = _rows(c, find_conversations(c, owner, words_of(text)))
        rows.sort(key=lambda row: (row.added, row.id), reverse=order == "desc")
        if after is not None:
            place = next((place for place, row in enumerate(rows) if row.id == after), None)
            if place is None:
                raise BadRequest(f"No conversation with id '{after}' was found.", param="after")
            rows = rows[place + 1 :]
        return Page([_to_record(row) for row in rows[:limit]], has_more=len(rows) > limit)

    @writes
    def update(self, c: Connection, owner: str, id: str, metadata: Mapping[str, str]) -> StoredConversation:
        """Replace the metadata."""
        _row(c, owner, id)
        _change(c, id, metadata=to_json(dict(metadata)))
        return _to_record(_row(c, owner, id))

    @writes
    def delete(self, c: Connection, owner: str, id: str) -> None:
        row = _row(c, owner, id)
        c.execute(delete(conversations).where(conversations.c.id == id))
        drop_heads(c, [row.head])

    async def append(self, owner: str, id: str, items: Sequence[Json]) -> list[StoredItem]:
        """Append items to a conversation that no turn has locked. Raises ConversationLocked (400)."""
        # The items of an attempt whose commit was interrupted: if the head is the last of them, that commit
        # had succeeded, and a second attempt must not append them again.
        attempted: list[AddressedItem] = []

        def work(c: Connection) -> list[StoredItem]:
            nonlocal attempted
            row = self._unlocked_row(c, owner, id)
            if not (attempted and row.head == attempted[-1].hash):
                attempted = append_items(c, owner, row.head, items)
                _move_head(c, id, attempted[-1].hash if attempted else row.head)
            return [StoredItem(item.id, item.hash, item.body) for item in attempted]

        return await self._database.write(work)

    @reads
    def item(self, c: Connection, owner: str, id: str, item: str) -> StoredItem:
        """One item of the conversation, by its id. Raises ItemNotFound."""
        row = find_on_path(c, owner, _row(c, owner, id).head, item)
        if row is None:
            raise _no_item(item)
        return to_item(row)

    async def delete_item(self, owner: str, id: str, item: str) -> StoredConversation:
        """Take one item out, and append copies of its successors to its parent. Raises ItemNotFound,
        ConversationLocked.
        """
        relinked = await self._database.read(lambda c: self._without(c, owner, id, item))
        await self._append_in_steps(owner, relinked)

        def work(c: Connection) -> StoredConversation:
            head = self._unlocked_row(c, owner, id).head
            new_head = relinked.new_head
            if head != relinked.old_head:  # another process appended after the copies were made: copy again
                now = self._without(c, owner, id, item)
                appended = append_items(c, owner, now.parent, now.bodies)
                new_head = appended[-1].hash if appended else now.parent
            _move_head(c, id, new_head)
            drop_heads(c, [head])
            return _to_record(_row(c, owner, id))

        return await self._database.write(work)

    def _without(self, c: Connection, owner: str, id: str, item: str) -> _Relinked:
        """Read the path without one item. Raises ConversationNotFound, ItemNotFound."""
        head = _row(c, owner, id).head
        row = find_on_path(c, owner, head, item)
        if row is None:
            raise _no_item(item)
        bodies = [later.body for later in items_between(c, owner, row.hash, head)]
        return _Relinked(head, row.parent, bodies)

    async def _append_in_steps(self, owner: str, relinked: _Relinked) -> None:
        """Append the copies in several transactions, so that other writers get their turn.

        Each step's last item is registered as a dropped head: should this process stop half-way, the garbage
        collection finds the copies.
        """
        after = relinked.parent
        for start in range(0, len(relinked.bodies), ITEMS_PER_TRANSACTION):
            step = relinked.bodies[start : start + ITEMS_PER_TRANSACTION]

            def work(c: Connection, after: str | None = after, step: Sequence[Json] = step) -> str:
                last = append_items(c, owner, after, step)[-1].hash
                drop_heads(c, [last])
                return last

            after = await self._database.write(work)
        relinked.new_head = after

    async def lock(self, owner: str, id: str) -> ConversationLock:
        """Reserve the conversation for one turn, until `release` or the end of this process. Raises
        ConversationLocked (400).
        """
        token = secrets.token_hex(16)

        def lock_if_free(c: Connection) -> ConversationLock | None:
            values = {"by": self._processes.id, "token": token, "now": int(time.time())}
            statement = _lock_if_free(c.dialect.name)
            row = c.execute(statement, {"its_id": id, "its_owner": owner, **values}).first()
            return None if row is None else ConversationLock(_to_record(row), token)

        def work(c: Connection) -> ConversationLock:
            row = self._unlocked_row(c, owner, id, token)
            _change(c, id, holder=self._processes.id, token=token, used_at=int(time.time()))
            return ConversationLock(_to_record(row), token)

        async def take() -> ConversationLock:
            # One statement settles the usual case. A transaction finds out why it failed: no such row, a
            # living holder, or a dead one whose lock can be taken over.
            lock: ConversationLock | None = await self._database.lock(lock_if_free)
            return lock if lock is not None else await self._database.write(work)

        def schedule_release(task: asyncio.Task[ConversationLock]) -> None:
            """The lock may have been taken after the caller gave up: its token is known only here, so release
            it.
            """
            if not task.cancelled() and isinstance(task.exception(), StoreUnavailable | None):
                self._unreleased[token] = ConversationLock(StoredConversation(id, 0, {}, None), token)

        # The task outlives a cancelled caller: it must be known in the end whether the lock was taken.
        task = asyncio.create_task(take())
        try:
            return await asyncio.shield(task)
        except (asyncio.CancelledError, StoreUnavailable):
            task.add_done_callback(schedule_release)
            raise

    async def release(self, lock: ConversationLock, add: Chain | None = None) -> None:
        """Release the lock and, in the same transaction, append `add` (whose parent is the locked head).
        Idempotent. Raises ConversationLocked if another turn has moved the head since.
        """

        def work(c: Connection) -> None:
            row = row_of_lock(c, lock)
            if row is None:
                return  # the conversation was deleted meanwhile
            appended = append_items(c, row.owner, add.parent, add.items) if add is not None else []
            settle(c, row, lock, appended[-1].hash if appended else None)

        try:
            await self._database.write(work)
        except StoreUnavailable:
            self._unreleased[lock.token] = lock  # even if the commit took place: releasing twice is harmless
            raise
        self._unreleased.pop(lock.token, None)

    async def retry_releases(self) -> None:
        """Retry the releases that failed while the database was unavailable."""
        for lock in [*self._unreleased.values()]:
            await self.release(lock)

    def _unlocked_row(self, c: Connection, owner: str, id: str, token: str | None = None) -> ConversationRow:
        """Read the row for an update. Raises ConversationLocked if a living process has locked it with
        another token.
        """
        row = _row(c, owner, id, is_for_update=True)
        # `token` is the caller's own, in the row if the commit of an earlier attempt had succeeded unnoticed
        if row.token in (None, token, *self._unreleased) or self._processes.bury_if_dead(c, row.holder):
            return row
        raise ConversationLocked(LOCKED, param="conversation")


@cache
def _lock_if_free(dialect: str) -> ReturningUpdate[tuple[object, ...]]:
    """LOCK_IF_FREE that returns the row, and on PostgreSQL commits without waiting for the disk."""
    lightly = [func.set_config("synchronous_commit", "off", True)] if dialect == "postgresql" else []
    return LOCK_IF_FREE.returning(*conversations.c, *lightly)


def settle(c: Connection, row: ConversationRow, lock: ConversationLock, head: str | None) -> None:
    """Release the lock, and move the head to `head` (None: leave it). Raises ConversationLocked."""
    is_ours = row.token == lock.token
    unlocked = {"holder": None, "token": None} if is_ours else {}
    if head is not None and head != row.head:
        # The lock was lost: its process seemed dead, or an earlier attempt's commit had succeeded. Moving the
        # head is still right if it was neither locked nor moved since.
        if not is_ours and (row.head != lock.conversation.head or row.token is not None):
            raise ConversationLocked(LOCKED, param="conversation")
        _change(c, row.id, head=head, used_at=int(time.time()), **unlocked)
    elif unlocked:
        _change(c, row.id, **unlocked)


def row_of_lock(c: Connection, lock: ConversationLock) -> ConversationRow | None:
    """The locked conversation's row, for an update; None if it was deleted."""
    return c.execute(BY_ID_FOR_UPDATE, {"id": lock.conversation.id}).first()


def _rows(c: Connection, ids: Collection[str]) -> list[ConversationRow]:
    wanted, rows = list(ids), list[ConversationRow]()
    for start in range(0, len(wanted), ITEMS_PER_TRANSACTION):
        rows += c.execute(BY_IDS, {"ids": wanted[start : start + ITEMS_PER_TRANSACTION]}).all()
    return rows


def _row(c: Connection, owner: str, id: str, *, is_for_update: bool = False) -> ConversationRow:
    statement = OF_OWNER_FOR_UPDATE if is_for_update else OF_OWNER
    row = c.execute(statement, {"id": id, "owner": owner}).first()
    if row is None:
        raise ConversationNotFound(f"Conversation with id '{id}' not found.")
    return row


def _move_head(c: Connection, id: str, head: str | None) -> None:
    _change(c, id, head=head, used_at=int(time.time()))


def _change(c: Connection, id: str, **values: object) -> None:
    c.execute(CHANGE, {"its_id": id, **values})


def _no_item(id: str) -> ItemNotFound:
    return ItemNotFound(f"Item with id '{id}' not found.")


def _to_record(row: ConversationRow) -> StoredConversation:
    return StoredConversation(row.id, row.added // 10**6, json.loads(row.metadata), row.head)
