"""A database that cannot be used: a clean error, and recovery without a restart."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import text

from headrace.config import StoreConfig
from headrace.errors import ConfigError, StoreUnavailable
from headrace.store import Chain, Store
from headrace.store.database import Database, to_url
from tests.postgres import PostgreSQL, postgresql
from tests.store.values import OWNER, message, texts

T = TypeVar("T")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    """A PostgreSQL server with fsync, which tests may stop and kill."""
    with postgresql(is_durable=True) as server:
        yield server


async def eventually_done(work: Callable[[], Awaitable[T]]) -> T:
    """Retry until the database is back. Any error but StoreUnavailable fails the test."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await work()
            except StoreUnavailable as exc:
                if not exc.headers["Retry-After"]:
                    pytest.fail("a caller is not told when to try again")
                await asyncio.sleep(0.02)


def test_callers_do_not_notice_a_restart_of_the_server(server: PostgreSQL, tmp_path: Path) -> None:
    async def run() -> None:
        store = Store(StoreConfig(url=server.create()), tmp_path)
        await store.start()
        made = await store.conversations.create(OWNER, [message("a")], {})
        await asyncio.gather(*(store.items.path(OWNER, made.head) for _ in range(20)))  # several connections
        for restart in (server.stop, server.kill):
            restart()
            server.start()
            assert texts(await store.items.path(OWNER, made.head)) == ["a"]  # at once, over a dead connection
            await store.conversations.append(OWNER, made.id, [message("b")])
        assert await store.verify() == []
        await store.aclose()

    asyncio.run(run())


