"""`verify` finds every kind of damage, and reports none in a sound database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from sqlalchemy import Connection, text

from headrace.store.maintenance import no_progress
from headrace.store.verify import problems
from tests.store.conftest import Opened
from tests.store.values import OTHER, OWNER, message, response

DAMAGE = {
    "UPDATE items SET body = REPLACE(body, 'third', 'THIRD')": "its hash is wrong",
    "UPDATE items SET body = 'third' WHERE depth = 2": "its body is not JSON",
    "UPDATE items SET body = '[]' WHERE depth = 2": "its body is no object",
    "UPDATE items SET owner = 'other' WHERE depth = 1": "its parent belongs to another owner",
    "UPDATE items SET depth = 7 WHERE depth = 3": "its depth is wrong",
    "UPDATE items SET system = NULL WHERE depth = 3": "its system pointer is wrong",
    "UPDATE items SET item_id = 'msg_x' WHERE depth = 2": "its id is wrong",
    "DELETE FROM items WHERE depth = 2": "its parent is missing",
    "DELETE FROM items WHERE depth = 3": "its output head is no item of its owner",
    "UPDATE conversations SET owner = 'other'": "its head is no item of its owner",
    "UPDATE responses SET output_head = input_head, input_head = output_head": "its output does not follow",
    "UPDATE responses SET body = '{'": "its stored JSON is invalid",
    "DELETE FROM events WHERE first = 0": "some of its events are missing",
}


class _Found(Exception):
    """Carries the problems out of a transaction that is rolled back."""


def test_damage_is_found(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            said = [message("first"), message("be", "system"), message("third")]
            made = await store.conversations.create(OWNER, said, {})
            await store.conversations.create(OTHER, [message("first")], {})
            await store.responses.save(
                OWNER, response(), base=made.head, input=[], output=[message("fourth", "assistant")]
            )
            await store.responses.append_events(OWNER, "resp_1", 0, ["{}"])
            await store.responses.append_events(OWNER, "resp_1", 1, ["{}"])
            assert await store.verify() == []
            for statement, expected in DAMAGE.items():
                with pytest.raises(_Found) as found:
                    await store._database.write(_damaging(statement))
                complaints = found.value.args
                assert any(expected in problem for problem in complaints), (statement, complaints)
                assert not any("third" in problem for problem in complaints), "content is never told"
            assert await store.verify() == []

    asyncio.run(run())


def _damaging(statement: str) -> Callable[[Connection], None]:
    def work(c: Connection) -> None:
        is_sqlite = c.dialect.name == "sqlite"
        unheeded = (
            "PRAGMA defer_foreign_keys = ON" if is_sqlite else "SET LOCAL session_replication_role = replica"
        )
        c.execute(text(unheeded))
        c.execute(text(statement))
        raise _Found(*problems(c, no_progress))

    return work
