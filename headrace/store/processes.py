"""The processes that have the database open, and the clean-up after those that died.

Each process has a row. It is alive while the operating system says so (on the same host) or while its `beat`
grows (on another host). Once a process is dead its row is deleted; then every lock whose holder has no row is
released, and every response whose process has no row fails. The rows are the only truth: a process that was
only slow, and finds its row gone, has lost its locks and registers again.
"""

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
from headrace.store.hashing import to_json
from headrace.store.tables import conversations, processes, responses

SILENT_S = 15.0  # a process of another host without a heartbeat for so long is dead
CLOCK_S = 2  # tolerance for the start time of a process, which moves with the clock (not on Linux)
START_FIELD = 19  # of /proc/PID/stat, counted after the process's name

RUNNING = ("queued", "in_progress")
STOPPED = {
    "code": "server_error",
    "message": "the server that generated this response stopped before it was complete",
}


class Processes:
    """This process, and what it knows of the others. How long a process of another host has been silent is
    measured with our own monotonic clock: clocks of two machines are never compared.
    """

    def __init__(self) -> None:
        self.id = secrets.token_hex(16)
        self._seen: dict[str, tuple[int, float]] = {}  # beat, and when it was first seen (monotonic)

    def enter(self, c: Connection) -> None:
        """Register this process, and release the locks of dead ones."""
        me = psutil.Process()
        values = {"host": host(), "pid": me.pid, "started": _started(me)}
        if not c.execute(select(processes.c.id).where(processes.c.id == self.id)).first():
            c.execute(insert(processes).values(id=self.id, beat=0, **values))
        self.sweep(c)  # after the insert: it takes the locks of all that have no row

    def leave(self, c: Connection) -> None:
        """Deregister this process: its locks are released, and its unfinished responses fail."""
        _bury(c, [self.id])

    async def beat(self, database: Database) -> None:
        """Tell the other processes that this one is alive, and clean up after dead ones."""

        def work(c: Connection) -> None:
            statement = update(processes).where(processes.c.id == self.id)
            if c.execute(statement.values(beat=processes.c.beat + 1)).rowcount == 0:
                self.enter(c)  # it seemed dead while it could not reach the database
            else:
                self.sweep(c)

        await database.write(work)

    def sweep(self, c: Connection) -> None:
        """Clean up after dead processes."""
        others = c.execute(select(processes).where(processes.c.id != self.id)).all()
        # Forget processes whose rows are gone: ids are never used again, and the dict would only grow.
        self._seen = {row.id: self._seen[row.id] for row in others if row.id in self._seen}
        _bury(c, [row.id for row in others if self._is_dead(row)])

    def bury_if_dead(self, c: Connection, id: str | None) -> bool:
        """Whether the process is dead or not registered; if so, its locks are released."""
        row = c.execute(select(processes).where(processes.c.id == id)).first()
        if row is not None and (id == self.id or not self._is_dead(row)):
            return False
        _bury(c, [] if id is None else [id])
        return True

    def _is_dead(self, row: Row[tuple[object, ...]]) -> bool:
        if row.host == host():
            return not _runs(row.pid, row.started)  # a silent one may be stopped or starved: it is alive
        now = time.monotonic()
        beat, since = self._seen.get(row.id, (None, now))
        if beat != row.beat:
            self._seen[row.id] = (row.beat, now)
            return False
        return now - since > SILENT_S


@cache
def host() -> str:
    """A name for the scope of process ids: a machine since its boot, and a container on it."""
    parts = [platform.node()]
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), "/proc/self/ns/pid"
    if boot.exists():
        parts.append(boot.read_text().strip())
    if os.path.lexists(namespace):
        parts.append(os.readlink(namespace))
    if Path("/proc/self/stat").exists():
        parts.append("ticks")  # the unit of start times (see _started)
    return " ".join(parts)


def _runs(pid: int, started: int) -> bool:
    """Whether the process runs that had this id at its start; ids are used again."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(_started(process) - started) <= CLOCK_S
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _started(process: psutil.Process) -> int:
    """The start time: on Linux in ticks since the boot, which no change of the clock moves, elsewhere in
    seconds since 1970. Raises psutil.NoSuchProcess.
    """
    try:
        text = Path(f"/proc/{process.pid}/stat").read_text()
    except OSError:
        return int(process.create_time())
    return int(text.rpartition(")")[2].split()[START_FIELD])


def _bury(c: Connection, ids: Collection[str]) -> None:
    """Delete the rows of these processes, and clean up after all that have no row."""
    # Rows first: what follows looks for holders without a row, also those that another process has deleted.
    # All of it is one transaction, so no process sees a dead one that still holds something.
    if ids:
        c.execute(delete(processes).where(processes.c.id.in_(ids)))
    living = select(processes.c.id)
    is_orphaned = conversations.c.holder.is_not(None) & conversations.c.holder.not_in(living)
    c.execute(update(conversations).where(is_orphaned).values(holder=None, token=None))
    is_unfinished = responses.c.process.is_not(None) & responses.c.process.not_in(living)
    for row in c.execute(select(responses).where(is_unfinished)).all():
        _fail(c, row)


def _fail(c: Connection, row: Row[tuple[object, ...]]) -> None:
    # only if no other process has cleaned it up meanwhile
    same = (responses.c.id == row.id) & (responses.c.process == row.process)
    if row.is_deleted:
        c.execute(delete(responses).where(same))
        return
    body = {**json.loads(row.body), "status": "failed", "error": STOPPED}
    c.execute(update(responses).where(same).values(status="failed", process=None, body=to_json(body)))
