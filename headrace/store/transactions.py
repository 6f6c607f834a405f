"""What runs one transaction, on either database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Literal, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

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
