"""Models that were made of served ones, in either database."""

from __future__ import annotations

import asyncio

from headrace.store import StoredPreset
from tests.store.conftest import Opened


def test_a_preset_is_saved_replaced_and_deleted(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            saved = await store.presets.save(StoredPreset("pirate", {"from": "m", "system": "Arr \0 ü"}))
            assert saved.created_at > 0
            assert await store.presets.all() == [saved]
            await store.presets.save(StoredPreset("pirate", {"from": "n"}))
            await store.presets.save(StoredPreset("bard", {"from": "m"}))
            assert [(one.name, one.body["from"]) for one in await store.presets.all()] == [
                ("bard", "m"),
                ("pirate", "n"),
            ]
            await store.presets.delete("pirate")
            await store.presets.delete("pirate")
            assert [one.name for one in await store.presets.all()] == ["bard"]

    asyncio.run(run())
