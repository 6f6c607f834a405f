"""Transactions on PostgreSQL, on the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol, TypeVar, cast

from sqlalchemy import URL, NullPool, QueuePool, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from headrace.store.silence import Silence
from headrace.store.transactions import Mode, Unsettled, Work

POOL_SIZE = 10
POOL_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 2.0
GRACE_S = 5.0  # the server ends a statement at its timeout; a connection that is silent longer is dead

QUIET_S = 2.0  # a connection on which the server has done nothing for so long, although we wait, is dead
QUIET = text(
    "SELECT pid FROM pg_stat_activity WHERE pid = ANY(:pids) AND state LIKE 'idle%'"
    f" AND state_change < clock_timestamp() - interval '{QUIET_S} seconds'"
)

T = TypeVar("T")
log = logging.getLogger(__name__)


class _Driver(Protocol):
    """A connection of asyncpg's."""

    def get_server_pid(self) -> int: ...
    def terminate(self) -> None: ...


class PostgreSQL:
    """`statement_timeout_s`: 0 is none."""

    def __init__(self, url: URL, statement_timeout_s: float) -> None:
        milliseconds = str(int(1000 * statement_timeout_s))
        server = {"application_name": "headrace", "statement_timeout": milliseconds}
        self._engine = create_async_engine(
            url,
            connect_args={
                "timeout": CONNECT_TIMEOUT_S,
                "command_timeout": statement_timeout_s + GRACE_S if statement_timeout_s else None,
                "server_settings": server,
            },
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_S,
            pool_reset_on_return=None,
            hide_parameters=True,
        )
        # BEGIN and COMMIT are a round trip each; reads and single statements do without them
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._unpooled = create_async_engine(url, poolclass=NullPool)
        self._silence = Silence(self._ask)
        self._working: dict[_Driver, float] = {}  # those of transactions, since when (monotonic)

    async def run(self, work: Work[T], mode: Mode) -> T:
        async with self._silence.watched():
            return await self._run(work, mode)

    async def _run(self, work: Work[T], mode: Mode) -> T:
        engine = self._engine if mode == "write" else self._autocommit
        async with engine.connect() as c:
            connection = cast(_Driver, (await c.get_raw_connection()).driver_connection)
            self._working[connection] = time.monotonic()
            try:
                return await self._transaction(c, work, mode)
            finally:
                del self._working[connection]

    @staticmethod
    async def _transaction(c: AsyncConnection, work: Work[T], mode: Mode) -> T:
        result = await c.run_sync(work)
        if mode == "write":
            try:
                await c.commit()
            except DBAPIError as exc:
                if exc.connection_invalidated:
                    raise Unsettled(result, exc) from exc
                raise
        return result

    async def _ask(self) -> None:
        """Ask the server, over a new connection, on which of the slow ones it has nothing to do. Those are
        dead, as where a firewall has forgotten them: their transactions end as with any lost connection.
        """
        now = time.monotonic()
        slow = {one.get_server_pid(): one for one, since in self._working.items() if now - since > QUIET_S}
        async with self._unpooled.connect() as c:
            quiet = (await c.execute(QUIET, {"pids": list(slow)})).scalars().all()
        dead = [slow[pid] for pid in quiet if slow[pid] in self._working]
        for connection in dead:
            connection.terminate()
        if dead:
            log.warning("database: %d connections are dead: the server has nothing to do on them", len(dead))

    async def aclose(self) -> None:
        await self._silence.aclose()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._engine.dispose()
        except TimeoutError:  # the server does not answer
            await self._terminate()

    async def _terminate(self) -> None:
        """Close the pool's connections without a word to the server."""
        for _ in range(cast(QueuePool, self._engine.pool).checkedin()):
            connection = await self._engine.raw_connection()
            assert connection.driver_connection is not None
            connection.driver_connection.terminate()
            connection.invalidate()
