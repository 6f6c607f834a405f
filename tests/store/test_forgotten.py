"""Connections that the network has forgotten: what is sent over them is lost, while new ones work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from headrace.config import StoreConfig
from headrace.store import Store
from headrace.store.database import Database, to_url
from tests.postgres import PostgreSQL, postgresql
from tests.store.values import OWNER, message, texts


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with postgresql() as server:
        yield server


class Firewall:
    """Passes connections on to a database. `forget` loses what either side sends over those there are."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._generation = 0
        self.url = ""
        self.num_connections = 0

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        generation = self._generation
        self.num_connections += 1
        far_reader, far_writer = await asyncio.open_connection(self._target.hostname, self._target.port)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 16):
                if generation == self._generation:
                    target.write(data)
            target.close()

        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer), return_exceptions=True)

    def forget(self) -> None:
        self._generation += 1


@asynccontextmanager
async def behind_firewall(url: str) -> AsyncIterator[Firewall]:
    firewall = Firewall(url)
    listening = await asyncio.start_server(firewall.pass_on, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    firewall.url = url.replace(f":{urlsplit(url).port}/", f":{port}/")
    try:
        yield firewall
    finally:
        listening.close()


def test_callers_get_their_answers_over_new_connections(
    server: PostgreSQL, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each would wait for 35 seconds, and get an error."""

    async def run() -> None:
        async with behind_firewall(server.create()) as firewall:
            store = Store(StoreConfig(url=firewall.url), tmp_path)
            await store.start()
            made = await store.conversations.create(OWNER, [message("a")], {})
            await asyncio.gather(*(store.conversations.get(OWNER, made.id) for _ in range(20)))
            firewall.forget()
            before = firewall.num_connections
            async with asyncio.timeout(30):
                reads = (store.conversations.get(OWNER, made.id) for _ in range(12))
                await asyncio.gather(store.conversations.append(OWNER, made.id, [message("b")]), *reads)
                await store.conversations.append(OWNER, made.id, [message("c")])
            head = (await store.conversations.get(OWNER, made.id)).head
            assert texts(await store.items.path(OWNER, head)) == ["a", "b", "c"]
            assert firewall.num_connections > before
            assert await store.verify() == []
            await store.aclose()

    asyncio.run(run())
    assert any("connections are dead" in record.message for record in caplog.records)
    assert not any("no answer" in record.message for record in caplog.records)


def test_a_slow_statement_is_left_alone(
    server: PostgreSQL, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        database = Database(to_url(server.create(), tmp_path))
        slow = [database.read(lambda c: c.scalar(text("SELECT 1 FROM pg_sleep(5)"))) for _ in range(3)]
        assert await asyncio.gather(*slow) == [1, 1, 1]
        assert (database.counts["read"], database.counts["failed"]) == (3, 0)
        await database.aclose()

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert [record.message for record in caplog.records if "database" in record.message] == []
