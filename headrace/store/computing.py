"""Long computations within a transaction: SQLite runs transactions in a thread, PostgreSQL on the event loop,
which has to go on meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from sqlalchemy import AdaptedConnection, Connection

from headrace.offload import SMALL, aside

T = TypeVar("T")


def computed(c: Connection, size: int, work: Callable[[], T]) -> T:
    """Return the result of `work`. On PostgreSQL, work of a size over SMALL runs in a thread (offload.py)."""
    if size <= SMALL or c.dialect.name != "postgresql":
        return work()
    connection = cast(AdaptedConnection, c.connection.dbapi_connection)
    return connection.run_async(lambda _: aside(size, work))
