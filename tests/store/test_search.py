"""Conversations are found by what was said in them."""

from __future__ import annotations

import asyncio

import pytest

from headrace.errors import BadRequest
from tests.store.conftest import Opened
from tests.store.values import OTHER, OWNER, message


def parts(text: str) -> dict[str, object]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "role": "assistant", "content": content}


SAID: dict[str, list[dict[str, object]]] = {
    "rivers": [message("Name a RIVER."), parts("The Danube \u2013 or \u201cthe Blue\u201d.")],
    "food": [message("What is \u00dcberbackenes?"), parts("Food from an oven: 100 %_ hot. C:\\new")],
    "far": [message("\u5317\u4eac\u5728\u54ea\u91cc"), parts("In China.")],
    "calls": [{"type": "function_call", "call_id": "c", "name": "look", "arguments": '{"city": "Ulm"}'},
              {"type": "function_call_output", "call_id": "c", "output": "sunny"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("river", {"rivers"}),
        ("danube river", {"rivers"}),
        ("danube oven", set()),
        ("the", {"rivers"}),
        ("\u201cthe blue\u201d.", {"rivers"}),
        ("\u00fcberbackenes", {"food"}),
        ("%_", {"food"}),
        ("c:\\new", {"food"}),
        ("\u5317\u4eac", {"far"}),
        ("ulm SUNNY", {"calls"}),
        ("titled", set(SAID)),
        ("titled ulm", {"calls"}),
        ("other", set()),
        ("role", set()),
        ("output_text", set()),
        ("annotations", set()),
    ],
)
def test_all_words_are_somewhere_in_it(opened: Opened, words: str, expected: set[str]) -> None:
    async def run() -> None:
        async with opened() as store:
            names = {}
            for name, items in SAID.items():
                made = await store.conversations.create(OWNER, items, {"title": "Titled", "n": "other"})
                names[made.id] = name
                await store.conversations.create(OTHER, items, {"title": "Titled"})
            found = await store.conversations.search(OWNER, words, limit=100)
            assert {names[one.id] for one in found.data} == expected

    asyncio.run(run())


def test_branches_have_what_they_share(opened: Opened) -> None:
    """What was said before a fork is in both, what was said after it in one; what was deleted in none."""

    async def run() -> None:
        async with opened() as store:
            made = await store.conversations.create(OWNER, [message("first")], {})
            (item,) = await store.items.path(OWNER, made.head)
            forked = await store.conversations.fork(OWNER, made.id, item.id, {})
            await store.conversations.append(OWNER, made.id, [message("second"), message("end")])
            (other,) = await store.conversations.append(OWNER, forked.id, [message("third")])

            async def found(words: str) -> list[str]:
                return [one.id for one in (await store.conversations.search(OWNER, words, limit=9)).data]

            assert await found("first") == [forked.id, made.id]
            assert await found("first second") == [made.id]
            assert await found("third") == [forked.id]
            await store.conversations.delete_item(OWNER, forked.id, other.id)
            assert await found("third") == []
            await store.conversations.delete(OWNER, made.id)
            assert await found("first") == [forked.id]

    asyncio.run(run())


def test_pages(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            made = [await store.conversations.create(OWNER, [message(f"a word {n}")], {}) for n in range(5)]
            ids = [one.id for one in made]
            page = await store.conversations.search(OWNER, "word", limit=3)
            assert [one.id for one in page.data] == ids[:1:-1]
            assert page.has_more
            rest = await store.conversations.search(OWNER, "word", limit=3, after=page.data[-1].id)
            assert [one.id for one in rest.data] == ids[1::-1]
            assert not rest.has_more
            oldest = await store.conversations.search(OWNER, "word", limit=2, order="asc")
            assert [one.id for one in oldest.data] == ids[:2]
            with pytest.raises(BadRequest):
                await store.conversations.search(OWNER, "word", limit=3, after="conv_none")

    asyncio.run(run())
