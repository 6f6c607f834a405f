"""What each key has used of each model on each day. Processes count in memory and add batches to the rows."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Insert, Row, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from headrace.store.database import Database
from headrace.store.records import UsageRow
from headrace.store.tables import keys, processes, usage, usage_batches

COUNTS = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "cost")
KEY = ("key", "provider", "model", "day")


class UsageCounts:
    """`process`: the id of this process."""

    def __init__(self, database: Database, process: str) -> None:
        self._database, self._process = database, process

    async def add(self, number: int, rows: Sequence[UsageRow]) -> None:
        """Add a batch to what is counted, exactly once: numbers grow, and a batch that is repeated because
        its commit was in doubt is found to be counted. Raises StoreUnavailable: try the same batch again.
        """

        def work(c: Connection) -> None:
            if _is_counted(c, self._process, number):
                return
            for row in rows:
                c.execute(_addition(row, c.dialect.name))

        await self._database.write(work)

    async def rows(
        self, *, since: int, until: int, key: str | None = None, limit: int = 10_000
    ) -> Sequence[UsageRow]:
        """The rows of the days from `since` to before `until` (days since 1970), the newest first; of one
        key, or of all.
        """
        named = usage.outerjoin(keys, keys.c.id == usage.c.key)
        statement = (
            select(usage, keys.c.name).select_from(named).where(usage.c.day >= since, usage.c.day < until)
        )
        if key is not None:
            statement = statement.where(usage.c.key == key)
        statement = statement.order_by(usage.c.day.desc(), usage.c.key, usage.c.provider, usage.c.model)
        return await self._database.read(
            lambda c: [_to_record(row) for row in c.execute(statement.limit(limit))]
        )

    async def spent(self, key: str) -> tuple[int, int]:
        """The tokens that a key has used in its whole life, and their cost in billionths."""
        tokens = func.sum(usage.c.prompt_tokens + usage.c.completion_tokens)
        statement = select(tokens, func.sum(usage.c.cost)).where(usage.c.key == key)

        def work(c: Connection) -> tuple[int, int]:
            row = c.execute(statement).one()
            return int(row[0] or 0), int(row[1] or 0)

        return await self._database.read(work)


def _is_counted(c: Connection, process: str, number: int) -> bool:
    """Whether the batch was added before; if not, record that it is."""
    mine = usage_batches.c.process == process
    last = c.scalar(select(usage_batches.c.number).where(mine))
    if last is None:
        living = select(processes.c.id)
        c.execute(delete(usage_batches).where(usage_batches.c.process.not_in(living)))  # of dead processes
        c.execute(insert(usage_batches).values(process=process, number=number))
        return False
    if last >= number:
        return True
    c.execute(update(usage_batches).where(mine).values(number=number))
    return False


def _addition(row: UsageRow, dialect: str) -> Insert:
    """Insert the row, or add its counts to the row that has its key."""
    values = {name: getattr(row, name) for name in (*KEY, *COUNTS)}
    if dialect == "postgresql":
        pg = postgresql.insert(usage).values(**values)
        sums = {name: usage.c[name] + pg.excluded[name] for name in COUNTS}
        return pg.on_conflict_do_update(index_elements=KEY, set_=sums)
    lite = sqlite.insert(usage).values(**values)
    sums = {name: usage.c[name] + lite.excluded[name] for name in COUNTS}
    return lite.on_conflict_do_update(index_elements=KEY, set_=sums)


def _to_record(row: Row[tuple[object, ...]]) -> UsageRow:
    return UsageRow(*(getattr(row, name) for name in (*KEY, *COUNTS, "name")))
