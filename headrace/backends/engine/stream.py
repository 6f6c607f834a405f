"""What one caller of the engine waits for: the events of its choices, or its vectors. Everything here happens
on the loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import Protocol

from headrace.backends.engine.choice import Choice
from headrace.engine.engine import Output
from headrace.engine.sequence import Sequence
from headrace.errors import BadRequest, EngineFailed, ServerError
from headrace.text.structured.grammar import GrammarFailed
from headrace.types import Event


class Waiter(Protocol):
    """Whom the engine's outputs are for."""

    @property
    def sequences(self) -> Many[Sequence]: ...

    def push(self, output: Output) -> None: ...

    def fail(self, error: ServerError) -> None: ...


class Stream:
    """The events of one request: an async iterator with one reader."""

    def __init__(self, choices: list[Choice], abort: Callable[[Sequence], None]) -> None:
        self.choices, self._abort = choices, abort
        self._by_sequence = {choice.sequence: choice for choice in choices}
        self._num_open = len(choices)
        self._events: deque[Event] = deque()
        self._error: ServerError | None = None
        self._ready = asyncio.Event()

    @property
    def sequences(self) -> Many[Sequence]:
        return tuple(self._by_sequence)

    def push(self, output: Output) -> None:
        choice = self._by_sequence[output.sequence]
        if choice.is_finished:
            return  # the engine ran ahead of a stop string
        if output.finish_reason == "error":
            self.fail(failure_of(output))
            return
        self._events += choice.push(output)
        if choice.is_finished:
            self._num_open -= 1
            if choice.sequence.finish_reason is None:  # a stop string ended it: the engine does not know yet
                self._abort(choice.sequence)
        if self._events:
            self._ready.set()

    def fail(self, error: ServerError) -> None:
        self._error = error
        self._ready.set()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._error is not None:
                raise self._error
            if not self._num_open:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        return self._events.popleft()


class Pooling:
    """Sequences whose vectors somebody waits for."""

    def __init__(self, sequences: Many[Sequence]) -> None:
        self.sequences = sequences
        self._num_open = len(sequences)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def push(self, output: Output) -> None:
        self._num_open -= 1
        if self.done.done():
            return
        if output.finish_reason == "error":
            self.done.set_exception(failure_of(output))
        elif not self._num_open:
            self.done.set_result(None)

    def fail(self, error: ServerError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


def failure_of(output: Output) -> ServerError:
    error = output.sequence.error
    if error == GrammarFailed.__name__:
        return BadRequest("the prescribed form is too complex to be followed", param="response_format")
    return EngineFailed(f"the engine could not compute this request ({error})")
