"""A PostgreSQL that is restarted under load: errors are clean, what was acknowledged stays, and the server
recovers by itself.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from headrace.config import StoreConfig
from headrace.store.maintenance import Maintenance, no_progress
from tests.durability.api import Api, Unanswered
from tests.durability.servers import server
from tests.durability.writers import Chaining, Completing, Conversing, InBackground, Writer
from tests.postgres import PostgreSQL, postgresql

CONFIG = """
[models]
default = ""
[providers.x]
kind = "fake"
"""
RESTARTS = 5
LOAD_S = 0.5  # at most, before each
RECOVERY_S = 30.0


def writers(api: Api, dice: random.Random) -> list[Writer]:
    """32."""
    kinds: list[type[Writer]] = [Conversing] * 18 + [Chaining] * 6 + [Completing] * 4 + [InBackground] * 4
    return [kind(number, api, random.Random(dice.random())) for number, kind in enumerate(kinds)]


async def run(folder: Path, database: PostgreSQL, address: str, seed: int) -> Api:
    dice, api = random.Random(seed), Api(may_refuse=True)
    writing, is_over = writers(api, dice), asyncio.Event()
    with server(folder, DATABASE_URL=address) as url:
        async with api.at(url):
            async with asyncio.TaskGroup() as group:
                for writer in writing:
                    group.create_task(until_over(writer, is_over))
                for number in range(RESTARTS):
                    await until_more(writing)
                    await asyncio.sleep(dice.uniform(0, LOAD_S))
                    await asyncio.to_thread(database.kill if number % 2 else database.stop)
                    await asyncio.to_thread(database.start)
                await until_more(writing)
                is_over.set()
            await check(writing)
            async with Maintenance(StoreConfig(url=address), folder) as maintenance:
                assert await maintenance.verify(no_progress) == []
    return api


async def until_over(writer: Writer, is_over: asyncio.Event) -> None:
    while not is_over.is_set():
        try:
            await writer.write()
        except Unanswered:
            await asyncio.sleep(0.02)  # as a client that tries again


async def until_more(writing: Sequence[Writer]) -> None:
    """Of each."""
    before = [writer.num_acknowledged for writer in writing]
    async with asyncio.timeout(RECOVERY_S):
        while any(w.num_acknowledged <= count for w, count in zip(writing, before, strict=True)):  # noqa: ASYNC110  # of many
            await asyncio.sleep(0.02)


async def check(writing: Sequence[Writer]) -> None:
    for writer in writing:
        await writer.check()
        if isinstance(writer, Conversing | Completing):
            await writer.check_all()
        if isinstance(writer, InBackground):
            await writer.until_done()
            assert set(writer.statuses) == {"completed"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "headrace.toml").write_text(CONFIG)
    return tmp_path


def test_errors_are_clean_and_nothing_acknowledged_is_lost(folder: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    with postgresql(is_durable=True) as database:
        try:
            api = asyncio.run(run(folder, database, database.create(), seed))
        except BaseException:
            print(f"seed {seed}; the server's log ends so:\n{(folder / 'log').read_text()[-3000:]}")
            raise
    print(api.num_refused, api.num_unkept)
    assert api.num_refused, "the database was away, and nobody noticed"
    log = (folder / "log").read_text()
    assert "Traceback" not in log
    assert "writer" not in log, "content is never logged"
