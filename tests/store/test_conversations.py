"""Conversations: heads, locks and owners."""

from __future__ import annotations

import asyncio

import pytest

from headrace.config import StoreConfig
from headrace.errors import BadRequest, ConversationLocked, ConversationNotFound, ItemNotFound
from headrace.store import Chain
from headrace.store.retention import prune
from tests.store.conftest import Opened
from tests.store.values import OTHER, OWNER, message, response, texts


def test_created_read_changed_listed_deleted(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            made = [await store.conversations.create(OWNER, [], {"n": str(n)}) for n in range(5)]
            assert await store.conversations.get(OWNER, made[1].id) == made[1]
            changed = await store.conversations.update(OWNER, made[1].id, {"new": "yes"})
            assert changed.metadata == {"new": "yes"}
            assert (await store.conversations.get(OWNER, made[1].id)) == changed
            ids = [conversation.id for conversation in made]
            page = await store.conversations.page(OWNER, limit=3)
            assert [one.id for one in page.data] == ids[:1:-1]
            assert page.has_more
            rest = await store.conversations.page(OWNER, limit=3, after=page.data[-1].id)
            assert [one.id for one in rest.data] == ids[1::-1]
            assert not rest.has_more
            forward = await store.conversations.page(OWNER, limit=5, order="asc", after=ids[0])
            assert [one.id for one in forward.data] == ids[1:]
            with pytest.raises(BadRequest):
                await store.conversations.page(OWNER, limit=3, after="conv_none")
            await store.conversations.delete(OWNER, ids[0])
            with pytest.raises(ConversationNotFound):
                await store.conversations.get(OWNER, ids[0])

    asyncio.run(run())


def test_for_another_owner_it_does_not_exist(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            made = await store.conversations.create(OWNER, [message("a")], {})
            (item,) = await store.items.path(OWNER, made.head)
            lock = await store.conversations.lock(OWNER, made.id)
            await store.conversations.release(lock)
            for attempt in (
                store.conversations.get(OTHER, made.id),
                store.conversations.update(OTHER, made.id, {}),
                store.conversations.delete(OTHER, made.id),
                store.conversations.append(OTHER, made.id, []),
                store.conversations.fork(OTHER, made.id, item.id, {}),
                store.conversations.item(OTHER, made.id, item.id),
                store.conversations.delete_item(OTHER, made.id, item.id),
                store.conversations.lock(OTHER, made.id),
            ):
                with pytest.raises(ConversationNotFound):
                    await attempt
            assert (await store.conversations.page(OTHER, limit=3)).data == []
            assert await store.conversations.get(OWNER, made.id) == made

    asyncio.run(run())


def test_items_are_added_read_and_deleted(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            made = await store.conversations.create(OWNER, [message("a")], {})
            added = await store.conversations.append(
                OWNER, made.id, [message("s", "system"), message("b"), message("c")]
            )
            assert texts(added) == ["s", "b", "c"]
            assert await store.conversations.item(OWNER, made.id, added[1].id) == added[1]
            less = await store.conversations.delete_item(OWNER, made.id, added[1].id)
            left = await store.items.path(OWNER, less.head)
            assert texts(left) == ["a", "s", "c"]
            assert [item.id for item in left][1:] == [added[0].id, added[2].id], "ids stay"
            assert texts((await store.items.window(OWNER, less.head, 1))[0]) == ["s"]
            with pytest.raises(ItemNotFound):
                await store.conversations.item(OWNER, made.id, added[1].id)
            with pytest.raises(ItemNotFound):
                await store.conversations.delete_item(OWNER, made.id, added[1].id)
            for item in left[::-1]:
                less = await store.conversations.delete_item(OWNER, made.id, item.id)
            assert less.head is None
            assert await store.verify() == []

    asyncio.run(run())


def test_a_fork_shares_the_items_up_to_one_and_outlives_the_other(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            made = await store.conversations.create(OWNER, [message("a"), message("b"), message("c")], {})
            items = await store.items.path(OWNER, made.head)
            fork = await store.conversations.fork(OWNER, made.id, items[1].id, {"is": "a fork"})
            assert fork.metadata == {"is": "a fork"}
            assert await store.items.path(OWNER, fork.head) == items[:2], "the same rows"
            await store.conversations.append(OWNER, fork.id, [message("d")])
            empty = await store.conversations.fork(OWNER, made.id, None, {})
            assert empty.head is None
            with pytest.raises(ItemNotFound):
                await store.conversations.fork(OWNER, fork.id, items[2].id, {})
            await store.conversations.delete(OWNER, made.id)
            assert (await prune(store._database, StoreConfig(), keep_s=-1))["items"] == 1
            head = (await store.conversations.get(OWNER, fork.id)).head
            assert texts(await store.items.path(OWNER, head)) == ["a", "b", "d"]
            assert await store.verify() == []

    asyncio.run(run())


def test_only_the_holder_changes_a_locked_conversation(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store, opened() as elsewhere:
            made = await store.conversations.create(OWNER, [message("a")], {})
            (item,) = await store.items.path(OWNER, made.head)
            lock = await store.conversations.lock(OWNER, made.id)
            for one in (store, elsewhere):
                for attempt in (
                    one.conversations.lock(OWNER, made.id),
                    one.conversations.append(OWNER, made.id, [message("b")]),
                    one.conversations.delete_item(OWNER, made.id, item.id),
                ):
                    with pytest.raises(ConversationLocked) as refused:
                        await attempt
                    assert refused.value.param == "conversation"
            await store.conversations.release(lock, Chain(made.head, [message("b")]))
            await store.conversations.release(lock, Chain(made.head, [message("b")]))
            await store.conversations.release(lock)
            head = (await elsewhere.conversations.get(OWNER, made.id)).head
            assert texts(await elsewhere.items.path(OWNER, head)) == ["a", "b"]
            await elsewhere.conversations.release(await elsewhere.conversations.lock(OWNER, made.id))

    asyncio.run(run())


def test_saving_a_turn_moves_the_head_and_releases_the_lock(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            made = await store.conversations.create(OWNER, [message("a")], {})
            lock = await store.conversations.lock(OWNER, made.id)
            saved = await store.responses.save(
                OWNER,
                response(),
                base=made.head,
                input=[message("b")],
                output=[message("c", "assistant", id="msg_c")],
                lock=lock,
            )
            assert texts(await store.responses.output(OWNER, saved)) == ["c"]
            assert (await store.conversations.get(OWNER, made.id)).head == saved.output_head
            again = await store.conversations.lock(OWNER, made.id)
            stored = await store.responses.save(
                OWNER, response("resp_2"), base=again.conversation.head, input=[], output=[message("d")],
                lock=again, is_appended=False,
            )  # fmt: skip
            assert (
                (await store.conversations.get(OWNER, made.id)).head
                == saved.output_head
                != stored.output_head
            )
            await store.conversations.release(await store.conversations.lock(OWNER, made.id))

    asyncio.run(run())


def test_a_conversation_deleted_while_locked_stays_deleted(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            made = await store.conversations.create(OWNER, [message("a")], {})
            lock = await store.conversations.lock(OWNER, made.id)
            await store.conversations.delete(OWNER, made.id)
            saved = await store.responses.save(
                OWNER, response(), base=made.head, input=[], output=[message("b")], lock=lock
            )
            await store.conversations.release(lock)
            assert texts(await store.items.path(OWNER, saved.output_head)) == ["a", "b"]
            with pytest.raises(ConversationNotFound):
                await store.conversations.get(OWNER, made.id)

    asyncio.run(run())


def test_concurrent_turns_get_the_lock_one_after_the_other(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as one, opened() as two:
            made = await one.conversations.create(OWNER, [], {})

            async def add(number: int) -> None:
                store = (one, two)[number % 2]
                while True:
                    try:
                        lock = await store.conversations.lock(OWNER, made.id)
                    except ConversationLocked:
                        continue
                    await store.conversations.release(
                        lock, Chain(lock.conversation.head, [message(str(number))])
                    )
                    return

            await asyncio.gather(*map(add, range(12)))
            head = (await one.conversations.get(OWNER, made.id)).head
            assert sorted(texts(await one.items.path(OWNER, head)), key=str) == sorted(map(str, range(12)))
            assert await one.verify() == []

    asyncio.run(run())


def test_a_cancelled_append_is_complete_or_absent(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            made = await store.conversations.create(OWNER, [], {})
            for number in range(20):
                task = asyncio.create_task(store.conversations.append(OWNER, made.id, [message(str(number))]))
                for _ in range(number % 5):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await store.conversations.append(OWNER, made.id, [message("last")])
            head = (await store.conversations.get(OWNER, made.id)).head
            found = texts(await store.items.path(OWNER, head))
            assert "last" in found
            assert len(set(found)) == len(found)
            assert await store.verify() == []

    asyncio.run(run())


def test_a_caller_cancelled_while_locking_leaves_no_lock(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store, opened() as elsewhere:
            made = await store.conversations.create(OWNER, [], {})
            before = asyncio.all_tasks()
            for number in range(12):
                task = asyncio.create_task(store.conversations.lock(OWNER, made.id))
                for _ in range(number):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await asyncio.gather(*(asyncio.all_tasks() - before), return_exceptions=True)
            await store.conversations.release(
                await store.conversations.lock(OWNER, made.id)
            )  # free at once in this process, and in others after a heartbeat
            await store.conversations.retry_releases()
            await elsewhere.conversations.release(await elsewhere.conversations.lock(OWNER, made.id))

    asyncio.run(run())


@pytest.mark.parametrize("index", [0, 1, 700, 1198, 1199])
def test_an_item_of_a_long_conversation_is_deleted(opened: Opened, index: int) -> None:
    async def run() -> None:
        async with opened() as store:
            said = [f"text {number}" for number in range(1200)]
            made = await store.conversations.create(OWNER, [message(text) for text in said], {})
            path = await store.items.path(OWNER, made.head)
            less = await store.conversations.delete_item(OWNER, made.id, path[index].id)
            assert texts(await store.items.path(OWNER, less.head)) == [*said[:index], *said[index + 1 :]]
            assert await store.verify() == []

    asyncio.run(run())


def test_items_deleted_concurrently_are_all_gone(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            said = [f"text {number}" for number in range(30)]
            made = await store.conversations.create(OWNER, [message(text) for text in said], {})
            path = await store.items.path(OWNER, made.head)
            gone = (3, 17, 29)
            await asyncio.gather(
                *(store.conversations.delete_item(OWNER, made.id, path[index].id) for index in gone)
            )
            left = await store.conversations.get(OWNER, made.id)
            expected = [text for index, text in enumerate(said) if index not in gone]
            assert texts(await store.items.path(OWNER, left.head)) == expected
            assert await store.verify() == []

    asyncio.run(run())
