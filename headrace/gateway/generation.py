"""A started generation: its events for one reader, and for the observers who hear each event before the
reader does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from headrace.errors import ClientGone, ServerError
from headrace.gateway.race import Interruption
from headrace.types import Event, Finished, GenerateRequest, ModelInfo

log = logging.getLogger(__name__)

T = TypeVar("T")
Outcome = Literal["completed", "left", "failed"]  # left: the reader went away before the end


@dataclass(frozen=True, slots=True)
class Reached(Generic[T]):
    """What a target answered. `info`: the model that answers; `attempts`: how many targets were asked for it;
    `ignored`: the request's members that have no effect there.
    """

    value: T
    info: ModelInfo
    provider: str
    attempts: int
    ignored: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Opened:
    """A backend's events, of which `begun` have been read already. `noted`: members of the request that the
    target does not take, by their names in chat completions.
    """

    events: AsyncIterator[Event]
    begun: tuple[Event, ...] = ()
    noted: tuple[str, ...] = ()


class Observer(Protocol):
    """Hears of one generation: of each event, then once of its end."""

    def saw(self, event: Event) -> None:
        """Called before the reader gets the event. It must not fail, and not wait."""
        ...

    async def ended(self, outcome: Outcome, error: Exception | None) -> None:
        """Called after the last event and before the reader learns that it was the last; or, when the
        generation is closed earlier, after all that it held is free. It is not cancelled with the reader.
        """
        ...


class Generation:
    """The events of one request, in order. Whoever holds it closes it; closing frees what it held, once.

    `interrupted` is done when the request has to end early: whoever reads the events watches it (`Until`),
    tells the caller the error, and closes. Iterating raises ServerError when the generation fails.
    """

    def __init__(
        self,
        reached: Reached[Opened],
        request: GenerateRequest,
        interruption: Interruption,
        exits: AsyncExitStack,
    ) -> None:
        self.info, self.provider = reached.info, reached.provider
        self.attempts, self.ignored = reached.attempts, reached.ignored
        self.noted = reached.value.noted
        self.n, self._num_choices = request.n, request.num_choices
        self.interrupted, self.interrupt = interruption.error, interruption.interrupt
        self._events, self._begun = reached.value.events, list(reached.value.begun)
        self._exits = exits
        self._observers: list[Observer] = []
        self._num_finished = 0
        self._error: Exception | None = None  # what the events failed with
        self._first: asyncio.Task[Event] | None = None  # being fetched, or waiting for the reader
        self._ending: asyncio.Task[None] | None = None

    def observe(self, observer: Observer) -> None:
        """Add an observer, before the first event is read."""
        self._observers.append(observer)

    async def first(self, within_s: float | None = None) -> Event | None:
        """Wait for the first event; iterating still begins with it. None: there is none, or none in time.
        Raises what the generation fails with before.
        """
        if self._first is None:
            self._first = asyncio.ensure_future(self._fetch())
        await asyncio.wait([self._first], timeout=within_s)
        if not self._first.done() or isinstance(self._first.exception(), StopAsyncIteration):
            return None
        return self._first.result()

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> Event:
        if self._first is None:
            return await self._fetch()
        first, self._first = self._first, None
        return await first

    async def aclose(self) -> None:
        """Free what the generation held, then tell the observers."""
        first, self._first = self._first, None
        if first is not None:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
        try:
            await self._exits.aclose()
        finally:
            await self._end(*self._outcome())

    async def _fetch(self) -> Event:
        try:
            event = self._begun.pop(0) if self._begun else await anext(self._events)
        except StopAsyncIteration:
            if self._num_finished < self._num_choices:  # never pass half an answer for a whole one
                self._error = ServerError("the answer broke off")
                raise self._error from None
            await self._end("completed", None)
            raise
        except Exception as exc:
            self._error = exc
            raise
        self._num_finished += isinstance(event, Finished)
        for observer in self._observers:
            observer.saw(event)
        return event

    def _outcome(self) -> tuple[Outcome, Exception | None]:
        if self._num_finished >= self._num_choices:
            return "completed", None
        if self._error is not None:
            return "failed", self._error
        if self.interrupted.done():
            return "failed", self.interrupted.result()
        return "left", ClientGone("the client closed the connection")

    async def _end(self, outcome: Outcome, error: Exception | None) -> None:
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._tell(outcome, error))
        await asyncio.shield(self._ending)

    async def _tell(self, outcome: Outcome, error: Exception | None) -> None:
        for observer in self._observers:
            try:
                await observer.ended(outcome, error)
            except Exception:  # an observer costs nobody an answer
                log.exception("an observer of a generation failed")
