"""What runs one transaction, on either database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Literal, Protocol, TypeVar

from sqlalchemy import URL, Connection
from sqlalchemy.exc import DBAPIError

STATEMENT_TIMEOUT_S = 30.0

T = TypeVar("T")
Work = Callable[[Connection], T]
Mode = Literal["read", "write", "hold"]  # hold: one statement that need not outlive a loss of power


class Unsettled(Exception, Generic[T]):
    """The connection was lost in the commit: it has taken place, or it has not."""

    def __init__(self, result: T, cause: DBAPIError) -> None:
        super().__init__(str(cause))
        self.result, self.cause = result, cause


class Engine(Protocol):
    async def run(self, work: Work[T], mode: Mode) -> T:
        """One transaction; a read may see what is committed meanwhile. Raises Unsettled, and what the
        driver raises.
        """
        ...

    async def aclose(self) -> None: ...


def to_engine(url: URL, *, statement_timeout_s: float = STATEMENT_TIMEOUT_S) -> Engine:
    """Loads no more than it needs: a server's start waits for it."""
    if url.get_backend_name() == "postgresql":
        from headrace.store.postgresql import PostgreSQL

        return PostgreSQL(url, statement_timeout_s)
    from headrace.store.sqlite import SQLite

    return SQLite(url)
