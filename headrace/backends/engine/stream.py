"""The receiving end of the engine's outputs: the events of a request's choices, or its embeddings. Everything
here runs on the loop's thread.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from collections.abc import Sequence as Many
from dataclasses import replace
from typing import Generic, TypeVar

from headrace.backends.engine.choice import Choice, Echo
from headrace.engine.engine import DetachedError, Output
from headrace.engine.sequence import Sequence
from headrace.errors import BadRequest, EngineFailed, ServerError, SteeringRefused
from headrace.offload import aside
from headrace.text.structured.grammar import GrammarFailed
from headrace.types import Event, Finished, TextDelta

T = TypeVar("T")
MOST_JOINED = 256  # characters: more for a reader that is far behind would be copied again and again


class Waiter(ABC, Generic[T]):
    """A request that receives the outputs of its `count` sequences, and a Holder of places. `pending` creates
    each sequence when it starts, with what belongs to it.
    """

    def __init__(self, pending: Iterator[tuple[Sequence, T]], count: int, flow: str = "") -> None:
        self._pending, self._num_pending, self.flow = pending, count, flow
        self._running: dict[Sequence, T] = {}
        self.num_running = 0

    @property
    @abstractmethod
    def has_failed(self) -> bool: ...

    @property
    def has_more(self) -> bool:
        return self._num_pending > 0 and not self.has_failed

    @property
    def running(self) -> Many[Sequence]:
        """The sequences that have started and not ended."""
        return tuple(self._running)

    def begin(self) -> Sequence:
        """Create the next sequence and count it as running."""
        sequence, self._running[sequence] = next(self._pending)
        self._num_pending -= 1
        return sequence

    @abstractmethod
    def push(self, output: Output) -> bool:
        """Add what the engine computed in a step for one sequence. Returns whether the sequence has ended."""

    @abstractmethod
    def fail(self, error: ServerError) -> None: ...


class Stream(Waiter[Choice]):
    """The events of one request: an async iterator for one reader. `abort` ends a sequence in the engine."""

    def __init__(
        self, choices: Iterator[Choice], count: int, abort: Callable[[Sequence], None], flow: str = ""
    ) -> None:
        super().__init__(((choice.sequence, choice) for choice in choices), count, flow)
        self._abort = abort
        self._events: deque[Event | Echo] = deque()
        self._error: ServerError | None = None
        self._ready = asyncio.Event()

    @property
    def has_failed(self) -> bool:
        return self._error is not None

    def push(self, output: Output) -> bool:
        choice = self._running.get(output.sequence)
        if choice is None:
            return False  # ended by a stop string, while the engine computed its next step
        if output.finish_reason == "error":
            del self._running[output.sequence]
            self.fail(failure_of(output))
            return True
        for event in choice.push(output):
            self._append(event)
        if choice.is_finished:
            del self._running[output.sequence]
            if choice.sequence.finish_reason is None:  # ended by a stop string or a loop, not by the engine
                self._abort(choice.sequence)
        if self._events:
            self._ready.set()
        return choice.is_finished

    def fail(self, error: ServerError) -> None:
        self._error = error
        self._ready.set()

    def _append(self, event: Event | Echo) -> None:
        """Join text that the reader has not taken yet with what follows it: an event, and a write to the
        caller's connection, take as long as a tenth of a small model's step.
        """
        last = self._events[-1] if self._events else None
        if not isinstance(event, TextDelta) or not isinstance(last, TextDelta):
            self._events.append(event)
        elif event.index == last.index and len(last.text) < MOST_JOINED:
            self._events[-1] = joined(last, event)
        else:
            self._events.append(event)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._error is not None:
                raise self._error
            if not self._running and not self._num_pending:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        event = self._events.popleft()
        return await aside(event.work, event.write) if isinstance(event, Echo) else event


def joined(first: TextDelta, second: TextDelta) -> TextDelta:
    """Two pieces of one choice's text as one."""
    logprobs = first.logprobs + second.logprobs
    text, tokens = first.text + second.text, first.tokens + second.tokens
    return TextDelta(first.index, text, logprobs, tokens, first.activations + second.activations)


class Compared(AsyncIterator[Event]):
    """The events of a request whose answers are compared with unsteered ones when they end. `measure` returns
    the divergence of one of the `choices`, which are those that have started.
    """

    def __init__(
        self, stream: Stream, choices: Many[Choice], measure: Callable[[Choice], Awaitable[float | None]]
    ) -> None:
        self._stream, self._choices, self._measure = stream, choices, measure

    async def __anext__(self) -> Event:
        event = await anext(self._stream)
        if not isinstance(event, Finished) or event.receipt is None:
            return event
        divergence = await self._measure(self._choices[event.index])
        return replace(event, receipt=replace(event.receipt, divergence=divergence))


class Pooling(Waiter[None]):
    """The embeddings or judgements of one request: one output a sequence. `done` completes with the last."""

    def __init__(self, sequences: Iterator[Sequence], count: int, flow: str = "") -> None:
        super().__init__(((sequence, None) for sequence in sequences), count, flow)
        self.sequences: list[Sequence] = []  # those that have started, in the order of the inputs
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def has_failed(self) -> bool:
        return self.done.done()

    def begin(self) -> Sequence:
        self.sequences.append(super().begin())
        return self.sequences[-1]

    def push(self, output: Output) -> bool:
        del self._running[output.sequence]
        if output.finish_reason == "error":
            self.fail(failure_of(output))
        elif not self._running and not self._num_pending and not self.done.done():
            self.done.set_result(None)
        return True

    def fail(self, error: ServerError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


def failure_of(output: Output) -> ServerError:
    """The error of a request whose sequence failed."""
    error = output.sequence.error
    if error == GrammarFailed.__name__:
        return BadRequest("the prescribed form is too complex to be followed", param="response_format")
    if error == DetachedError.__name__:
        return SteeringRefused(
            "what the request is steered or probed by was detached before it started",
            code="steering_layer_mismatch", param="steering",
        )  # fmt: skip
    if error == ArithmeticError.__name__ and output.sequence.plan is not None:
        return SteeringRefused(
            "the edits are so large that the model computes no numbers any more",
            code="steering_dose_exceeded", param="steering",
        )  # fmt: skip
    return EngineFailed(f"the engine could not compute this request ({error})")
