"""Stored chat completions."""

from __future__ import annotations

import asyncio

import pytest

from headrace.errors import BadRequest, CompletionNotFound
from headrace.store import StoredCompletion
from headrace.store.completions import ROWS_PER_SCAN
from tests.store.conftest import Opened
from tests.store.values import OTHER, OWNER, message, texts

ODD = {'k"%_\\': 'v":"x"\\', "K": "\0"}


def completion(number: int, model: str = "m", **metadata: str) -> StoredCompletion:
    return StoredCompletion(f"chatcmpl-{number}", 1_700_000_000, model, {"n": number}, metadata)


def test_saved_read_changed_deleted(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            saved = await store.completions.save(OWNER, completion(1), [message("a"), message("b")])
            assert await store.completions.get(OWNER, saved.id) == saved
            assert texts((await store.items.page(OWNER, saved.head, limit=9, order="asc")).data) == ["a", "b"]
            changed = await store.completions.update(OWNER, saved.id, ODD)
            assert changed.metadata == ODD
            assert await store.completions.get(OWNER, saved.id) == changed
            for attempt in (
                store.completions.get(OTHER, saved.id),
                store.completions.update(OTHER, saved.id, {}),
                store.completions.delete(OTHER, saved.id),
            ):
                with pytest.raises(CompletionNotFound):
                    await attempt
            await store.completions.delete(OWNER, saved.id)
            with pytest.raises(CompletionNotFound):
                await store.completions.get(OWNER, saved.id)

    asyncio.run(run())


def test_listed_by_model_and_metadata(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            for n in range(ROWS_PER_SCAN + 30):
                even = "yes" if n % 2 == 0 else "YES"
                await store.completions.save(OWNER, completion(n, f"m{n % 3}", even=even), [])
            ids = [f"chatcmpl-{n}" for n in range(ROWS_PER_SCAN + 30)]
            page = await store.completions.page(OWNER, limit=2)
            assert [one.id for one in page.data] == ids[:2]
            assert page.has_more
            page = await store.completions.page(OWNER, limit=2, after=ids[1], order="desc")
            assert [one.id for one in page.data] == ids[:1]
            assert not page.has_more
            page = await store.completions.page(OWNER, limit=1000, metadata={"even": "yes"}, model="m0")
            assert [one.id for one in page.data] == ids[::6]
            assert not page.has_more
            assert (await store.completions.page(OTHER, limit=3)).data == []
            await store.completions.update(OWNER, ids[200], ODD)
            for name, value in ODD.items():
                page = await store.completions.page(OWNER, limit=3, metadata={name: value})
                assert [one.id for one in page.data] == [ids[200]]
            with pytest.raises(BadRequest):
                await store.completions.page(OWNER, limit=3, after="chatcmpl-none")

    asyncio.run(run())
