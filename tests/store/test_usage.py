"""Usage is added exactly once, whatever happens to the commit."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from headrace.store import UsageRow
from tests.store.conftest import Opened

ROW = UsageRow("key_a", "headrace", "m", 20_000, 1, 10, 5, 4, 7)


def test_batches_add_up_and_a_repeated_one_counts_once(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as one, opened() as other:
            await one.usage.add(1, [ROW, replace(ROW, model="n")])
            await one.usage.add(1, [ROW, replace(ROW, model="n")])  # the commit was in doubt
            await one.usage.add(2, [ROW])
            await other.usage.add(1, [replace(ROW, prompt_tokens=100)])
            rows = (await one.usage.page(since=0, until=30_000)).data
            assert rows == [replace(ROW, requests=3, prompt_tokens=120, completion_tokens=15,
                                    cached_tokens=12, cost=21), replace(ROW, model="n")]  # fmt: skip
            assert await other.usage.spent("key_a") == (150, 28)
            assert await one.usage.spent("key_b") == (0, 0)

    asyncio.run(run())


def test_rows_are_of_days_and_keys(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            rows = [replace(ROW, day=day, key=key) for day in (1, 2, 3) for key in ("a", "b")]
            await store.usage.add(1, rows)
            found = (await store.usage.page(since=2, until=4, key="b")).data
            assert [row.day for row in found] == [3, 2]
            assert len((await store.usage.page(since=2, until=3)).data) == 2

    asyncio.run(run())


def test_a_page_has_whole_days_and_says_whether_there_are_older_ones(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            keys = {1: "ab", 2: "abcde", 3: "a", 4: "ab"}
            await store.usage.add(1, [replace(ROW, day=day, key=key) for day in keys for key in keys[day]])
            pages, until = [], 5
            while until:
                page = await store.usage.page(since=0, until=until, limit=3)
                pages.append("".join(f"{row.day}{row.key}" for row in page.data))
                until = page.data[-1].day if page.has_more else 0
            assert pages == ["4a4b3a", "2a2b2c2d2e", "1a1b"]

    asyncio.run(run())


def test_usage_survives_a_restart(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            await store.usage.add(1, [ROW])
        async with opened() as store:
            await store.usage.add(1, [ROW])  # of another process
            assert (await store.usage.page(since=0, until=30_000)).data[0].requests == 2

    asyncio.run(run())
