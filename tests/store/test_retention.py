"""Retention and garbage collection: old rows and unreferenced items are deleted, others stay."""

from __future__ import annotations

import asyncio
import time

import pytest
from sqlalchemy import Connection, func, select, update

from headrace.config import StoreConfig
from headrace.errors import CompletionNotFound, ConversationNotFound, ResponseNotFound
from headrace.store import Store, StoredCompletion
from headrace.store.retention import DAY_S, prune
from headrace.store.tables import conversations, items
from tests.store.conftest import Opened
from tests.store.values import OWNER, message, response, texts

NOW = -1.0  # as `keep_s`: collect garbage at once


async def num_items(store: Store) -> int:
    return await store._database.read(lambda c: c.scalar(select(func.count()).select_from(items)) or 0)


def test_only_unreferenced_items_are_collected(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            config = StoreConfig()
            said = [message(str(n)) for n in range(250)]
            long = await store.conversations.create(OWNER, said, {})
            short = await store.conversations.create(OWNER, said[:10], {})
            branch = await store.conversations.create(OWNER, [*said[:5], message("other")], {})
            await store.conversations.delete(OWNER, long.id)
            assert (await prune(store._database, config))["items"] == 0, "a turn may be asked on it"
            last = time.time() - 60  # then the clock jumped ahead
            assert (await prune(store._database, config, keep_s=NOW, before=last))["items"] == 0
            assert (await prune(store._database, config, keep_s=NOW))["items"] == 240
            assert len(await store.items.path(OWNER, short.head)) == 10
            assert texts(await store.items.path(OWNER, branch.head))[-1] == "other"
            await store.conversations.delete(OWNER, short.id)
            assert (await prune(store._database, config, keep_s=NOW))["items"] == 5
            await store.conversations.delete(OWNER, branch.id)
            assert (await prune(store._database, config, keep_s=NOW))["items"] == 6
            assert await num_items(store) == 0
            assert await store.verify() == []

    asyncio.run(run())


def test_each_kind_has_its_own_retention(opened: Opened) -> None:
    now, day = int(time.time()), DAY_S

    async def run() -> None:
        async with opened() as store:
            for n, age in enumerate((1, 9, 11)):
                made = response(f"resp_{n}")
                aged = type(made)(made.id, now - age * day, made.status, made.body)
                await store.responses.save(OWNER, aged, base=None, input=[message(f"r{n}")], output=[])
                completion = StoredCompletion(f"chatcmpl-{n}", now - age * day, "m", {})
                await store.completions.save(OWNER, completion, [message(f"c{n}")])
                await store.conversations.create(OWNER, [message(f"v{n}")], {}, id=f"conv_{n}")
                await store._database.write(lambda c, n=n, age=age: _used(c, f"conv_{n}", now - age * day))  # type: ignore[misc]
            running = type(made)("resp_running", now - 99 * day, "in_progress", {})
            await store.responses.save(OWNER, running, base=None, input=[], output=[])
            config = StoreConfig(responses_days=10, chat_completions_days=5, conversations_days=0)
            gone = await prune(store._database, config, keep_s=NOW)
            assert gone == {"responses": 1, "completions": 2, "items": 3}
            gone = await prune(store._database, StoreConfig(conversations_days=10), keep_s=NOW)
            assert gone == {"responses": 0, "completions": 0, "conversations": 1, "items": 1}
            await store.responses.get(OWNER, "resp_1")
            await store.responses.get(OWNER, "resp_running")
            await store.completions.get(OWNER, "chatcmpl-0")
            await store.conversations.get(OWNER, "conv_1")
            with pytest.raises(ResponseNotFound):
                await store.responses.get(OWNER, "resp_2")
            with pytest.raises(CompletionNotFound):
                await store.completions.get(OWNER, "chatcmpl-1")
            with pytest.raises(ConversationNotFound):
                await store.conversations.get(OWNER, "conv_2")
            assert await store.verify() == []

    asyncio.run(run())


def _used(c: Connection, id: str, at: int) -> None:
    c.execute(update(conversations).where(conversations.c.id == id).values(used_at=at))
