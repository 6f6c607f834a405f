"""Divides the text of an answer into reasoning, text and tool calls, as events."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator

from headrace.text.reasoning import Reasoned, Splitter
from headrace.text.toolcalls import CallArguments, CallBegin, Parser, Part, Text
from headrace.types import Event, ReasoningDelta, TextDelta, ToolCallDelta


class AnswerText:
    """Splits the text of an answer into reasoning, calls and the rest. Without a `splitter` nothing is
    reasoning, and without a `parser` nothing is a call.
    """

    def __init__(self, index: int, splitter: Splitter | None, parser: Parser | None) -> None:
        self._index, self._splitter, self._parser = index, splitter, parser
        self._has_reasoned = splitter is not None and splitter.is_thinking
        self.num_reasoning = 0  # pieces of text, one for each token, that were reasoning
        self.num_calls = 0
        self.is_markup = False  # the last piece was only marks, or white space around them

    def push(self, text: str) -> list[Event]:
        """Add a token's text."""
        parts: list[Reasoned | Text] = [Text(text)] if self._splitter is None else self._splitter.push(text)
        if self._splitter is not None and self._splitter.is_thinking:
            self.num_reasoning += 1
            self._has_reasoned = True
        events = list(self._events(parts))
        is_mark = (self._has_reasoned and not parts) or (self.num_calls > 0 and not events)
        self.is_markup = bool(text) and is_mark
        return events

    def end(self, *, is_cut: bool, is_forced: bool) -> list[Event]:
        """Return what was held back. `is_cut`: the answer did not end by itself; `is_forced`: it is calls."""
        events = [] if self._splitter is None else list(self._events(self._splitter.flush()))
        if self._parser is not None:
            events += self._parsed(self._parser.flush(is_cut=is_cut, is_forced=is_forced))
        return events

    def _events(self, parts: Iterable[Reasoned | Text]) -> Iterator[Event]:
        for part in parts:
            if isinstance(part, Reasoned):
                if part.text:
                    yield ReasoningDelta(self._index, part.text)
            else:
                yield from self._parsed([part] if self._parser is None else self._parser.push(part.text))

    def _parsed(self, parts: Iterable[Part]) -> Iterator[Event]:
        for part in parts:
            if isinstance(part, Text) and part.text:
                yield TextDelta(self._index, part.text)
            elif isinstance(part, CallBegin):
                self.num_calls += 1
                id = f"call_{secrets.token_hex(12)}"
                yield ToolCallDelta(self._index, self.num_calls - 1, id=id, name=part.name)
            elif isinstance(part, CallArguments):
                yield ToolCallDelta(self._index, self.num_calls - 1, part.text)
