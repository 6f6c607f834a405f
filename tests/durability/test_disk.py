"""A full disk, a folder that may not be written: clean errors, nothing lost, and all well afterwards."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from headrace.config import StoreConfig
from headrace.store.maintenance import Maintenance, no_progress
from tests.cli.process import serving
from tests.durability.api import Api, Unanswered, check_refusal
from tests.durability.servers import server
from tests.durability.writers import MODEL, Chaining, Completing, Conversing, Writer

CONFIG = """
[models]
default = ""
[providers.x]
kind = "fake"
[paths]
data = "data"
"""
FULL_BYTES = 600_000
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "headrace.toml").write_text(CONFIG)
    return tmp_path


def writers(api: Api) -> list[Writer]:
    kinds: list[type[Writer]] = [Conversing] * 4 + [Chaining] * 2 + [Completing] * 2
    return [kind(number, api, random.Random(number)) for number, kind in enumerate(kinds)]


async def until_refused(writer: Writer) -> None:
    """Three times in a row."""
    num_refused = 0
    while num_refused < 3:
        try:
            await writer.write()
            num_refused = 0
        except Unanswered:
            num_refused += 1


async def check(writing: list[Writer]) -> None:
    for writer in writing:
        await writer.check()
        if isinstance(writer, Conversing | Completing):
            await writer.check_all()


def test_a_full_disk(folder: Path) -> None:
    """No file may grow beyond a size: that is what a write to a full disk gives."""
    api = Api(may_refuse=True)
    writing = writers(api)

    async def run() -> None:
        with server(folder, max_file_bytes=FULL_BYTES) as url:
            async with api.at(url):
                await asyncio.gather(*map(until_refused, writing))
                assert (await api.post("/chat/completions", CHAT))["choices"]
                await check(writing)  # reading goes on
        with server(folder) as url:
            async with api.at(url):
                await check(writing)
                for writer in writing:
                    await writer.write()
                await check(writing)
        async with Maintenance(StoreConfig(), folder / "data") as maintenance:
            assert await maintenance.verify(no_progress) == []

    asyncio.run(run())
    assert api.num_refused
    assert all(writer.num_acknowledged for writer in writing)
    log = (folder / "log").read_text()
    assert "Traceback" not in log
    assert "writer" not in log, "content is never logged"


@contextmanager
def written_by_nobody(data: Path) -> Iterator[list[str]]:
    """What to start a process with so that this holds for it, even if it is root's."""
    words = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]
    changed = [data, *data.iterdir()]
    modes = [path.stat().st_mode for path in changed]
    for path in changed:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        yield words if os.geteuid() == 0 else []
    finally:
        for path, mode in zip(changed, modes, strict=True):
            path.chmod(mode)


def test_a_folder_that_may_not_be_written(folder: Path) -> None:
    body = {"items": [{"role": "user", "content": "before"}]}
    with serving(cwd=folder) as served:
        id = served.http.post("/v1/conversations", json=body).json()["id"]
        served.process.terminate()
        served.process.wait(60)
    with ExitStack() as exits:
        with written_by_nobody(folder / "data") as prefix:
            served = exits.enter_context(serving(cwd=folder, prefix=prefix))
            check_refusal(served.http.post("/v1/conversations", json=body))
            check_refusal(served.http.post("/v1/chat/completions", json={**CHAT, "conversation": id}))
            assert served.http.post("/v1/chat/completions", json=CHAT).status_code == 200
        turn = served.http.post("/v1/chat/completions", json={**CHAT, "conversation": id})
        assert turn.status_code == 200, turn.text  # by itself, once it may
        items = served.http.get(f"/v1/conversations/{id}/items").json()["data"]
        assert [item["role"] for item in items] == ["assistant", "user", "user"]
        assert "Traceback" not in served.log.read_text()
