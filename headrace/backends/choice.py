"""Assembles one choice of a provider's answer from its pieces, in any dialect: assigns pieces to tool calls,
joins halves of surrogate pairs and decides the finish reason.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from headrace.backends.bodies import Budget
from headrace.dialects.values import Halves, valid
from headrace.errors import ProviderError
from headrace.text.nesting import Nesting
from headrace.types import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    Thought,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

CUT = frozenset(
    ("length", "max_tokens", "max_output_tokens", "model_length", "context_length", "token_limit",
     "model_context_window_exceeded", "context_length_exceeded")
)  # fmt: skip
FILTERED = frozenset(
    ("content_filter", "content_filtered", "refusal", "safety", "recitation", "blocklist", "sensitive",
     "spii", "prohibited_content", "guardrail_intervened", "image_safety")
)  # fmt: skip
BROKEN = frozenset(
    ("error", "abort", "aborted", "cancelled", "canceled", "timeout", "network_error", "engine_error",
     "insufficient_system_resource", "malformed_function_call")
)  # fmt: skip


def is_broken(reason: str) -> bool:
    """Whether a provider's finish reason reports a failure."""
    return reason.strip().lower() in BROKEN


def finish_reason(reason: str, *, has_calls: bool) -> FinishReason:
    """The neutral finish reason for a provider's. Only "length" and "content_filter" are taken from the
    provider's word; otherwise the reason follows from whether the choice has tool calls.
    """
    name = reason.strip().lower()
    if name in CUT:
        return "length"
    if name in FILTERED:
        return "content_filter"
    return "tool_calls" if has_calls else "stop"


@dataclass(slots=True)
class _Call:
    """A tool call under construction. `number`: its index among the choice's calls; None: no name yet."""

    id: str = ""
    name: str = ""
    number: int | None = None
    pieces: list[str] = field(default_factory=list)
    halves: Halves = field(default_factory=Halves)
    nesting: Nesting = field(default_factory=Nesting)
    is_named_again: bool = False  # its name was repeated after its arguments were complete
    turn: int = 0  # the turn (see ChoiceAssembler) in which it began

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def has_arguments(self) -> bool:
        return any(piece.strip() for piece in self.pieces)

    def starts_another(self, arguments: str) -> bool:
        """Whether `arguments` begin a second JSON object after this call's arguments are complete."""
        return self.nesting.is_closed and arguments.lstrip().startswith("{")


