"""What an operator does with a database by hand, while servers run or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import TracebackType

from sqlalchemy import Connection

from headrace.config import StoreConfig
from headrace.store.address import to_url
from headrace.store.database import Database
from headrace.store.retention import prune
from headrace.store.transfer import Counts, batches, lines, num_rows, put
from headrace.store.verify import Told, problems

UNLIMITED = 0.0  # a statement may take as long as it does


def untold(done: int, total: int) -> None:
    """For those who do not show how far it is."""


async def verify(database: Database, told: Told = untold) -> list[str]:
    """What is wrong, a line each."""
    return await database.read(lambda c: problems(_frozen(c), told))


class Maintenance:
    """Opens the database, and migrates it. Raises ConfigError, StoreUnavailable."""

    def __init__(self, config: StoreConfig, data: Path) -> None:
        self._config = config
        self._database = Database(to_url(config.url, data), statement_timeout_s=UNLIMITED)

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
        """The migrations that were due."""
        return [f"{step.number} ({step.name})" for step in self._database.applied]

    async def verify(self, told: Told) -> list[str]:
        return await verify(self._database, told)

    async def prune(self) -> dict[str, int]:
        return await prune(self._database, self._config)

    async def write_to(self, write: Callable[[str], object], told: Told) -> int:
        """Everything of all owners, a line a row; how many."""

        def work(c: Connection) -> int:
            total, done = num_rows(_frozen(c)), 0
            for done, line in enumerate(lines(c)):
                write(line + "\n")
                told(min(done, total), total)
            return done

        return await self._database.read(work, attempts=1)  # what is written is written

    async def read_from(self, source: Iterable[str], told: Callable[[int], None]) -> Counts:
        """Rows that are there already stay as they are. Raises ConfigError naming a line."""
        counts = Counts()
        for first, batch in batches(source):
            counts += await self._database.write(partial(put, first=first, batch=batch))
            told(first + len(batch) - 1)
        return counts


def _frozen(c: Connection) -> Connection:
    """The database as it is now, whatever others write meanwhile."""
    if c.dialect.name == "postgresql":
        return c.execution_options(isolation_level="REPEATABLE READ")
    return c  # SQLite's readers see no other
