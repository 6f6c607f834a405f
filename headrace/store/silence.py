"""Notices a database server that is there and does not answer: one that hangs, or that the network hides."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import Context

log = logging.getLogger(__name__)

PATIENCE_S = 2.0  # of a transaction that takes longer, the server has to answer another connection meanwhile
ANSWER_S = 3.0  # to this question
PAUSE_S = 1.0  # between two questions to a silent server


class Silence:
    """A slow transaction is left alone as long as the server answers `ask` meanwhile. If it does not, all
    transactions end at once, and so do those that come until it answers again.
    """

    def __init__(self, ask: Callable[[], Awaitable[None]]) -> None:
        self._ask = ask
        self._timers: dict[asyncio.Timeout, asyncio.TimerHandle] = {}  # one of each transaction
        self._asking: asyncio.Task[None] | None = None
        self._is_silent = False
        self._num_ended = 0  # transactions that the server has answered, if only with an error

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """End what runs within when the server is silent. Raises TimeoutError."""
        if self._is_silent:
            raise TimeoutError("no answer")
        try:
            async with asyncio.timeout(None) as limit:
                self._watch(limit)
                try:
                    yield
                finally:
                    self._timers.pop(limit).cancel()
                    self._num_ended += limit.when() is None
        except TimeoutError as exc:
            raise TimeoutError("no answer") from exc

    async def aclose(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    def _watch(self, limit: asyncio.Timeout) -> None:
        self._timers[limit] = asyncio.get_running_loop().call_later(PATIENCE_S, self._doubt, limit)

    def _doubt(self, limit: asyncio.Timeout) -> None:
        self._watch(limit)
        if self._asking is None or self._asking.done():
            # outside of the context of a request, which the log would name
            self._asking = asyncio.create_task(self._ask_until_it_answers(), context=Context())

    async def _ask_until_it_answers(self) -> None:
        while not await self._answers():
            if not self._is_silent:
                log.warning("database: no answer: what needs it is refused until it answers")
            self._is_silent = True
            for limit in self._timers:
                if limit.when() is None:
                    limit.reschedule(0)
            await asyncio.sleep(PAUSE_S)
        if self._is_silent:
            log.warning("database: it answers again")
        self._is_silent = False

    async def _answers(self) -> bool:
        """Whether the database answers a query on a new connection, or has answered a transaction meanwhile:
        where the machine is busy a new connection takes long.
        """
        num_before = self._num_ended
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._ask()
        except OSError:  # TimeoutError among them
            return self._num_ended > num_before
        except Exception as exc:  # a refusal is an answer, such as "too many connections"
            log.debug("database: %s", exc)
        return True
