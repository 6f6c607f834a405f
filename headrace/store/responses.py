"""Responses: two heads each, and the events of those that are streamed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection, Row, bindparam, delete, select, update

from headrace.errors import ResponseNotFound
from headrace.store.conversations import locked_row, settle
from headrace.store.database import Database
from headrace.store.garbage import let_go
from headrace.store.hashing import written
from headrace.store.items import append, between, insert_new
from headrace.store.processes import RUNNING, Processes
from headrace.store.records import Held, Json, StoredItem, StoredResponse
from headrace.store.tables import events, responses

ResponseRow = Row[tuple[object, ...]]

ONE = select(responses).where(responses.c.id == bindparam("id"), responses.c.owner == bindparam("owner"))
CHANGE = update(responses).where(responses.c.id == bindparam("its_id"))
EVENTS = (
    select(events.c.first, events.c.bodies)
    .where(events.c.response == bindparam("id"), events.c.first + events.c.count > bindparam("after") + 1)
    .order_by(events.c.first)
)


class Responses:
    def __init__(self, database: Database, processes: Processes) -> None:
        self._database, self._processes = database, processes

    async def save(
        self,
        owner: str,
        response: StoredResponse,
        *,
        base: str | None,
        asked: Sequence[Json],
        answered: Sequence[Json],
        held: Held | None,
        is_appended: bool,
    ) -> StoredResponse:
        def work(c: Connection) -> StoredResponse:
            # the conversation first, as everywhere: two that wait for each other would be a deadlock
            conversation = locked_row(c, held) if held is not None else None
            placed = append(c, owner, base, [*asked, *answered])
            heads = [base, *(item.hash for item in placed)]
            saved = replace(response, input_head=heads[len(asked)], output_head=heads[-1])
            self._put(c, owner, saved)
            if held is not None and conversation is not None:
                settle(c, conversation, held, saved.output_head if is_appended else None)
            return saved

        return await self._database.write(work)

    def _put(self, c: Connection, owner: str, response: StoredResponse) -> None:
        values = self._values(response)
        fresh = {"id": response.id, "owner": owner, "is_wanted": True, "is_deleted": False, **values}
        if c.execute(insert_new(responses, c.dialect.name), fresh).rowcount == 1:
            return
        row = _row(c, owner, response.id, is_hidden_too=True)
        if row.is_deleted and response.status not in RUNNING:
            _drop(c, row)
            let_go(c, [response.input_head, response.output_head])
            return
        c.execute(CHANGE, {"its_id": response.id, **values})
        let_go(c, {row.input_head, row.output_head} - {response.input_head, response.output_head})

    def _values(self, response: StoredResponse) -> Mapping[str, object]:
        return {
            "created_at": response.created_at,
            "status": response.status,
            "is_background": response.is_background,
            "is_streamed": response.is_streamed,
            "process": self._processes.id if response.status in RUNNING else None,
            "input_head": response.input_head,
            "output_head": response.output_head,
            "body": written(dict(response.body)),
        }

    async def get(self, owner: str, id: str) -> StoredResponse:
        return await self._database.read(lambda c: _to_record(_row(c, owner, id)))

    async def output(self, owner: str, response: StoredResponse) -> list[StoredItem]:
        return await self._database.read(
            lambda c: between(c, owner, response.input_head, response.output_head)
        )

    async def delete(self, owner: str, id: str) -> None:
        """One that still runs is hidden, and told to stop; it goes when it has."""

        def work(c: Connection) -> None:
            row = _row(c, owner, id)
            if row.status in RUNNING:
                c.execute(CHANGE, {"its_id": id, "is_deleted": True, "is_wanted": False})
            else:
                _drop(c, row)

        await self._database.write(work)

    async def cancel(self, owner: str, id: str) -> StoredResponse:
        def work(c: Connection) -> StoredResponse:
            row = _row(c, owner, id)
            if row.status in RUNNING:
                c.execute(CHANGE, {"its_id": id, "is_wanted": False})
            return _to_record(row)

        return await self._database.write(work)

    async def wants_cancel(self, ids: Sequence[str]) -> set[str]:
        """Those that do not run here any more, since this process was held dead, shall stop, too."""
        if not ids:
            return set()
        is_lost = responses.c.process.is_distinct_from(self._processes.id)
        statement = select(responses.c.id).where(responses.c.id.in_(ids), ~responses.c.is_wanted | is_lost)
        return await self._database.read(lambda c: set(c.scalars(statement)))

    async def add_events(self, owner: str, id: str, first: int, bodies: Sequence[str]) -> None:
        values = {"response": id, "first": first, "count": len(bodies), "bodies": list(bodies)}

        def work(c: Connection) -> None:
            _row(c, owner, id, is_hidden_too=True)
            if bodies:
                c.execute(insert_new(events, c.dialect.name), values)

        await self._database.write(work)

    async def events(self, owner: str, id: str, after: int) -> list[str]:
        def work(c: Connection) -> list[str]:
            _row(c, owner, id)
            found, next_number = [], after + 1
            for row in c.execute(EVENTS, {"id": id, "after": after}):
                found += row.bodies[max(0, next_number - row.first) :]
                next_number = max(next_number, row.first + len(row.bodies))
            return found

        return await self._database.read(work)


def _row(c: Connection, owner: str, id: str, *, is_hidden_too: bool = False) -> ResponseRow:
    row = c.execute(ONE, {"id": id, "owner": owner}).first()
    if row is None or (row.is_deleted and not is_hidden_too):
        raise ResponseNotFound(f"Response with id '{id}' not found.")
    return row


def _drop(c: Connection, row: ResponseRow) -> None:
    c.execute(delete(responses).where(responses.c.id == row.id))
    let_go(c, [row.input_head, row.output_head])


def _to_record(row: ResponseRow) -> StoredResponse:
    return StoredResponse(
        row.id,
        row.created_at,
        row.status,
        json.loads(row.body),
        is_background=row.is_background,
        is_streamed=row.is_streamed,
        input_head=row.input_head,
        output_head=row.output_head,
    )
