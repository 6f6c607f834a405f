"""Commands for operators: verify, prune, export, import and keys, whether servers are running or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import TracebackType

from sqlalchemy import Connection

from headrace.config import StoreConfig
from headrace.store.address import to_url
from headrace.store.database import Database
from headrace.store.keys import Keys
from headrace.store.retention import prune
from headrace.store.transfer import Counts, batches, insert_batch, lines, num_rows
from headrace.store.usage import UsageCounts
from headrace.store.verify import Progress, problems

NO_TIMEOUT_S = 0.0


def no_progress(num_done: int, num_total: int) -> None:
    """Report no progress."""


async def verify(database: Database, report: Progress = no_progress) -> list[str]:
    """Recompute all hashes and follow all references. Returns a line for each thing that is wrong."""
    return await database.read(lambda c: problems(_snapshot(c), report))


class Maintenance:
    """An open, migrated database. Entering it raises ConfigError, StoreUnavailable."""

    def __init__(self, config: StoreConfig, data: Path) -> None:
        self._config = config
        self._database = Database(to_url(config.url, data), statement_timeout_s=NO_TIMEOUT_S)
        self.keys = Keys(self._database)
        self.usage = UsageCounts(self._database, process="")  # to read from

    async def __aenter__(self) -> Maintenance:
        try:
            await self._database.open()
        except BaseException:
            await self._database.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._database.aclose()

    @property
    def applied(self) -> list[str]:
        """The migrations that were applied on opening, as NUMBER (NAME)."""
        return [f"{step.number} ({step.name})" for step in self._database.applied]

    async def verify(self, report: Progress) -> list[str]:
        return await verify(self._database, report)

    async def prune(self) -> dict[str, int]:
        """Delete what is past its retention. Returns how many rows of each kind."""
        return await prune(self._database, self._config)

    async def write_to(self, write: Callable[[str], object], report: Progress) -> int:
        """Export the rows of all owners, one per line. Returns the number of lines."""

        def work(c: Connection) -> int:
            total, done = num_rows(_snapshot(c)), 0
            for done, line in enumerate(lines(c)):
                write(line + "\n")
                report(min(done, total), total)
            return done

        return await self._database.read(work, attempts=1)  # lines that were written cannot be taken back

    async def read_from(self, source: Iterable[str], report: Callable[[int], None]) -> Counts:
        """Import an export. `report` gets the number of lines read so far. Rows that exist already stay as
        they are. Raises ConfigError naming a line.
        """
        counts = Counts()
        for first, batch in batches(source):
            counts += await self._database.write(partial(insert_batch, first=first, batch=batch))
            report(first + len(batch) - 1)
        return counts


def _snapshot(c: Connection) -> Connection:
    """The connection, reading the database as it is now, whatever others write meanwhile."""
    if c.dialect.name == "postgresql":
        return c.execution_options(isolation_level="REPEATABLE READ")
    return c  # a SQLite transaction reads a snapshot anyway
