"""What the store needs of a database: a way to run one transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Literal, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

T = TypeVar("T")
Work = Callable[[Connection], T]
Mode = Literal["read", "write", "lock"]  # lock: one statement whose effect may be lost in a power failure


class Unsettled(Exception, Generic[T]):
    """The connection was lost during the commit, which may or may not have taken place."""

    def __init__(self, result: T, cause: DBAPIError) -> None:
        super().__init__(str(cause))
        self.result, self.cause = result, cause


class Engine(Protocol):
    async def run(self, work: Work[T], mode: Mode) -> T:
        """Run one transaction. A read may see commits of others made meanwhile. Raises Unsettled, and the
        driver's errors.
        """
        ...

    async def aclose(self) -> None: ...