class ChoiceAssembler:
    """Turns pieces of one choice into neutral events: call an `add` method for each piece, then `end` and
    `finished`. All raise ProviderError for a piece that belongs nowhere, and for an endless answer.

    The indexes and ids of calls are not trusted: a new name begins a new call; a piece without a name
    continues the call at its index, or else the last one.
    """

    def __init__(self, provider: str, index: int, budget: Budget) -> None:
        self._provider, self._index, self._budget = provider, index, budget
        self._text, self._thinking = Halves(), Halves()
        self._calls: list[_Call] = []
        self._at: dict[int, _Call] = {}  # the provider's index → call
        self._ids: set[str] = set()
        self._last: _Call | None = None  # the call of the previous piece; None: that was text or reasoning
        self._turn = 0  # the number of changes so far between text, reasoning and single calls
        self.num_calls = 0  # calls whose name is known
        self.has_content = False  # any text, reasoning or call has arrived
        self.reason: str | None = None  # why the choice ended, in the provider's words
        self.stop: str | None = None  # the stop string that ended it

    def add_text(self, text: str, logprobs: tuple[TokenLogprob, ...] = ()) -> Iterator[Event]:
        if text or logprobs:
            num_entries = sum(1 + len(token.top) for token in logprobs)
            self._budget.spend(len(text) + 16 * num_entries)
            self._speaks(None)
        said = self._text.push(text)
        if said or logprobs:
            yield TextDelta(self._index, said, logprobs)

    def add_reasoning(self, text: str) -> Iterator[Event]:
        if text:
            self._budget.spend(len(text))
            self._speaks(None)
        if thought := self._thinking.push(text):
            yield ReasoningDelta(self._index, thought)

    def add_thought(self, thought: Thought) -> Iterator[Event]:
        """Add a complete thought with its signature."""
        self._budget.spend(len(thought.text) + len(thought.signature or thought.redacted or ""))
        self._speaks(None)
        if rest := self._thinking.end():
            yield ReasoningDelta(self._index, rest)
        yield ReasoningDelta(self._index, "", thought=thought)

    def add_call(self, index: int | None, id: str, name: str, arguments: str) -> Iterator[Event]:
        """Add a piece of a call; "" for members it lacks. Yields nothing until the call's name is known."""
        self._budget.spend(len(id) + len(name) + len(arguments))
        call = self._place(index, id, name, arguments)
        if call is None or self._is_repeated(call, id, name, arguments):
            return
        self._speaks(call)
        if index is not None:
            self._at[index] = call
        call.id, call.name = call.id or id, call.name or name
        call.is_named_again = bool(name) and call.nesting.is_closed and not arguments.strip()
        yield from self._write(call, arguments)

    def end(self) -> Iterator[Event]:
        """Yield text that was held back. Raises ProviderError for a call that has arguments but no name."""
        if rest := self._thinking.end():
            yield ReasoningDelta(self._index, rest)
        if rest := self._text.end():
            yield TextDelta(self._index, rest)
        for call in self._calls:
            if call.number is None and call.has_arguments:
                raise ProviderError(f"{self._provider} sent arguments of a call without its name")
            if (rest := call.halves.end()) and call.number is not None:
                yield ToolCallDelta(self._index, call.number, rest)

    def set_reason(self, reason: str) -> None:
        """Record why the choice ended. Raises ProviderError for a reason that reports a failure."""
        if is_broken(reason):
            raise ProviderError(f"{self._provider} failed in the middle of its answer")
        self.reason = self.reason or reason or None

    def finished(
        self, usage: Usage, decode_s: float = 0.0, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> Finished:
        reason = finish_reason(self.reason or "", has_calls=bool(self.num_calls))
        return Finished(self._index, reason, usage, decode_s, logprobs, self.stop)

    def _place(self, index: int | None, id: str, name: str, arguments: str) -> _Call | None:
        last = self._calls[-1] if self._calls else None
        here = self._at.get(index) if index is not None else last
        if name:
            return here if here is not None and _is_same(here, id, name, arguments) else self._begin(id)
        if here is None:  # a new index: it may be a call whose name has not arrived yet
            here = last if last is not None and not last.starts_another(arguments) and last.name else None
        if here is None or (id and here.id and id != here.id and (not arguments or here.nesting.is_closed)):
            return self._begin(id)
        if here.starts_another(arguments):
            again = self._begin("")
            again.name = here.name if here.is_named_again else ""
            return again
        return here

    def _begin(self, id: str) -> _Call:
        call = _Call(id, turn=self._turn + 1)
        self._calls.append(call)
        return call

    def _speaks(self, call: _Call | None) -> None:
        """Note whose piece this is; None: text or reasoning."""
        if call is None or call is not self._last:
            self._turn += 1
        self._last, self.has_content = call, True

    def _is_repeated(self, call: _Call, id: str, name: str, arguments: str) -> bool:
        """Whether the piece repeats a complete call unchanged."""
        is_whole = bool(id) and call.nesting.is_closed and (id, name) == (call.id, call.name)
        return is_whole and bool(arguments) and arguments == call.text

    def _write(self, call: _Call, arguments: str) -> Iterator[Event]:
        if call.nesting.is_closed and call.turn != self._turn:
            if arguments.strip():
                raise ProviderError(f"{self._provider} went on with a call after its end")
            return
        call.pieces.append(arguments)
        call.nesting.push(arguments)
        if call.number is not None:
            if said := call.halves.push(arguments):
                yield ToolCallDelta(self._index, call.number, said)
        elif call.name:
            call.number, self.num_calls = self.num_calls, self.num_calls + 1
            call.id = self._own_id(call.id)
            said = call.halves.push(call.text)
            yield ToolCallDelta(self._index, call.number, said, call.id, call.name)

    def _own_id(self, provider_id: str) -> str:
        """The provider's id if no other call has it, else a new one: callers refer to calls by their ids."""
        is_own = provider_id and provider_id not in self._ids
        id = valid(provider_id) if is_own else f"call_{secrets.token_hex(12)}"
        self._ids.add(id)
        return id


def _is_same(call: _Call, id: str, name: str, arguments: str) -> bool:
    """Whether a piece with a name continues this call: some providers repeat the name in every piece."""
    if id and call.id and id != call.id:
        return False
    if not call.name:
        return True
    if name != call.name:
        return False
    is_repeated = bool(id) and id == call.id and arguments == call.text
    return is_repeated or not call.starts_another(arguments)
