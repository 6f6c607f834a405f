"""While the database is down: keys that are known go on, others are not refused as wrong; usage waits."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from headrace.api.authentication import FRESH_S, STALE_S, StoredKeys
from headrace.config import StoreConfig
from headrace.errors import StoreUnavailable, Unauthorized
from headrace.gateway.lifetime import Tally
from headrace.gateway.limits import Prices
from headrace.metering.usage import UsageMeter
from headrace.store import Store, StoredKey
from headrace.store.keys import Keys
from headrace.types import Usage


class Clock:
    time = 1000.0

    def __call__(self) -> float:
        return self.time


def test_a_known_key_goes_on_and_an_unknown_one_is_503(tmp_path: Path) -> None:
    """The folder of the SQLite file is taken away, and comes back."""

    async def run() -> None:
        folder, away = tmp_path / "data", tmp_path / "away"
        store = Store(StoreConfig(), folder)
        await store.start()
        made, secret = await store.keys.create(StoredKey("", "n", "", "", 0))
        _, other = await store.keys.create(StoredKey("", "n", "", "", 0))
        clock = Clock()
        keys = StoredKeys(store, clock)
        assert (await keys.owner(secret)).id == made.id
        os.rename(folder, away)
        clock.time += FRESH_S + 1
        assert (await keys.owner(secret)).id == made.id
        with pytest.raises(StoreUnavailable):
            await keys.owner(other)
        with pytest.raises(Unauthorized):
            await keys.owner("sk-hr-short")
        clock.time += STALE_S
        with pytest.raises(StoreUnavailable):
            await keys.owner(secret)
        os.rename(away, folder)
        assert (await keys.owner(other)).id != made.id
        await store.aclose()

    asyncio.run(run())


class Finding:
    """A store's keys, whose reads are counted."""

    def __init__(self, keys: Keys) -> None:
        self._keys, self.count = keys, 0

    async def find(self, secret: str) -> StoredKey | None:
        self.count += 1
        return await self._keys.find(secret)


def test_one_request_reads_a_known_key_again_and_the_others_do_not_wait(tmp_path: Path) -> None:
    async def run() -> None:
        store = Store(StoreConfig(), tmp_path)
        await store.start()
        made, secret = await store.keys.create(StoredKey("", "n", "", "", 0))
        finding, clock = Finding(store.keys), Clock()
        keys = StoredKeys(cast(Store, SimpleNamespace(keys=finding)), clock)
        await keys.owner(secret)
        clock.time += FRESH_S + 1
        owners = await asyncio.gather(*(keys.owner(secret) for _ in range(20)))
        assert {owner.id for owner in owners} == {made.id}
        assert finding.count == 2
        await store.keys.revoke(made.id)
        clock.time += FRESH_S + 1
        first, *_ = await asyncio.gather(*(keys.owner(secret) for _ in range(3)), return_exceptions=True)
        assert isinstance(first, Unauthorized)
        with pytest.raises(Unauthorized):
            await keys.owner(secret)
        await store.aclose()

    asyncio.run(run())


def test_usage_waits_for_the_database(tmp_path: Path) -> None:
    async def run() -> None:
        folder, away = tmp_path / "data", tmp_path / "away"
        store = Store(StoreConfig(), folder)
        await store.start()
        meter = UsageMeter(store, Prices())
        tally = Tally("generate", "m", "key_a", provider="p", served="m", usage=Usage(3, 4))
        meter.record(tally)
        await meter.flush()
        os.rename(folder, away)
        for _ in range(2):
            meter.record(tally)
            with pytest.raises(StoreUnavailable):
                await meter.flush()
        os.rename(away, folder)
        await meter.flush()
        assert await store.usage.spent("key_a") == (21, 0)
        await store.aclose()

    asyncio.run(run())


def test_usage_under_load_is_stored_in_one_transaction(tmp_path: Path) -> None:
    """While requests go on there is always something new to store: flushing went on and on."""

    async def run() -> None:
        store = Store(StoreConfig(), tmp_path)
        await store.start()
        meter = UsageMeter(store, Prices())
        tally = Tally("generate", "m", "key_a", provider="p", served="m", usage=Usage(3, 4))
        flushing, num_recorded = 3, 0

        async def flush() -> None:
            nonlocal flushing
            await meter.flush()
            flushing -= 1

        meter.record(tally)
        before = store._database.counts["write"]
        callers = [asyncio.create_task(flush()) for _ in range(flushing)]
        while flushing:
            num_recorded += 1
            meter.record(tally)
            await asyncio.sleep(0)
        await asyncio.gather(*callers)
        assert store._database.counts["write"] - before <= len(callers)
        await meter.flush()
        assert await store.usage.spent("key_a") == (7 * (1 + num_recorded), 0)
        await store.aclose()

    asyncio.run(run())