def test_a_server_that_hangs_is_noticed_once_for_all_and_recovers(
    server: PostgreSQL, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        store = Store(StoreConfig(url=server.create()), tmp_path)
        await store.start()
        made = await store.conversations.create(OWNER, [], {})
        server.pause()
        try:
            waiting = [store.conversations.get(OWNER, made.id) for _ in range(14)]  # more than connections
            waiting += [store.conversations.create(OWNER, [], {}) for _ in range(3)]
            for result in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(result, StoreUnavailable)
                assert "no answer in time" in result.message
            for _ in range(1000):  # none of them waits: they would take an hour
                with pytest.raises(StoreUnavailable):
                    await store.conversations.get(OWNER, made.id)
        finally:
            server.resume()
        await eventually_done(lambda: store.conversations.append(OWNER, made.id, [message("a")]))
        assert await store.verify() == []
        await store.aclose()

    asyncio.run(run())
    lines = [record.message for record in caplog.records if "silence" in record.name]
    assert [line.rpartition(": ")[2] for line in lines] == [
        "what needs it is refused until it answers",
        "it answers again",
    ]


def test_a_slow_statement_goes_on_while_the_server_answers_others(server: PostgreSQL, tmp_path: Path) -> None:
    async def run() -> None:
        database = Database(to_url(server.create(), tmp_path))
        try:
            assert await database.read(lambda c: c.scalar(text("SELECT 1 FROM pg_sleep(5)"))) == 1
        finally:
            await database.aclose()

    asyncio.run(run())


def test_a_server_that_hangs_does_not_hold_up_the_end(server: PostgreSQL, tmp_path: Path) -> None:
    async def run() -> None:
        database = Database(to_url(server.create(), tmp_path))
        await asyncio.gather(*(database.read(lambda c: c.scalar(text("SELECT 1"))) for _ in range(9)))
        server.pause()
        try:
            async with asyncio.timeout(30):  # each connection would wait for 35 seconds
                await database.aclose()
        finally:
            server.resume()

    asyncio.run(run())


def test_a_server_that_is_down_is_reported_and_recovers(server: PostgreSQL, tmp_path: Path) -> None:
    async def run() -> None:
        store = Store(StoreConfig(url=server.create()), tmp_path)
        await store.start()
        await store.check()
        made = await store.conversations.create(OWNER, [], {})
        lock = await store.conversations.lock(OWNER, made.id)
        server.stop()
        try:
            for attempt in (
                store.conversations.get(OWNER, made.id),
                store.conversations.append(OWNER, made.id, [message("a")]),
                store.conversations.release(lock),
                store.check(),
            ):
                with pytest.raises(StoreUnavailable) as refused:
                    await attempt
                assert "database cannot be used" in refused.value.message
                assert "asyncpg" not in refused.value.message
        finally:
            server.start()
        await eventually_done(store.check)
        await store.conversations.release(
            await store.conversations.lock(OWNER, made.id)
        )  # the lock whose release failed is free
        await store.aclose()

    asyncio.run(run())


def test_under_load_a_restart_loses_nothing_that_was_acknowledged(server: PostgreSQL, tmp_path: Path) -> None:
    async def run() -> None:
        store = Store(StoreConfig(url=server.create()), tmp_path)
        await store.start()
        made = [await store.conversations.create(OWNER, [], {}) for _ in range(6)]
        acknowledged: dict[str, list[object]] = {one.id: [] for one in made}
        is_over = asyncio.Event()

        async def write(id: str) -> None:
            number = 0
            while not is_over.is_set():
                number += 1
                try:
                    if number % 2:
                        await store.conversations.append(OWNER, id, [message(str(number))])
                    else:
                        lock = await store.conversations.lock(OWNER, id)
                        await store.conversations.release(
                            lock, Chain(lock.conversation.head, [message(str(number))])
                        )
                except StoreUnavailable:
                    await asyncio.sleep(0.01)
                else:
                    acknowledged[id].append(str(number))

        writers = [asyncio.create_task(write(one.id)) for one in made]
        for end in (server.kill, server.stop):
            await until_more(acknowledged)
            await asyncio.to_thread(end)
            await asyncio.to_thread(server.start)
            await until_more(acknowledged)
        is_over.set()
        await asyncio.gather(*writers)
        for id, expected in acknowledged.items():
            found = texts(await store.items.path(OWNER, (await store.conversations.get(OWNER, id)).head))
            assert [text for text in found if text in set(expected)] == expected
            assert len(set(found)) == len(found), "nothing is there twice"
        assert await store.verify() == []
        await store.aclose()

    asyncio.run(run())


async def until_more(acknowledged: dict[str, list[object]]) -> None:
    before = {id: len(texts) for id, texts in acknowledged.items()}
    async with asyncio.timeout(60):
        while any(len(acknowledged[id]) <= before[id] for id in before):  # noqa: ASYNC110  # of many writers
            await asyncio.sleep(0.01)


def test_a_server_that_starts_late_is_no_error(
    server: PostgreSQL, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = server.create()

    async def run() -> None:
        store = Store(StoreConfig(url=url), tmp_path)
        server.stop()
        try:
            with caplog.at_level(logging.INFO):
                await store.start()
            assert "database cannot be used" in caplog.text
            assert url.split(":")[2].split("@")[0] not in caplog.text, "its password is never told"
            with pytest.raises(StoreUnavailable):
                await store.check()
        finally:
            server.start()
        await eventually_done(store.check)
        await store.conversations.create(OWNER, [message("a")], {})
        await store.aclose()

    asyncio.run(run())


def test_a_wrong_password_stops_the_start(server: PostgreSQL, tmp_path: Path) -> None:
    address = server.create()
    password = address.split(":")[2].split("@")[0]
    for url in (address.replace(password, "secret"), address.rpartition("/")[0] + "/nosuch"):

        async def run(url: str = url) -> None:
            await Store(StoreConfig(url=url), tmp_path).start()

        with pytest.raises(ConfigError, match=r"authentication failed|does not exist") as refused:
            asyncio.run(run())
        assert "secret" not in refused.value.message


def test_only_the_owner_can_read_the_file(tmp_path: Path) -> None:
    data = tmp_path / "deep" / "data"

    async def run() -> None:
        store = Store(StoreConfig(), data)
        await store.start()
        await store.conversations.create(OWNER, [message("a")], {})
        for path in data.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        await store.aclose()

    old = os.umask(0)
    try:
        asyncio.run(run())
    finally:
        os.umask(old)
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert [path.name for path in data.iterdir()] == ["headrace.db"]


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """The server starts and reports the file; once it is removed, the store works."""
    (tmp_path / "headrace.db").write_text("this is no database, but it is long enough to be looked at" * 20)

    async def run() -> None:
        store = Store(StoreConfig(), tmp_path)
        await store.start()
        with pytest.raises(StoreUnavailable, match="not a database"):
            await store.check()
        (tmp_path / "headrace.db").unlink()
        await store.check()
        await store.conversations.create(OWNER, [message("a")], {})
        await store.aclose()

    asyncio.run(run())


def test_a_full_disk_is_reported_and_recovers(tmp_path: Path) -> None:
    async def run() -> None:
        store = Store(StoreConfig(), tmp_path)
        await store.start()
        made = await store.conversations.create(OWNER, [message("a")], {})
        await store._database.write(lambda c: c.exec_driver_sql("PRAGMA max_page_count = 1").close())
        with pytest.raises(StoreUnavailable, match="full") as refused:
            await store.conversations.append(OWNER, made.id, [message("x" * 10**6)])
        assert "xxx" not in refused.value.message
        assert texts(await store.items.path(OWNER, made.head)) == ["a"]
        await store._database.write(lambda c: c.exec_driver_sql("PRAGMA max_page_count = 100000").close())
        await store.check()
        await store.conversations.append(OWNER, made.id, [message("x" * 10**6)])
        assert await store.verify() == []
        await store.aclose()

    asyncio.run(run())
