"""A started generation: its events for one reader, and for observers, which receive each event before the
reader does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

from headrace.errors import ClientGone, ServerError
from headrace.gateway.lifetime import End, Meter, SteeringTally, Tally
from headrace.types import Event, Finished, GenerateRequest, ModelInfo, Started, Usage, total

if TYPE_CHECKING:
    from headrace.steering.types import Activations, Receipt

log = logging.getLogger(__name__)

T = TypeVar("T")
Outcome = Literal["completed", "left", "failed"]  # left: the reader went away before the end


@dataclass(frozen=True, slots=True)
class TargetResult(Generic[T]):
    """The value that a target returned, and who it is. `info`: the model that answers; `attempts`: the number
    of targets that got the request; `ignored`: the request's members that have no effect there.
    """

    value: T
    info: ModelInfo
    provider: str
    attempts: int
    ignored: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Opened:
    """A backend's events. `first`: those that have been read already; `noted`: members of the request that
    the target does not take, by their names in chat completions; `fingerprint`: how the first choice is
    steered.
    """

    events: AsyncIterator[Event]
    first: tuple[Event, ...] = ()
    noted: tuple[str, ...] = ()
    fingerprint: str | None = None


class Charge(Protocol):
    """What the request has reserved of its key's limits."""

    async def settle(self, tally: Tally) -> None: ...


class Observer(Protocol):
    """Receives the events of one generation, then its outcome, once."""

    def on_event(self, event: Event) -> None:
        """Called before the reader gets the event. It must not block; an exception ends the generation."""
        ...

    async def ended(self, outcome: Outcome, error: Exception | None) -> None:
        """Called after the last event, before the reader's iteration ends; or, when the generation is closed
        earlier, after its resources are free. Cancelling the reader does not cancel this call.
        """
        ...


@dataclass(slots=True)
class AnswerMeter:
    """Observes a generation, and reports it to the meter and to its charge. `n`: the number of choices of
    each prompt.
    """

    tally: Tally
    meter: Meter
    n: int
    charge: Charge | None = None
    _usages: dict[int, Usage] = field(default_factory=dict, init=False)  # choice → its usage
    _starts: dict[int, Started] = field(default_factory=dict, init=False)  # of choices that have not finished
    _tokens: dict[int, int] = field(default_factory=dict, init=False)  # ... and how many they have

    def on_event(self, event: Event) -> None:
        tally = self.tally
        tally.began = tally.began or time.perf_counter()
        if isinstance(event, Finished):
            self._usages[event.index] = event.usage
            self._starts.pop(event.index, None)
            tally.reasons.append(event.reason)
            tally.decode_s.append(event.decode_s)
            if event.receipt is not None or event.activations:
                self._count_steering(event.activations, event.receipt)
        elif isinstance(event, Started):
            self._starts[event.index] = event
            tally.started = tally.started or event
            if event.receipt is not None:
                tally.steering = tally.steering or SteeringTally(True, event.receipt.profile)
        else:
            if event.tokens:
                self._tokens[event.index] = self._tokens.get(event.index, 0) + event.tokens
            if event.activations:
                self._count_steering(event.activations)

    def _count_steering(self, read: Sequence[Activations], receipt: Receipt | None = None) -> None:
        steering = self.tally.steering = self.tally.steering or SteeringTally()
        steering.probed += sum(bool(entry.readings) for entry in read)
        if receipt is not None:
            steering.tokens += receipt.tokens_steered
            if receipt.relative_dose is not None:
                steering.doses.append(receipt.relative_dose)

    async def ended(self, outcome: Outcome, error: Exception | None) -> None:
        # Of an answer that was cut short, the tokens count that were generated.
        for index, started in self._starts.items():
            if index in self._tokens:
                prompt, cached = started.prompt_tokens, started.cached_tokens
                self._usages[index] = Usage(prompt, self._tokens[index], cached)
        if self._usages:
            usage = total(self._usages, self.n)
            self.tally.usage = usage if usage.is_known else None
            self.tally.longest = max(one.completion_tokens for one in self._usages.values())
        self.tally.end(error)
        try:
            if self.charge is not None:
                await self.charge.settle(self.tally)
        finally:
            self.meter.record(self.tally)


class Generation(AsyncIterator[Event]):
    """The events of one request, in order. Its owner closes it, which frees its resources, once.

    `interrupted` is done when the request has to end early: the reader races it (`Until`), sends its error to
    the caller, and closes the generation. Iterating raises ServerError when the generation fails.
    """

    def __init__(
        self,
        result: TargetResult[Opened],
        request: GenerateRequest,
        interrupted: End,
        exits: AsyncExitStack,
        *observers: Observer,
    ) -> None:
        self.info, self.provider = result.info, result.provider
        self.attempts, self.ignored = result.attempts, result.ignored
        self.noted, self.fingerprint = result.value.noted, result.value.fingerprint
        self.n, self._num_choices = request.n, request.num_choices
        self.interrupted = interrupted
        self._events, self._read_ahead = result.value.events, list(result.value.first)
        self._exits = exits
        self._observers = list(observers)
        self._num_finished = 0
        self._error: Exception | None = None  # that the events raised
        self._first: asyncio.Task[Event] | None = None  # fetches the first event, or holds it for the reader
        self._ending: asyncio.Task[None] | None = None

    def observe(self, observer: Observer) -> None:
        """Add an observer, before the first event is read."""
        self._observers.append(observer)

    async def first(self, within_s: float | None = None) -> Event | None:
        """Wait for the first event without taking it from the iteration. Returns None if there is none, or
        none within `within_s` seconds. Raises the generation's error if it fails before.
        """
        if self._first is None:
            self._first = asyncio.ensure_future(self._fetch())
        await asyncio.wait([self._first], timeout=within_s)
        if not self._first.done() or isinstance(self._first.exception(), StopAsyncIteration):
            return None
        return self._first.result()

    async def __anext__(self) -> Event:
        if self._first is None:
            return await self._fetch()
        first, self._first = self._first, None
        return await first

    async def aclose(self) -> None:
        """Free the resources, then call the observers with the outcome. Idempotent."""
        first, self._first = self._first, None
        if first is not None:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
        try:
            await self._exits.aclose()
        finally:
            await self._end()

    async def _fetch(self) -> Event:
        try:
            event = self._read_ahead.pop(0) if self._read_ahead else await anext(self._events)
            for observer in self._observers:
                observer.on_event(event)
        except StopAsyncIteration:
            if self._num_finished < self._num_choices:  # half an answer must not look like a whole one
                self._error = ServerError("the answer broke off")
                raise self._error from None
            await self._end()
            raise
        except Exception as exc:
            self._error = exc
            raise
        if isinstance(event, Finished):
            self._num_finished += 1 + event.num_missing
        return event

    async def _end(self) -> None:
        """Call the observers with the outcome, once. The calls go on when this is cancelled."""
        if self._ending is None:
            outcome: Outcome = "failed"
            error: Exception | None = self._error
            if self._num_finished >= self._num_choices:
                outcome, error = "completed", None
            elif error is None and self.interrupted.done():
                error = self.interrupted.result()
            elif error is None:
                outcome, error = "left", ClientGone("the client closed the connection")
            self._ending = asyncio.ensure_future(self._call_observers(outcome, error))
        await asyncio.shield(self._ending)

    async def _call_observers(self, outcome: Outcome, error: Exception | None) -> None:
        for observer in self._observers:
            try:
                await observer.ended(outcome, error)
            except Exception:  # an observer that fails must not cost the caller the answer
                log.exception("an observer of a generation failed")
