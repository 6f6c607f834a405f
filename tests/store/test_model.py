"""Compares random operations with a model in memory; then the store verifies itself."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.config import StoreConfig
from headrace.errors import HeadraceError
from headrace.store import Chain, ConversationLock, Store, StoredResponse
from headrace.store.retention import prune
from tests.store.values import message, response

OWNERS = ("one", "two")
Step = tuple[str, int, int, int]

steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["create", "add", "delete item", "delete", "hold", "turn", "release", "answer", "forget", "prune"]
        ),
        st.integers(0, 5),
        st.integers(0, 5),
        st.integers(0, 3),
    ),
    max_size=25,
)


@dataclass
class Model:
    """The expected texts of conversations and responses."""

    conversations: dict[str, list[str]] = field(default_factory=dict)
    responses: dict[str, tuple[StoredResponse, list[str]]] = field(default_factory=dict)
    locks: dict[str, ConversationLock] = field(default_factory=dict)


def said(count: int, seed: int) -> list[str]:
    """Texts of three kinds only, so that many histories begin alike."""
    return [f"{(seed + n) % 3}" for n in range(count)]


def as_items(said: list[str]) -> list[dict[str, object]]:
    return [message(text, "system" if text == "2" else "user") for text in said]


async def step(store: Store, owner: str, model: Model, what: str, a: int, b: int, count: int) -> None:
    ids = sorted(model.conversations)
    id = ids[a % len(ids)] if ids else None
    texts = said(count, b)
    if what == "create":
        made = await store.conversations.create(owner, as_items(texts), {})
        model.conversations[made.id] = texts
    elif what == "answer":
        await answer(store, owner, model, a, texts)
    elif what == "forget" and model.responses:
        await store.responses.delete(owner, (gone := sorted(model.responses)[a % len(model.responses)]))
        del model.responses[gone]
    elif what == "prune":
        await prune(store._database, StoreConfig(responses_days=0, chat_completions_days=0), keep_s=-1)
    elif id is None:
        return
    elif what in ("hold", "turn", "release"):
        await hold(store, owner, model, id, what, texts)
    elif what == "delete":
        await store.conversations.delete(owner, id)
        del model.conversations[id]
        model.locks.pop(id, None)
    elif id not in model.locks:
        await change(store, owner, model, id, what, b, texts)


async def change(
    store: Store, owner: str, model: Model, id: str, what: str, at: int, texts: list[str]
) -> None:
    known = model.conversations[id]
    if what == "add":
        await store.conversations.append(owner, id, as_items(texts))
        known += texts
    elif what == "delete item" and known:
        items = await store.items.path(owner, (await store.conversations.get(owner, id)).head)
        await store.conversations.delete_item(owner, id, items[at % len(items)].id)
        del known[at % len(known)]


async def hold(store: Store, owner: str, model: Model, id: str, what: str, texts: list[str]) -> None:
    lock = model.locks.pop(id, None)
    if lock is None:
        model.locks[id] = await store.conversations.lock(owner, id)
    elif what == "turn":
        await store.conversations.release(lock, Chain(lock.conversation.head, as_items(texts)))
        model.conversations[id] += texts
    else:
        await store.conversations.release(lock)


async def answer(store: Store, owner: str, model: Model, at: int, texts: list[str]) -> None:
    """Save a response, after another one or after none."""
    known = sorted(model.responses)
    before, path = model.responses[known[at % len(known)]] if known and at % 2 else (None, [])
    saved = await store.responses.save(
        owner,
        response(f"resp_{owner}_{len(known)}_{at}"),
        base=before.output_head if before else None,
        input=as_items(texts[:1]),
        output=as_items(texts[1:]),
    )
    model.responses[saved.id] = saved, [*path, *texts]


async def compare(store: Store, owner: str, model: Model) -> None:
    for id, expected in model.conversations.items():
        head = (await store.conversations.get(owner, id)).head
        assert [item.body["content"] for item in await store.items.path(owner, head)] == expected
        before, recent = await store.items.window(owner, head, 3)
        assert [item.body["content"] for item in recent] == expected[-3:]
        assert [item.body["content"] for item in before] == [text for text in expected[:-3] if text == "2"]
    for id, (saved, expected) in model.responses.items():
        assert await store.responses.get(owner, id) == saved
        assert [item.body["content"] for item in await store.items.path(owner, saved.output_head)] == expected
    listed = await store.conversations.page(owner, limit=1000)
    assert {one.id for one in listed.data} == set(model.conversations)


async def play(url: str, data: Path, plan: list[Step]) -> None:
    store = Store(StoreConfig(url=url), data)
    await store.start()
    try:
        owner = f"{OWNERS[len(plan) % 2]} {id(plan)}"
        model = Model()
        for what, a, b, count in plan:
            await step(store, owner, model, what, a, b, count)
        await compare(store, owner, model)
        assert await store.verify() == []
        for name in model.conversations:
            await store.conversations.delete(owner, name)
        for name in model.responses:
            await store.responses.delete(owner, name)
        gone = await prune(store._database, StoreConfig(responses_days=0, chat_completions_days=0), keep_s=-1)
        assert set(gone) == {"items"}
        assert await store.verify() == []
    except HeadraceError as exc:
        pytest.fail(f"{exc!r}")
    finally:
        await store.aclose()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(plan=steps)
def test_random_operations_agree_with_a_model_in_memory(
    database_url: str, tmp_path: Path, plan: list[Step]
) -> None:
    asyncio.run(play(database_url, tmp_path, plan))
