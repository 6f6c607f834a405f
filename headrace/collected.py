"""The result of a generation: the events of each choice, added up."""

from __future__ import annotations

from collections.abc import AsyncIterable
from dataclasses import dataclass, field, replace
from io import StringIO
from typing import Any, Literal

from headrace.steering.types import Activations, Receipt
from headrace.types import (
    Event,
    Finished,
    FinishReason,
    Json,
    ReasoningDelta,
    Started,
    TextDelta,
    Thought,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    Usage,
    total,
)


@dataclass(frozen=True, slots=True)
class Spoken:
    """A piece of an answer's text, up to the next piece of another kind."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoned:
    """A piece of reasoning and its choice. `thoughts`: the reasoning as its provider has signed it."""

    text: str
    thoughts: tuple[Thought, ...] = ()


@dataclass(slots=True)
class Choice:
    """One finished choice."""

    text: str = ""
    reasoning: str = ""
    thoughts: list[Thought] = field(default_factory=list)  # the same reasoning, signed by its provider
    calls: list[ToolCall] = field(default_factory=list)
    in_order: list[Spoken | Reasoned | ToolCall] = field(default_factory=list)  # all of these
    logprobs: list[TokenLogprob] = field(default_factory=list)
    end_logprobs: tuple[TokenLogprob, ...] = ()  # of a last token without text
    reason: FinishReason = "stop"
    stop: str | None = None  # the stop string that ended it
    annotations: tuple[Json, ...] = ()  # of the text
    usage: Usage | None = None
    activations: list[Activations] = field(default_factory=list)  # of its tokens, and of the prompt's
    receipt: Receipt | None = None  # of its steering


@dataclass(slots=True)
class _Piece:
    """A growing piece, in a StringIO because adding to a str copies all of it. `id`, `name`: of a call."""

    kind: Literal["text", "reasoning", "call"]
    id: str = ""
    name: str = ""
    written: StringIO = field(default_factory=StringIO)
    thoughts: list[Thought] = field(default_factory=list)

    def whole(self) -> Spoken | Reasoned | ToolCall:
        text = self.written.getvalue()
        if self.kind == "call":
            return ToolCall(self.id, self.name, text)
        return Spoken(text) if self.kind == "text" else Reasoned(text, tuple(self.thoughts))


class _Unfinished:
    """A choice whose events are still coming."""

    def __init__(self) -> None:
        self._pieces: list[_Piece] = []
        self._calls: list[_Piece] = []  # those of the pieces that are calls
        self._rest = Choice()

    def push(self, event: TextDelta | ReasoningDelta | ToolCallDelta | Finished) -> None:
        rest = self._rest
        rest.activations += event.activations
        if isinstance(event, TextDelta):
            if event.text:
                self._last("text").written.write(event.text)
            rest.logprobs += event.logprobs
        elif isinstance(event, ReasoningDelta):
            if event.text or event.thought is not None:
                piece = self._last("reasoning")
                piece.written.write(event.text)
                piece.thoughts += [event.thought] if event.thought is not None else []
        elif isinstance(event, ToolCallDelta):
            if event.name is not None:
                self._pieces.append(_Piece("call", event.id or "", event.name))
                self._calls.append(self._pieces[-1])
            self._calls[event.call].written.write(event.arguments)
        else:
            rest.reason, rest.stop, rest.usage = event.reason, event.stop, event.usage
            rest.end_logprobs, rest.receipt = event.logprobs, event.receipt
            rest.annotations = event.annotations

    def choice(self) -> Choice:
        """What has been collected of the choice so far."""
        pieces = [piece.whole() for piece in self._pieces]
        reasoned = [piece for piece in pieces if isinstance(piece, Reasoned)]
        return replace(
            self._rest,
            text="".join(piece.text for piece in pieces if isinstance(piece, Spoken)),
            reasoning="".join(piece.text for piece in reasoned),
            thoughts=[thought for piece in reasoned for thought in piece.thoughts],
            calls=[piece for piece in pieces if isinstance(piece, ToolCall)],
            in_order=pieces,
        )

    def _last(self, kind: Literal["text", "reasoning"]) -> _Piece:
        """The last piece, or a new one if that is of another kind."""
        if not self._pieces or self._pieces[-1].kind != kind:
            self._pieces.append(_Piece(kind))
        return self._pieces[-1]


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
