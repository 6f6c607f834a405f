"""Which servers have the database open. What a dead one held is let go of, what it was making has failed."""

from __future__ import annotations

import json
import os
import platform
import secrets
import time
from collections.abc import Collection
from functools import cache
from pathlib import Path

import psutil
from sqlalchemy import Connection, Row, delete, insert, select, update

from headrace.store.database import Database
from headrace.store.hashing import written
from headrace.store.tables import conversations, processes, responses

SILENT_S = 15.0  # without a beat for so long, a process of another host is dead
CLOCK_S = 2  # as much may a process's start seem to move when the clock is set; not on Linux
STARTED = 19  # the field of /proc/PID/stat after its name

RUNNING = ("queued", "in_progress")
STOPPED = {
    "code": "server_error",
    "message": "the server that generated this response stopped before it was complete",
}


class Processes:
    """This one, and what it has seen of the others: a beat that does not change for `SILENT_S` is no
    clock's word but its own observation.
    """

    def __init__(self) -> None:
        self.id = secrets.token_hex(16)
        self._seen: dict[str, tuple[int, float]] = {}  # beat, and when it was first seen (monotonic)

    def enter(self, c: Connection) -> None:
        """Be known, and clear up after those who died."""
        me = psutil.Process()
        values = {"host": host(), "pid": me.pid, "started": _started(me)}
        if not c.execute(select(processes.c.id).where(processes.c.id == self.id)).first():
            c.execute(insert(processes).values(id=self.id, beat=0, **values))
        self.sweep(c)

    def leave(self, c: Connection) -> None:
        _bury(c, [self.id])

    async def beat(self, database: Database) -> None:
        def work(c: Connection) -> None:
            mine = update(processes).where(processes.c.id == self.id)
            if c.execute(mine.values(beat=processes.c.beat + 1)).rowcount == 0:
                self.enter(c)  # held dead while the database could not be reached
            else:
                self.sweep(c)

        await database.write(work)

    def sweep(self, c: Connection) -> None:
        others = c.execute(select(processes).where(processes.c.id != self.id)).all()
        self._seen = {row.id: self._seen[row.id] for row in others if row.id in self._seen}
        _bury(c, [row.id for row in others if self._is_dead(row)])

    def bury_if_dead(self, c: Connection, id: str | None) -> bool:
        """Whether it was; then what it held is free."""
        row = c.execute(select(processes).where(processes.c.id == id)).first()
        if row is not None and (id == self.id or not self._is_dead(row)):
            return False
        _bury(c, [] if id is None else [id])
        return True

    def _is_dead(self, row: Row[tuple[object, ...]]) -> bool:
        if row.host == host():
            return not _runs(row.pid, row.started)  # one that is merely silent (stopped, starved) lives
        now = time.monotonic()
        beat, since = self._seen.get(row.id, (None, now))
        if beat != row.beat:
            self._seen[row.id] = (row.beat, now)
            return False
        return now - since > SILENT_S


@cache
def host() -> str:
    """Where process ids mean the same: a machine since its start, and in it a container."""
    parts = [platform.node()]
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), "/proc/self/ns/pid"
    if boot.exists():
        parts.append(boot.read_text().strip())
    if os.path.lexists(namespace):
        parts.append(os.readlink(namespace))
    if Path("/proc/self/stat").exists():
        parts.append("ticks")  # what a process's start is counted in (see _started)
    return " ".join(parts)


def _runs(pid: int, started: int) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(_started(process) - started) <= CLOCK_S
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _started(process: psutil.Process) -> int:
    """When it started: on Linux in ticks since the machine did, which no change of the clock moves, elsewhere
    in seconds since 1970. Raises psutil.NoSuchProcess.
    """
    try:
        text = Path(f"/proc/{process.pid}/stat").read_text()
    except OSError:
        return int(process.create_time())
    return int(text.rpartition(")")[2].split()[STARTED])


def _bury(c: Connection, ids: Collection[str]) -> None:
    """Their rows go, and what no living process holds is free."""
    if ids:
        c.execute(delete(processes).where(processes.c.id.in_(ids)))
    living = select(processes.c.id)
    held = conversations.c.holder.is_not(None) & conversations.c.holder.not_in(living)
    c.execute(update(conversations).where(held).values(holder=None, token=None))
    left = responses.c.process.is_not(None) & responses.c.process.not_in(living)
    for row in c.execute(select(responses).where(left)).all():
        _fail(c, row)


def _fail(c: Connection, row: Row[tuple[object, ...]]) -> None:
    same = (responses.c.id == row.id) & (responses.c.process == row.process)
    if row.is_deleted:
        c.execute(delete(responses).where(same))
        return
    body = {**json.loads(row.body), "status": "failed", "error": STOPPED}
    c.execute(update(responses).where(same).values(status="failed", process=None, body=written(body)))
