"""Puts the events of one choice into an order in which every call is whole before anything else follows: that
is how clients of streams with blocks or items read them. Providers may interleave calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from headrace.brackets import Nesting
from headrace.types import ReasoningDelta, TextDelta, ToolCallDelta

Content = TextDelta | ReasoningDelta | ToolCallDelta


@dataclass(slots=True)
class _Block:
    """Events of one kind that wait. `call`: the index of the call that they belong to; None: to no call."""

    kind: Literal["text", "reasoning", "call"]
    call: int | None
    events: list[Content] = field(default_factory=list)


class CallOrder:
    """While the arguments of the open call are incomplete, events of other blocks wait. Events of one call,
    and neighbours of one kind, stay together.
    """

    def __init__(self) -> None:
        self._open: int | None = None  # the call that the last event with content belongs to
        self._nesting = Nesting()  # of its arguments
        self._waiting: list[_Block] = []

    def push(self, event: Content) -> Iterator[Content]:
        """Add an event; yield the events that are next, if any."""
        if self._has_to_wait(event):
            self._wait(event)
            return
        yield self._passed(event)
        while self._waiting and not self._is_incomplete:
            for waiting in self._waiting.pop(0).events:
                yield self._passed(waiting)

    def rest(self) -> Iterator[Content]:
        """Yield the events that still wait, at the end of the answer."""
        waiting, self._waiting = self._waiting, []
        for block in waiting:
            yield from map(self._passed, block.events)

    @property
    def _is_incomplete(self) -> bool:
        return self._open is not None and not self._nesting.is_closed

    def _has_to_wait(self, event: Content) -> bool:
        """Whether an event has to wait for an incomplete call, or behind other waiting events."""
        if isinstance(event, ToolCallDelta) and event.call == self._open:
            return False
        return bool(self._waiting) or self._is_incomplete

    def _wait(self, event: Content) -> None:
        call = event.call if isinstance(event, ToolCallDelta) else None
        kind: Literal["text", "reasoning", "call"] = (
            "call" if call is not None else "text" if isinstance(event, TextDelta) else "reasoning"
        )
        last = self._waiting[-1] if self._waiting else None
        found = last if last is not None and (last.kind, last.call) == (kind, call) else None
        if call is not None:
            found = next((block for block in self._waiting if block.call == call), None)
        if found is None:
            found = _Block(kind, call)
            self._waiting.append(found)
        found.events.append(event)

    def _passed(self, event: Content) -> Content:
        if isinstance(event, ToolCallDelta):
            if event.name is not None:
                self._open, self._nesting = event.call, Nesting()
            if event.call == self._open:
                self._nesting.push(event.arguments)
        elif event.text or (isinstance(event, ReasoningDelta) and event.thought is not None):
            self._open = None
        return event
