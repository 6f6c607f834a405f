"""Paths, windows and pages of items, on both databases."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from headrace.errors import BadRequest
from headrace.offload import SMALL
from headrace.store import Store
from headrace.store.hashing import Position, address_all
from tests.store.conftest import Opened
from tests.store.values import OTHER, OWNER, message, texts


def test_a_path_lists_items_oldest_first(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            made = await store.conversations.create(OWNER, [message(str(n)) for n in range(5)], {})
            assert texts(await store.items.path(OWNER, made.head)) == ["0", "1", "2", "3", "4"]
            assert texts(await store.items.path(OWNER, made.head, limit=2)) == ["3", "4"]
            assert await store.items.path(OTHER, made.head) == []
            assert await store.items.path(OWNER, None) == []

    asyncio.run(run())


def test_a_body_is_read_as_it_was_written(opened: Opened) -> None:
    body = {
        "type": "message",
        "z": [1, 2.5, None, {"ü": "日本\u0000\ud800"}],
        "role": "user",
        "content": "\U0001f600",
    }

    async def run() -> None:
        async with opened() as store:
            made = await store.conversations.create(OWNER, [body], {"k": "\u0000"})
            (item,) = await store.items.path(OWNER, made.head)
            assert item.body == {**body, "id": item.id}
            assert list(item.body)[:3] == ["type", "z", "role"]
            assert made.metadata == {"k": "\u0000"}
            assert await store.verify() == []

    asyncio.run(run())


def test_a_history_that_is_sent_again_adds_no_rows(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            first = await store.conversations.create(OWNER, [message("a"), message("b")], {})
            again = await store.conversations.create(OWNER, [message("a"), message("b"), message("c")], {})
            shared = await store.items.path(OWNER, first.head)
            assert (await store.items.path(OWNER, again.head))[:2] == shared
            sent_back = [item.body for item in shared]
            third = await store.conversations.create(OWNER, sent_back, {})
            assert third.head == first.head, "an id that was made of the hash is recognised"
            assert await num_items(store) == 3

    asyncio.run(run())


async def num_items(store: Store) -> int:
    from sqlalchemy import func, select

    from headrace.store.tables import items

    return await store._database.read(lambda c: c.scalar(select(func.count()).select_from(items)) or 0)


def test_the_hash_depends_on_position_and_owner() -> None:
    here, there = address_all(OWNER, Position(), [message("a"), message("a")])
    (theirs,) = address_all(OTHER, Position(), [message("a")])
    assert len({here.hash, there.hash, theirs.hash}) == 3
    assert len({here.id, there.id, theirs.id}) == 3


def test_the_hash_ignores_the_order_of_members() -> None:
    body = message("a")
    (one,), (two,) = (
        address_all(OWNER, Position(), [body]),
        address_all(OWNER, Position(), [dict(reversed(body.items()))]),
    )
    assert one.hash == two.hash


def test_ids_begin_with_their_type() -> None:
    kinds = ["message", "function_call", "function_call_output", "reasoning", "compaction"]
    ids = [item.id for item in address_all(OWNER, Position(), [{"type": kind} for kind in kinds])]
    assert [id.partition("_")[0] for id in ids] == ["msg", "fc", "fco", "rs", "cmp"]
    assert len(ids[0]) == len("msg_") + 48


def test_window_keeps_system_messages_that_lie_before_it(opened: Opened) -> None:
    said = [message("s1", "system"), message("a"), message("s2", "developer")]
    said += [message(str(n)) for n in range(6)]

    async def run() -> None:
        async with opened() as store:
            made = await store.conversations.create(OWNER, said, {})
            for limit, systems in ((3, ["s1", "s2"]), (6, ["s1", "s2"]), (7, ["s1"]), (8, ["s1"]), (9, [])):
                before, recent = await store.items.window(OWNER, made.head, limit)
                assert texts(before) == systems, limit
                assert texts(recent) == [body["content"] for body in said[-limit:]], limit
            assert await store.items.window(OTHER, made.head, 3) == ([], [])
            assert await store.items.window(OWNER, None, 3) == ([], [])

    asyncio.run(run())


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_list_each_item_once(opened: Opened, order: str) -> None:
    async def run() -> None:
        async with opened() as store:
            made = await store.conversations.create(OWNER, [message(str(n)) for n in range(7)], {})
            found, after = [], None
            while True:
                page = await store.items.page(
                    OWNER, made.head, limit=3, after=after, order="asc" if order == "asc" else "desc"
                )
                found += texts(page.data)
                assert len(page.data) <= 3
                if not page.has_more:
                    break
                after = page.data[-1].id
            expected = [str(n) for n in range(7)]
            assert found == (expected if order == "asc" else expected[::-1])
            with pytest.raises(BadRequest) as refused:
                await store.items.page(OWNER, made.head, limit=3, after="msg_none")
            assert refused.value.param == "after"

    asyncio.run(run())


def test_after_must_be_on_the_path(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            ours = await store.conversations.create(OWNER, [message("a")], {})
            elsewhere = await store.conversations.create(OWNER, [message("b")], {})
            (item,) = await store.items.path(OWNER, elsewhere.head)
            with pytest.raises(BadRequest):
                await store.items.page(OWNER, ours.head, limit=3, after=item.id)
            assert (await store.items.find(OWNER, [item.id])) == {item.id: item}
            assert await store.items.find(OTHER, [item.id]) == {}

    asyncio.run(run())


def test_an_id_that_a_database_cannot_store_is_not_found(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            for id in ("msg_\0", "msg_\ud800", ""):
                assert await store.items.find(OWNER, [id]) == {}
            made = await store.conversations.create(OWNER, [message("a", id="own\0\ud800")], {})
            (item,) = await store.items.path(OWNER, made.head)
            assert item.id == "own\0\ud800"
            assert (await store.conversations.item(OWNER, made.id, item.id)).body["content"] == "a"
            assert await store.verify() == []

    asyncio.run(run())


def test_large_lists_are_hashed_off_the_event_loop(opened: Opened) -> None:
    """On either database. The items are read back as they were written."""
    threads: set[int] = set()

    class Watched(dict[str, object]):
        def items(self) -> Any:  # read when the item is hashed
            threads.add(threading.get_ident())
            return super().items()

    bodies = [Watched(message(f"{number} {'x' * 1000}")) for number in range(SMALL // 500)]

    async def run() -> None:
        async with opened() as store:
            made = await store.conversations.create(OWNER, bodies, {})
            assert threading.get_ident() not in threads
            expected = [body["content"] for body in bodies]
            assert [item.body["content"] for item in await store.items.path(OWNER, made.head)] == expected
            page = await store.items.page(OWNER, made.head, limit=100, order="asc")
            assert [item.body["content"] for item in page.data] == expected[:100]
            before, last = await store.items.window(OWNER, made.head, 120)
            assert [item.body["content"] for item in [*before, *last]] == expected[-120:]
            ids = [item.id for item in page.data]
            assert list(await store.items.find(OWNER, ids)) == ids

    asyncio.run(run())
    assert threads
