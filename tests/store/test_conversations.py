"""Conversations: their heads, who holds them, and whose they are."""

from __future__ import annotations

import asyncio

import pytest

from headrace.errors import BadRequest, ConversationLocked, ConversationNotFound, ItemNotFound
from headrace.store import Chain
from tests.store.conftest import Opened
from tests.store.values import OTHER, OWNER, message, response, texts


def test_created_read_changed_listed_deleted(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            made = [await store.create_conversation(OWNER, [], {"n": str(n)}) for n in range(5)]
            assert await store.conversation(OWNER, made[1].id) == made[1]
            changed = await store.update_conversation(OWNER, made[1].id, {"new": "yes"})
            assert changed.metadata == {"new": "yes"}
            assert (await store.conversation(OWNER, made[1].id)) == changed
            ids = [conversation.id for conversation in made]
            page = await store.conversations(OWNER, limit=3)
            assert [one.id for one in page.data] == ids[:1:-1]
            assert page.has_more
            rest = await store.conversations(OWNER, limit=3, after=page.data[-1].id)
            assert [one.id for one in rest.data] == ids[1::-1]
            assert not rest.has_more
            forward = await store.conversations(OWNER, limit=5, order="asc", after=ids[0])
            assert [one.id for one in forward.data] == ids[1:]
            with pytest.raises(BadRequest):
                await store.conversations(OWNER, limit=3, after="conv_none")
            await store.delete_conversation(OWNER, ids[0])
            with pytest.raises(ConversationNotFound):
                await store.conversation(OWNER, ids[0])

    asyncio.run(run())


def test_for_another_owner_it_does_not_exist(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            made = await store.create_conversation(OWNER, [message("a")], {})
            (item,) = await store.path(OWNER, made.head)
            held = await store.hold(OWNER, made.id)
            await store.release(held)
            for attempt in (
                store.conversation(OTHER, made.id),
                store.update_conversation(OTHER, made.id, {}),
                store.delete_conversation(OTHER, made.id),
                store.add_items(OTHER, made.id, []),
                store.item(OTHER, made.id, item.id),
                store.delete_item(OTHER, made.id, item.id),
                store.hold(OTHER, made.id),
            ):
                with pytest.raises(ConversationNotFound):
                    await attempt
            assert (await store.conversations(OTHER, limit=3)).data == []
            assert await store.conversation(OWNER, made.id) == made

    asyncio.run(run())


def test_items_are_added_read_and_deleted(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            made = await store.create_conversation(OWNER, [message("a")], {})
            added = await store.add_items(
                OWNER, made.id, [message("s", "system"), message("b"), message("c")]
            )
            assert texts(added) == ["s", "b", "c"]
            assert await store.item(OWNER, made.id, added[1].id) == added[1]
            less = await store.delete_item(OWNER, made.id, added[1].id)
            left = await store.path(OWNER, less.head)
            assert texts(left) == ["a", "s", "c"]
            assert [item.id for item in left][1:] == [added[0].id, added[2].id], "ids stay"
            assert texts((await store.window(OWNER, less.head, 1))[0]) == ["s"]
            with pytest.raises(ItemNotFound):
                await store.item(OWNER, made.id, added[1].id)
            with pytest.raises(ItemNotFound):
                await store.delete_item(OWNER, made.id, added[1].id)
            for item in left[::-1]:
                less = await store.delete_item(OWNER, made.id, item.id)
            assert less.head is None
            assert await store.verify() == []

    asyncio.run(run())


def test_one_that_is_held_is_changed_by_nobody_else(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store, opened() as elsewhere:
            made = await store.create_conversation(OWNER, [message("a")], {})
            (item,) = await store.path(OWNER, made.head)
            held = await store.hold(OWNER, made.id)
            for one in (store, elsewhere):
                for attempt in (
                    one.hold(OWNER, made.id),
                    one.add_items(OWNER, made.id, [message("b")]),
                    one.delete_item(OWNER, made.id, item.id),
                ):
                    with pytest.raises(ConversationLocked) as refused:
                        await attempt
                    assert refused.value.param == "conversation"
            await store.release(held, Chain(made.head, [message("b")]))
            await store.release(held, Chain(made.head, [message("b")]))
            await store.release(held)
            head = (await elsewhere.conversation(OWNER, made.id)).head
            assert texts(await elsewhere.path(OWNER, head)) == ["a", "b"]
            await elsewhere.release(await elsewhere.hold(OWNER, made.id))

    asyncio.run(run())


def test_a_turn_moves_the_head_and_lets_go(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            made = await store.create_conversation(OWNER, [message("a")], {})
            held = await store.hold(OWNER, made.id)
            saved = await store.save_response(
                OWNER,
                response(),
                base=made.head,
                input=[message("b")],
                output=[message("c", "assistant", id="msg_c")],
                held=held,
            )
            assert texts(await store.output(OWNER, saved)) == ["c"]
            assert (await store.conversation(OWNER, made.id)).head == saved.output_head
            again = await store.hold(OWNER, made.id)
            kept = await store.save_response(
                OWNER, response("resp_2"), base=again.conversation.head, input=[], output=[message("d")],
                held=again, append=False,
            )  # fmt: skip
            assert (await store.conversation(OWNER, made.id)).head == saved.output_head != kept.output_head
            await store.release(await store.hold(OWNER, made.id))

    asyncio.run(run())


def test_one_that_is_deleted_while_it_is_held_stays_deleted(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            made = await store.create_conversation(OWNER, [message("a")], {})
            held = await store.hold(OWNER, made.id)
            await store.delete_conversation(OWNER, made.id)
            saved = await store.save_response(
                OWNER, response(), base=made.head, input=[], output=[message("b")], held=held
            )
            await store.release(held)
            assert texts(await store.path(OWNER, saved.output_head)) == ["a", "b"]
            with pytest.raises(ConversationNotFound):
                await store.conversation(OWNER, made.id)

    asyncio.run(run())


def test_many_who_want_it_at_once_get_it_one_by_one(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as one, opened() as two:
            made = await one.create_conversation(OWNER, [], {})

            async def add(number: int) -> None:
                store = (one, two)[number % 2]
                while True:
                    try:
                        held = await store.hold(OWNER, made.id)
                    except ConversationLocked:
                        continue
                    await store.release(held, Chain(held.conversation.head, [message(str(number))]))
                    return

            await asyncio.gather(*map(add, range(12)))
            head = (await one.conversation(OWNER, made.id)).head
            assert sorted(texts(await one.path(OWNER, head)), key=str) == sorted(map(str, range(12)))
            assert await one.verify() == []

    asyncio.run(run())


def test_a_caller_who_leaves_leaves_nothing_half_done(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            made = await store.create_conversation(OWNER, [], {})
            for number in range(20):
                task = asyncio.create_task(store.add_items(OWNER, made.id, [message(str(number))]))
                for _ in range(number % 5):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await store.add_items(OWNER, made.id, [message("last")])
            head = (await store.conversation(OWNER, made.id)).head
            found = texts(await store.path(OWNER, head))
            assert "last" in found
            assert len(set(found)) == len(found)
            assert await store.verify() == []

    asyncio.run(run())


def test_a_caller_who_leaves_while_it_waits_to_hold_holds_nothing(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store, opened() as elsewhere:
            made = await store.create_conversation(OWNER, [], {})
            before = asyncio.all_tasks()
            for number in range(12):
                task = asyncio.create_task(store.hold(OWNER, made.id))
                for _ in range(number):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await asyncio.gather(*(asyncio.all_tasks() - before), return_exceptions=True)
            await store.release(await store.hold(OWNER, made.id))  # at once here, and elsewhere after a beat
            await store._conversations.release_owed()
            await elsewhere.release(await elsewhere.hold(OWNER, made.id))

    asyncio.run(run())


@pytest.mark.parametrize("index", [0, 1, 700, 1198, 1199])
def test_an_item_of_a_long_conversation_is_taken_out(opened: Opened, index: int) -> None:
    async def run() -> None:
        async with opened() as store:
            said = [f"text {number}" for number in range(1200)]
            made = await store.create_conversation(OWNER, [message(text) for text in said], {})
            path = await store.path(OWNER, made.head)
            less = await store.delete_item(OWNER, made.id, path[index].id)
            assert texts(await store.path(OWNER, less.head)) == [*said[:index], *said[index + 1 :]]
            assert await store.verify() == []

    asyncio.run(run())


def test_items_that_are_taken_out_at_once_are_both_gone(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            said = [f"text {number}" for number in range(30)]
            made = await store.create_conversation(OWNER, [message(text) for text in said], {})
            path = await store.path(OWNER, made.head)
            gone = (3, 17, 29)
            await asyncio.gather(*(store.delete_item(OWNER, made.id, path[index].id) for index in gone))
            left = await store.conversation(OWNER, made.id)
            expected = [text for index, text in enumerate(said) if index not in gone]
            assert texts(await store.path(OWNER, left.head)) == expected
            assert await store.verify() == []

    asyncio.run(run())
