"""Export from one database, import into another."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from headrace.config import StoreConfig
from headrace.errors import ConfigError
from headrace.store import Store, StoredCompletion, StoredPreset
from headrace.store.maintenance import Maintenance, no_progress
from tests.postgres import PostgreSQL
from tests.store.conftest import Opened
from tests.store.values import OTHER, OWNER, message, response, texts


async def exported(url: str, data: Path) -> list[str]:
    lines: list[str] = []
    async with Maintenance(StoreConfig(url=url), data) as database:
        count = await database.write_to(lines.append, no_progress)
    assert count == len(lines) - 1
    return lines


async def imported(url: str, data: Path, lines: list[str]) -> tuple[int, int]:
    async with Maintenance(StoreConfig(url=url), data) as database:
        counts = await database.read_from(lines, lambda done: None)
        assert await database.verify(no_progress) == []
    return counts.num_new, counts.num_known


def test_an_import_restores_the_export(
    opened: Opened, database_url: str, tmp_path: Path, postgres: PostgreSQL
) -> None:
    targets = [f"sqlite:///{tmp_path / 'other.db'}", postgres.create()]

    async def run() -> None:
        async with opened() as store:
            made = await store.conversations.create(OWNER, [message("ü\0"), message("b")], {"k": "v"})
            await store.conversations.create(OTHER, [message("ü\0")], {})
            lock = await store.conversations.lock(OWNER, made.id)
            saved = await store.responses.save(
                OWNER, response(), base=made.head, input=[], output=[message("c")], lock=lock
            )
            await store.responses.append_events(OWNER, saved.id, 0, ['{"n": 0}', '{"n": 1}'])
            await store.responses.save(
                OWNER, response("resp_2", "in_progress"), base=None, input=[message("q")], output=[]
            )
            await store.responses.save(
                OWNER, response("resp_3", "in_progress"), base=None, input=[], output=[]
            )
            await store.responses.delete(OWNER, "resp_3")
            await store.completions.save(OWNER, StoredCompletion("chatcmpl-1", 1, "m", {}), [message("m")])
            await store.presets.save(StoredPreset("mine", {"from": "m"}))
            await store.conversations.lock(OWNER, made.id)
            lines = await exported(database_url, tmp_path)
            made = await store.conversations.get(OWNER, made.id)
        for target in targets:
            assert await imported(target, tmp_path, lines) == (len(lines) - 1, 0)
            assert await imported(target, tmp_path, lines) == (0, len(lines) - 1)
            other = Store(StoreConfig(url=target), tmp_path)
            await other.start()
            try:
                assert await other.conversations.get(OWNER, made.id) == made
                assert await other.responses.get(OWNER, saved.id) == saved
                assert texts(await other.items.path(OWNER, saved.output_head)) == ["ü\0", "b", "c"]
                assert await other.responses.events(OWNER, saved.id) == ['{"n": 0}', '{"n": 1}']
                assert (await other.responses.get(OWNER, "resp_2")).status == "failed"
                assert (await other.completions.get(OWNER, "chatcmpl-1")).model == "m"
                assert [one.name for one in await other.presets.all()] == ["mine"]
                await other.conversations.release(await other.conversations.lock(OWNER, made.id))
            finally:
                await other.aclose()

    asyncio.run(run())


def test_a_bad_export_is_refused_with_its_line(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'one.db'}"

    async def run() -> None:
        store = Store(StoreConfig(url=url), tmp_path)
        await store.start()
        await store.conversations.create(OWNER, [message("a"), message("b")], {})
        await store.aclose()
        head, first, second, *rest = await exported(url, tmp_path)
        changed = json.dumps({**json.loads(second), "body": json.dumps(message("c"))})
        other = json.loads(second)
        unread = (json.dumps({**other, "body": body}) for body in ("{", "3", "[]"))
        orphan = (json.dumps({**other, "parent": parent}) for parent in ("ab" * 32, "zz"))
        led = json.dumps({**other, "system": other["hash"]})
        newer = json.dumps({**json.loads(head), "schema": 99})
        for lines, said in (
            ([], "line 1 is not JSON"),
            (["{}"], "line 1: this is no export"),
            ([newer], "line 1: this was exported with schema 99"),
            ([head, first, "{"], "line 3 is not JSON"),
            ([head, first, "[]"], "line 3 is no object"),
            ([head, first, changed], "line 3: the item is not what its hash says"),
            *(([head, first, line], "line 3: no item, or what it follows") for line in (*unread, *orphan)),
            ([head, first, led], "line 3: the item is not what its hash says"),
            ([head, '{"table": "nonsense"}'], "line 2: there is no table 'nonsense'"),
            ([head, '{"table": "items"}'], "line 2: its members are not those of items"),
        ):
            with pytest.raises(ConfigError, match=said):
                await imported(f"sqlite:///{tmp_path / 'two.db'}", tmp_path, lines)
        assert (await imported(f"sqlite:///{tmp_path / 'two.db'}", tmp_path, [head, first, second, *rest]))[
            0
        ] == 3

    asyncio.run(run())
