"""An end from outside: of a request that takes too long, or that runs while the server shuts down."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from headrace.errors import ServerError

T = TypeVar("T")


class Interruption:
    """May come once, at any time; whoever works for the request watches `error`."""

    def __init__(self) -> None:
        self.error: asyncio.Future[ServerError] = asyncio.get_running_loop().create_future()

    def interrupt(self, error: ServerError) -> None:
        """Ask for an end: the caller is told this error. The first counts."""
        if not self.error.done():
            self.error.set_result(error)

    async def unless(self, work: Coroutine[Any, Any, T]) -> T:
        """The work's result. Raises the interruption's error if that comes first: then the work is cancelled,
        and has ended.
        """
        task = asyncio.ensure_future(work)
        either: set[asyncio.Future[Any]] = {task, self.error}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return await task
            raise self.error.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
