"""A server that is killed, again and again, while many write: nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from headrace.config import StoreConfig
from headrace.store.maintenance import Maintenance, no_progress
from tests.cli.process import headrace
from tests.durability.api import Api, Unanswered
from tests.durability.servers import server
from tests.durability.writers import STALLED, Chaining, Completing, Conversing, InBackground, Writer
from tests.upstream import Answer, scripted, sse

KILLS = 50
LOAD_S = 0.3  # at most, after all has been checked
CONFIG = """
[models]
default = ""
[providers.x]
kind = "fake"
[providers.stalled]
kind = "openai"
base_url = "{url}/v1"
models = ["fake"]
"""
FIRST = {"id": "a", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hel"}}]}


def writers(api: Api, dice: random.Random) -> list[Writer]:
    """32."""
    kinds: list[type[Writer]] = [Conversing] * 18 + [Chaining] * 5 + [Completing] * 3 + [InBackground] * 4
    found = [kind(number, api, random.Random(dice.random())) for number, kind in enumerate(kinds)]
    return [*found, *(InBackground(number, api, dice, STALLED) for number in (30, 31))]


async def run(folder: Path, seed: int) -> Counter[str]:
    dice, api = random.Random(seed), Api()
    writing = writers(api, dice)
    for _ in range(KILLS):
        await live(folder, api, writing, dice)
    with server(folder) as url:
        async with api.at(url):
            for writer in writing:
                await writer.check()
                if isinstance(writer, Conversing | Completing):
                    await writer.check_all()
    counts = Counter(type(writer).__name__ for writer in writing for _ in range(writer.num_acknowledged))
    for writer in writing:
        if isinstance(writer, InBackground):
            counts.update(writer.statuses)
    return counts


async def live(folder: Path, api: Api, writing: list[Writer], dice: random.Random) -> None:
    """One server's life."""
    running = server(folder)
    url = await asyncio.to_thread(running.__enter__)
    try:
        async with api.at(url), asyncio.TaskGroup() as group:
            try:
                await asyncio.gather(*(writer.check() for writer in writing))
                for writer in writing:
                    group.create_task(until_gone(writer))
                await verify(folder)
                await asyncio.sleep(dice.uniform(0, LOAD_S))
            finally:
                await asyncio.to_thread(running.__exit__, None, None, None)
    except ExceptionGroup as exc:
        raise exc.exceptions[0] from None


async def until_gone(writer: Writer) -> None:
    with pytest.raises(Unanswered):
        await writer.write_on()


async def verify(folder: Path) -> None:
    async with Maintenance(StoreConfig(), folder / "data") as maintenance:
        assert await maintenance.verify(no_progress) == []


def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    with scripted() as upstream:
        upstream.always("/v1/chat/completions", Answer(pieces=sse(FIRST), stall=True))
        (tmp_path / "headrace.toml").write_text(
            CONFIG.format(url=upstream.url) + f'[paths]\ndata = "{tmp_path}/data"\n'
        )
        try:
            counts = asyncio.run(run(tmp_path, seed))
        except BaseException:
            print(f"seed {seed}; the servers' log ends so:\n{(tmp_path / 'log').read_text()[-3000:]}")
            raise
    print(counts)
    verified = headrace("db", "verify", cwd=tmp_path)
    assert (verified.returncode, verified.stdout) == (0, ""), verified.stderr
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "ERROR" not in log
