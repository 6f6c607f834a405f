"""Processes that die: their locks are released, their unfinished responses fail."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import Connection, select, update

from headrace.errors import ConversationLocked
from headrace.store import Chain, Store, StoredConversation
from headrace.store import processes as module
from headrace.store.tables import processes
from tests.store.conftest import Opened
from tests.store.values import OWNER, message, response, texts

ROOT = Path(__file__).parents[2]
HOLDER = """
import asyncio, sys
from pathlib import Path
from headrace.config import StoreConfig
from headrace.store import Store, StoredResponse

async def main():
    store = Store(StoreConfig(url=sys.argv[1]), Path("."))
    await store.start()
    await store.conversations.lock("owner", sys.argv[2])
    await store.responses.save("owner", StoredResponse("resp_1", 1, "in_progress", {"id": "resp_1"}),
                              base=None, input=[], output=[])
    print("locked", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def lock_in_another_process(exits: ExitStack, url: str, conversation: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, url, conversation]
    process = exits.enter_context(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
    exits.callback(process.kill)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_after_a_kill_nothing_stays_locked(opened: Opened, database_url: str) -> None:
    async def run() -> None:
        async with opened() as store:
            made = await store.conversations.create(OWNER, [message("a")], {})
            with ExitStack() as exits:
                process = await asyncio.to_thread(lock_in_another_process, exits, database_url, made.id)
                with pytest.raises(ConversationLocked):
                    await store.conversations.lock(OWNER, made.id)
                process.send_signal(signal.SIGKILL)
                await asyncio.to_thread(process.wait)
                lock = await store.conversations.lock(OWNER, made.id)  # at once, because its process is gone
                assert lock.conversation == made
            async with opened() as restarted:
                left = await restarted.responses.get(OWNER, "resp_1")
                assert left.status == left.body["status"] == "failed"
                assert left.body["error"] == module.STOPPED
                with pytest.raises(ConversationLocked):
                    await restarted.conversations.lock(OWNER, made.id)  # the holder is alive
            await store.conversations.release(lock)

    asyncio.run(run())


def test_a_stopped_process_is_not_dead(
    opened: Opened, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may be silent because its machine sleeps or a debugger stopped it: it is alive."""
    monkeypatch.setattr(module, "SILENT_S", 0.0)

    async def run() -> None:
        async with opened() as store:
            made = await store.conversations.create(OWNER, [message("a")], {})
            with ExitStack() as exits:
                process = await asyncio.to_thread(lock_in_another_process, exits, database_url, made.id)
                process.send_signal(signal.SIGSTOP)
                for _ in range(3):
                    await store._processes.beat(store._database)
                    with pytest.raises(ConversationLocked):
                        await store.conversations.lock(OWNER, made.id)
                assert (await store.responses.get(OWNER, "resp_1")).status == "in_progress"
                assert len(await beats(store)) == 2
                process.send_signal(signal.SIGCONT)
                with pytest.raises(ConversationLocked):
                    await store.conversations.lock(OWNER, made.id)
                process.send_signal(signal.SIGKILL)
                await asyncio.to_thread(process.wait)
                await store.conversations.lock(OWNER, made.id)

    asyncio.run(run())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the start of a process is a time")
def test_setting_the_clock_declares_no_process_dead(opened: Opened) -> None:
    """On Linux, start times are ticks since the boot."""
    text = Path("/proc/self/stat").read_text()
    ticks = int(text.rpartition(")")[2].split()[19])

    async def run() -> None:
        async with opened() as store:
            chosen = select(processes.c.started, processes.c.host)
            row = await store._database.read(lambda c: c.execute(chosen).one())
            assert (row.started, row.host) == (ticks, module.host())

    asyncio.run(run())


async def change_row(store: Store, id: str, **values: object) -> None:
    def work(c: Connection) -> None:
        c.execute(update(processes).where(processes.c.id == id).values(**values))

    await store._database.write(work)


async def beats(store: Store) -> dict[str, int]:
    chosen = select(processes.c.id, processes.c.beat)
    return await store._database.read(lambda c: {row.id: row.beat for row in c.execute(chosen)})


async def locked_conversation(store: Store, by: Store) -> StoredConversation:
    made = await store.conversations.create(OWNER, [message("a")], {})
    await by.conversations.lock(OWNER, made.id)
    return made


def test_a_silent_process_of_another_host_is_dead(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with opened() as store, opened() as far:
            made = await locked_conversation(store, far)
            await change_row(store, far._processes.id, host="elsewhere", pid=2**22 + 1)
            await store._processes.beat(store._database)
            with pytest.raises(ConversationLocked):
                await store.conversations.lock(OWNER, made.id)
            await far._processes.beat(far._database)
            monkeypatch.setattr(module, "SILENT_S", 0.0)
            with pytest.raises(ConversationLocked):
                await store.conversations.lock(OWNER, made.id)  # its heartbeat is recent
            assert set(await beats(store)) == {store._processes.id, far._processes.id}
            await store.conversations.release(await store.conversations.lock(OWNER, made.id))
            assert set(await beats(store)) == {store._processes.id}
            monkeypatch.undo()
            await far._processes.beat(far._database)  # it was alive: it registers again
            assert set(await beats(store)) == {store._processes.id, far._processes.id}

    asyncio.run(run())


def test_a_process_whose_id_was_used_again_is_dead(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store, opened() as gone:
            made = await locked_conversation(store, gone)
            await change_row(store, gone._processes.id, pid=os.getpid(), started=1)
            await store.conversations.lock(OWNER, made.id)

    asyncio.run(run())


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_process_declared_dead_in_error_overwrites_no_later_turn(opened: Opened, is_moved: bool) -> None:
    async def run() -> None:
        async with opened() as store, opened() as slow:
            made = await store.conversations.create(OWNER, [message("a")], {})
            lock = await slow.conversations.lock(OWNER, made.id)
            await change_row(store, slow._processes.id, started=1)  # makes it seem dead
            if is_moved:
                await store.conversations.append(OWNER, made.id, [message("b")])
            else:
                await store.conversations.release(await store.conversations.lock(OWNER, made.id))
            turn = Chain(made.head, [message("late")])
            if is_moved:
                with pytest.raises(ConversationLocked):
                    await slow.conversations.release(lock, turn)
            else:
                await slow.conversations.release(lock, turn)
            head = (await store.conversations.get(OWNER, made.id)).head
            assert texts(await store.items.path(OWNER, head)) == ["a", "b" if is_moved else "late"]
            assert await slow.responses.cancel_requested([]) == set()

    asyncio.run(run())


def test_a_process_declared_dead_in_error_stops_its_responses(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store, opened() as slow:
            await slow.responses.save(OWNER, response(status="in_progress"), base=None, input=[], output=[])
            await change_row(store, slow._processes.id, started=1)
            await store._processes.beat(store._database)
            assert (await store.responses.get(OWNER, "resp_1")).status == "failed"
            assert await slow.responses.cancel_requested(["resp_1"]) == {"resp_1"}

    asyncio.run(run())
