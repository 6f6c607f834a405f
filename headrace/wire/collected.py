"""The result of a generation: the events of each choice, added up."""

from __future__ import annotations

from collections.abc import AsyncIterable
from dataclasses import dataclass, field, replace
from io import StringIO
from typing import Any

from headrace.types import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    Thought,
    TokenLogprob,
    ToolCallDelta,
    Usage,
    total,
)


@dataclass(slots=True)
class CollectedCall:
    """One finished tool call."""

    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class Choice:
    """One finished choice."""

    text: str = ""
    reasoning: str = ""
    thoughts: list[Thought] = field(default_factory=list)  # the same reasoning, signed by its provider
    calls: list[CollectedCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    end_logprobs: tuple[TokenLogprob, ...] = ()  # of a last token without text
    reason: FinishReason = "stop"
    stop: str | None = None  # the stop string that ended it
    usage: Usage | None = None


class _Unfinished:
    """A choice whose events are still coming. It uses StringIO, because adding to a str copies all of it."""

    def __init__(self) -> None:
        self._text, self._reasoning = StringIO(), StringIO()
        self._calls: list[tuple[str, str, StringIO]] = []  # id, name, arguments
        self._rest = Choice()

    def push(self, event: TextDelta | ReasoningDelta | ToolCallDelta | Finished) -> None:
        rest = self._rest
        if isinstance(event, TextDelta):
            self._text.write(event.text)
            rest.logprobs += event.logprobs
        elif isinstance(event, ReasoningDelta):
            self._reasoning.write(event.text)
            rest.thoughts += [event.thought] if event.thought is not None else []
        elif isinstance(event, ToolCallDelta):
            if event.name is not None:
                self._calls.append((event.id or "", event.name, StringIO()))
            self._calls[event.call][2].write(event.arguments)
        else:
            rest.reason, rest.stop, rest.usage = event.reason, event.stop, event.usage
            rest.end_logprobs = event.logprobs

    def choice(self) -> Choice:
        """The choice as it is now."""
        calls = [CollectedCall(id, name, arguments.getvalue()) for id, name, arguments in self._calls]
        text, reasoning = self._text.getvalue(), self._reasoning.getvalue()
        return replace(self._rest, text=text, reasoning=reasoning, calls=calls)


class Collected:
    """Adds up the events of a generation. `n`: the number of choices of each prompt."""

    def __init__(self, n: int = 1) -> None:
        self.n = n
        self.started: Started | None = None  # of the first choice that started
        self.decode_s = 0.0  # of the choice that took longest
        self.own: dict[str, Any] = {}  # members of the answer that only this provider writes
        self._unfinished: dict[int, _Unfinished] = {}

    def push(self, event: Event) -> None:
        choice = self._unfinished.setdefault(event.index, _Unfinished())
        if isinstance(event, Started):
            self.started = self.started or event
            return
        choice.push(event)
        if isinstance(event, Finished):
            self.own |= event.own
            self.decode_s = max(self.decode_s, event.decode_s)

    @property
    def choices(self) -> dict[int, Choice]:
        """The choices as they are now, by index."""
        return {index: choice.choice() for index, choice in self._unfinished.items()}

    @property
    def usage(self) -> Usage:
        """The usage of the whole request."""
        return total({index: choice.usage for index, choice in self.choices.items() if choice.usage}, self.n)


async def collect(events: AsyncIterable[Event], n: int) -> Collected:
    """Read a generation to its end, and return its result. `n`: the number of choices of each prompt."""
    collected = Collected(n)
    async for event in events:
        collected.push(event)
    return collected
