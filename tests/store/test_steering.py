"""Steering profiles, defaults and attachments in either database."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from headrace.errors import BadRequest, ProfileNotFound
from headrace.store import StoredAttachment, StoredProfile
from headrace.store.steering import EVERYONE
from tests.store.conftest import Opened
from tests.store.values import OTHER, OWNER

CALM = StoredProfile("calm", {"ops": [{"vector": "calm", "value": 0.5}]}, "m", "slow \0 words")


def test_a_profile_is_created_changed_and_deleted(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            saved = await store.steering.save(CALM, is_new=True)
            assert saved.created_at == saved.changed_at > 0
            found = (await store.steering.all()).profiles["calm"]
            assert (found.body, found.model, found.description) == (CALM.body, "m", "slow \ufffd words")
            assert (await store.steering.save(CALM, is_new=True)).created_at == saved.created_at
            other = replace(CALM, body={"ops": []})
            with pytest.raises(BadRequest, match="PUT"):
                await store.steering.save(other, is_new=True)
            await store.steering.save(other, is_new=False)
            assert (await store.steering.all()).profiles["calm"].body == {"ops": []}
            await store.steering.delete("calm")
            assert not (await store.steering.all()).profiles
            with pytest.raises(ProfileNotFound):
                await store.steering.delete("calm")

    asyncio.run(run())


def test_defaults_belong_to_owners_and_end_with_their_profile(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            with pytest.raises(ProfileNotFound):
                await store.steering.set_default(OWNER, "calm")
            await store.steering.save(CALM, is_new=True)
            await store.steering.save(replace(CALM, name="wild"), is_new=True)
            await store.steering.set_default(OWNER, "calm")
            await store.steering.set_default(EVERYONE, "wild")
            await store.steering.set_default(OTHER, "wild")
            await store.steering.set_default(OTHER, None)
            assert (await store.steering.all()).defaults == {OWNER: "calm", EVERYONE: "wild"}
            await store.steering.delete("wild")
            assert (await store.steering.all()).defaults == {OWNER: "calm"}

    asyncio.run(run())


def test_attachments_are_remembered_by_model(opened: Opened) -> None:
    first = StoredAttachment("s", "m", "sae", "saes/s", 15, is_attached=True, layers=(9, 15))
    second = StoredAttachment("s", "other", "vector", "vectors/s.gguf")

    async def run() -> None:
        async with opened() as store:
            await store.steering.save_attachment(first)
            await store.steering.save_attachment(second)
            await store.steering.save_attachment(replace(first, is_attached=False))
        async with opened() as store:
            assert set(await store.steering.attachments()) == {replace(first, is_attached=False), second}
            await store.steering.delete_attachment("m", "s")
            assert list(await store.steering.attachments()) == [second]

    asyncio.run(run())
