"""Responses: each has an input head and an output head, and the events of its stream if it is streamed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from sqlalchemy import Connection, Row, bindparam, delete, select, update

from headrace.errors import ResponseNotFound
from headrace.finite import size_up_to
from headrace.offload import SMALL
from headrace.store.conversations import row_of_lock, settle
from headrace.store.database import Database, computed, reads, writes
from headrace.store.hashing import to_json
from headrace.store.items import append_items, insert_new, items_between
from headrace.store.processes import RUNNING, Processes
from headrace.store.records import ConversationLock, Json, StoredItem, StoredResponse
from headrace.store.retention import drop_heads
from headrace.store.tables import events, responses

ResponseRow = Row[tuple[object, ...]]

OF_OWNER = select(responses).where(responses.c.id == bindparam("id"), responses.c.owner == bindparam("owner"))
CHANGE = update(responses).where(responses.c.id == bindparam("its_id"))
EVENTS = (
    select(events.c.first, events.c.bodies)
    .where(events.c.response == bindparam("id"), events.c.first + events.c.count > bindparam("after") + 1)
    .order_by(events.c.first)
)


class Responses:
    """Stored responses, each with its owner. Methods that take an id raise ResponseNotFound (404)."""

    def __init__(self, database: Database, processes: Processes) -> None:
        self._database, self._processes = database, processes

    @writes
    def save(
        self,
        c: Connection,
        owner: str,
        response: StoredResponse,
        *,
        base: str | None,
        input: Sequence[Json],
        output: Sequence[Json],
        lock: ConversationLock | None = None,
        is_appended: bool = True,
    ) -> StoredResponse:
        """Insert or replace a response: `input` goes after `base`, `output` after that.

        With `lock`, release it and, if `is_appended`, move the conversation's head to the output's. Returns
        the record with its heads set.
        """
        # Every transaction locks the conversation's row first; two that lock rows in different orders
        # would deadlock.
        conversation = row_of_lock(c, lock) if lock is not None else None
        appended = append_items(c, owner, base, [*input, *output])
        heads = [base, *(item.hash for item in appended)]
        saved = replace(response, input_head=heads[len(input)], output_head=heads[-1])
        self._put(c, owner, saved)
        if lock is not None and conversation is not None:
            settle(c, conversation, lock, saved.output_head if is_appended else None)
        return saved

    def _put(self, c: Connection, owner: str, response: StoredResponse) -> None:
        body = computed(c, size_up_to(response.body, SMALL), partial(to_json, dict(response.body)))
        values = {**self._values(response), "body": body}
        fresh = {"id": response.id, "owner": owner, "is_wanted": True, "is_deleted": False, **values}
        if c.execute(insert_new(responses, c.dialect.name), fresh).rowcount == 1:
            return
        row = _row(c, owner, response.id, includes_deleted=True)
        # A client deleted the response while it was running: the row was hidden, so that its process notices.
        # Now it has ended, and the row goes, with the items that were just appended.
        if row.is_deleted and response.status not in RUNNING:
            _delete(c, row)
            drop_heads(c, [response.input_head, response.output_head])
            return
        c.execute(CHANGE, {"its_id": response.id, **values})
        drop_heads(c, {row.input_head, row.output_head} - {response.input_head, response.output_head})

    def _values(self, response: StoredResponse) -> Mapping[str, object]:
        return {
            "created_at": response.created_at,
            "status": response.status,
            "is_background": response.is_background,
            "is_streamed": response.is_streamed,
            "process": self._processes.id if response.status in RUNNING else None,
            "input_head": response.input_head,
            "output_head": response.output_head,
        }

    async def get(self, owner: str, id: str) -> StoredResponse:
        return await self._database.read(lambda c: _to_record(_row(c, owner, id)))

    async def output(self, owner: str, response: StoredResponse) -> list[StoredItem]:
        """The output's items, oldest first."""
        return await self._database.read(
            lambda c: items_between(c, owner, response.input_head, response.output_head)
        )

    @writes
    def delete(self, c: Connection, owner: str, id: str) -> None:
        """Delete the response. A running one is hidden and cancelled, and deleted once it has stopped."""
        row = _row(c, owner, id)
        if row.status in RUNNING:
            c.execute(CHANGE, {"its_id": id, "is_deleted": True, "is_wanted": False})
        else:
            _delete(c, row)

    @writes
    def cancel(self, c: Connection, owner: str, id: str) -> StoredResponse:
        """Ask the process that runs it to stop, through `cancel_requested`. Finished ones do not change."""
        row = _row(c, owner, id)
        if row.status in RUNNING:
            c.execute(CHANGE, {"its_id": id, "is_wanted": False})
        return _to_record(row)

    async def cancel_requested(self, ids: Sequence[str]) -> set[str]:
        """Which of these responses, running in this process, another process wants cancelled. Also those that
        are marked as failed because this process seemed dead.
        """
        if not ids:
            return set()
        is_lost = responses.c.process.is_distinct_from(self._processes.id)
        statement = select(responses.c.id).where(responses.c.id.in_(ids), ~responses.c.is_wanted | is_lost)
        return await self._database.read(lambda c: set(c.scalars(statement)))

    async def append_events(self, owner: str, id: str, first: int, texts: Sequence[str]) -> None:
        """Store events of the response's stream as JSON; `first`: the sequence_number of the first. A batch
        that is stored already stays as it is.
        """
        values = {"response": id, "first": first, "count": len(texts), "bodies": list(texts)}

        def work(c: Connection) -> None:
            _row(c, owner, id, includes_deleted=True)
            if texts:
                c.execute(insert_new(events, c.dialect.name), values)

        await self._database.write(work)

    @reads
    def events(self, c: Connection, owner: str, id: str, *, after: int = -1) -> list[str]:
        """The events with a sequence_number greater than `after`, in order, as JSON."""
        _row(c, owner, id)
        texts, next_number = [], after + 1
        for row in c.execute(EVENTS, {"id": id, "after": after}):
            texts += row.bodies[max(0, next_number - row.first) :]
            next_number = max(next_number, row.first + len(row.bodies))
        return texts


def _row(c: Connection, owner: str, id: str, *, includes_deleted: bool = False) -> ResponseRow:
    row = c.execute(OF_OWNER, {"id": id, "owner": owner}).first()
    if row is None or (row.is_deleted and not includes_deleted):
        raise ResponseNotFound(f"Response with id '{id}' not found.")
    return row


def _delete(c: Connection, row: ResponseRow) -> None:
    c.execute(delete(responses).where(responses.c.id == row.id))
    drop_heads(c, [row.input_head, row.output_head])


def _to_record(row: ResponseRow) -> StoredResponse:
    return StoredResponse(
        row.id, row.created_at, row.status, json.loads(row.body), is_background=row.is_background,
        is_streamed=row.is_streamed, input_head=row.input_head, output_head=row.output_head,
    )  # fmt: skip
