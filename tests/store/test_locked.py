"""A SQLite file that another process has locked: after one transaction timed out, the others fail at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from headrace.config import StoreConfig
from headrace.errors import StoreUnavailable
from headrace.store import Store
from headrace.store import sqlite as module
from headrace.store.housekeeping import Housekeeping
from tests.store.values import OWNER, message, texts

LOCKER = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
c.executescript(sys.argv[2])
print("locked", flush=True)
sys.stdin.readline()
c.execute("ROLLBACK")
"""
WRITE = "BEGIN IMMEDIATE"
ALL = "PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE"  # blocks readers, too


@contextmanager
def locked(file: Path, statements: str) -> Iterator[None]:
    """Lock the file in another process until the block ends."""
    command = [sys.executable, "-c", LOCKER, str(file), statements]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "locked\n"
            yield
        finally:
            process.stdin.close()
            process.wait()


@asynccontextmanager
async def store_at(folder: Path) -> AsyncIterator[Store]:
    store = Store(StoreConfig(), folder)
    await store.start()
    try:
        yield store
    finally:
        await store.aclose()


async def refused(store: Store, count: int) -> None:
    writes = [store.conversations.create(OWNER, [message("x")], {}) for _ in range(count)]
    for outcome in await asyncio.gather(*writes, return_exceptions=True):
        assert isinstance(outcome, StoreUnavailable), outcome
        assert "locked" in outcome.message


@pytest.fixture(autouse=True)
def _patient_for_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_MS", 1000)


def test_waiters_share_one_deadline(tmp_path: Path) -> None:
    async def run() -> None:
        async with store_at(tmp_path) as store:
            made = await store.conversations.create(OWNER, [message("a")], {})
            with locked(tmp_path / "headrace.db", WRITE):
                async with asyncio.timeout(20):
                    await refused(store, 60)  # one after the other they would wait for a minute
                    for _ in range(60):
                        await refused(store, 1)
                    assert texts(await store.items.path(OWNER, made.head)) == ["a"]  # readers do not wait
            await store.conversations.append(OWNER, made.id, [message("b")])
            assert await store.verify() == []

    asyncio.run(run())


def test_a_write_succeeds_when_the_lock_is_released_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_MS", 60_000)

    async def run() -> None:
        async with store_at(tmp_path) as store:
            with locked(tmp_path / "headrace.db", WRITE):
                writes = [
                    asyncio.ensure_future(store.conversations.create(OWNER, [message("a")], {}))
                    for _ in range(5)
                ]
                await asyncio.sleep(0.1)
                assert not any(write.done() for write in writes)
            await asyncio.gather(*writes)

    asyncio.run(run())


def test_a_server_starts_while_its_file_is_locked(tmp_path: Path) -> None:
    async def run() -> None:
        async with store_at(tmp_path) as store:
            made = await store.conversations.create(OWNER, [message("a")], {})
        with locked(tmp_path / "headrace.db", ALL):
            again = Store(StoreConfig(), tmp_path)
            async with asyncio.timeout(30):
                await again.start()  # starting needs no lock
                await refused(again, 30)
                with pytest.raises(StoreUnavailable):
                    await again.items.path(OWNER, made.head)
        assert texts(await again.items.path(OWNER, made.head)) == ["a"]
        await again.aclose()

    asyncio.run(run())


def test_closing_does_not_wait_for_a_lock(tmp_path: Path) -> None:
    async def run() -> None:
        store = Store(StoreConfig(), tmp_path)
        await store.start()
        assert isinstance(store._housekeeping, Housekeeping)
        with locked(tmp_path / "headrace.db", WRITE):
            async with asyncio.timeout(20):
                await asyncio.gather(refused(store, 60), store.aclose())

    asyncio.run(run())
