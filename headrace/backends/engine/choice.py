"""Turns one sequence's tokens into events: tokens to text, and text to answer, reasoning and tool calls."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace

from headrace.engine.engine import Output
from headrace.engine.sequence import Logprobs, Sequence
from headrace.offload import SMALL
from headrace.text import reasoning, toolcalls
from headrace.text.detokenize import Detokenizer
from headrace.text.loops import LoopDetector
from headrace.text.stops import NO_STOPS, StopMatcher, Stops
from headrace.text.tokenizer import Tokenizer
from headrace.types import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

LOGPROB = 64  # work of writing one logprob, in headrace.offload's bytes


@dataclass(frozen=True, slots=True)
class Reading:
    """How the answers to one prompt are to be read."""

    tokenizer: Tokenizer
    stops: Stops = NO_STOPS
    shown: frozenset[int] = frozenset()  # special tokens whose text is kept
    splitter: Callable[[], reasoning.Splitter] | None = None  # creates one per answer, if the model may think
    parser: Callable[[], toolcalls.Parser] | None = None  # creates one per answer, if it may call tools
    is_forced: bool = False  # the answer consists of tool calls only
    loop_tokens: int = 0  # a loop of this many tokens ends the answer; 0: never


@dataclass(frozen=True, slots=True)
class Echo:
    """An event that repeats the prompt with its logprobs, and is too large to be built on the event loop.
    `work`: the cost of `write`, in headrace.offload's bytes.
    """

    work: int
    write: Callable[[], TextDelta]


class Choice:
    """One answer: from the outputs of a sequence to events. `echo`: the prompt, if the answer repeats it."""

    def __init__(self, sequence: Sequence, index: int, reading: Reading, echo: str | None = None) -> None:
        self.sequence, self.index, self._reading, self._echo = sequence, index, reading, echo
        self._detokenizer = Detokenizer(reading.tokenizer, reading.shown)
        self._stops = StopMatcher(reading.stops)
        self._splitter = reading.splitter() if reading.splitter else None
        self._parser = reading.parser() if reading.parser else None
        self._scores = _Scores()
        self._loops = LoopDetector(reading.loop_tokens) if reading.loop_tokens else None
        self._num_calls = 0
        self._num_unreported = 0  # tokens since the last event
        self._num_reasoning = 0
        self._has_thought = self._splitter is not None and self._splitter.is_thinking
        self.num_tokens = 0
        self.is_started = self.is_finished = False

    @property
    def leader(self) -> Sequence:
        return self.sequence.leader or self.sequence

    def push(self, output: Output) -> list[Event | Echo]:
        """The events of one token, or of the end. Not to be called after `is_finished`."""
        events: list[Event | Echo] = [] if self.is_started else self._start()
        params = self.sequence.params
        if output.token is None:
            return [*events, *self._finish("length", [])]
        self.num_tokens += 1
        self._num_unreported += 1
        is_end = output.token in params.stop_token_ids and output.finish_reason == "stop"
        text = "" if is_end else self._detokenizer.push(output.token)
        # Not in tool calls: arguments may repeat rows.
        is_loop = self._loops is not None and self._loops.push(output.token) and not self._num_calls
        if output.finish_reason is not None or is_loop:
            text += self._detokenizer.flush()
        if output.logprobs is not None and not is_end:
            self._scores.add(self._scored(output.token, output.logprobs), len(text))
        shown = self._until_stop(text)
        if self._stops.stopped:
            return [*events, *self._end(shown, "stop", [])]
        if output.finish_reason is None and not is_loop:
            return [*events, *self._with_scores(self._read(shown))]
        last = [self._scored(output.token, output.logprobs)] if is_end and output.logprobs else []
        reason: FinishReason = "stop" if output.finish_reason == "stop" else "length"
        return [*events, *self._end(shown + self._stops.flush(), reason, last)]

    def _until_stop(self, text: str) -> str:
        """The text that can be shown: up to a stop string, and without an ending that may become one. Stop
        strings are ignored after the first call has started: its arguments would not be valid JSON.
        """
        if self._num_calls:
            return self._stops.flush() + text
        return self._stops.push(text) if self.num_tokens >= self.sequence.params.min_tokens else text

    def _start(self) -> list[Event | Echo]:
        self.is_started = True
        sequence = self.sequence
        events: list[Event | Echo] = [
            Started(
                self.index,
                queue_s=sequence.started_at - sequence.queued_at,
                prefill_s=sequence.first_token_at - sequence.started_at,
                prompt_tokens=self.leader.num_prompt,
                cached_tokens=self.leader.num_cached,
            )
        ]
        if self._echo is not None:
            echo = Echo(self._num_scores * LOGPROB, self._echo_event)
            events.append(echo if echo.work > SMALL else echo.write())
        return events

    @property
    def _num_scores(self) -> int:
        params = self.leader.params
        return len(self.leader.prompt_logprobs) * (1 + (params.logprobs or 0))

    def _echo_event(self) -> TextDelta:
        return TextDelta(self.index, self._echo or "", self._prompt_logprobs())

    def _prompt_logprobs(self) -> tuple[TokenLogprob, ...]:
        leader = self.leader
        if not leader.params.prompt_logprobs:
            return ()
        tokenizer, first = self._reading.tokenizer, leader.tokens[0]
        nothing = TokenLogprob(tokenizer.token_text(first), tokenizer.token_raw(first), None)
        tokens = leader.tokens[1 : leader.num_prompt]
        return (
            nothing,
            *(self._scored(t, scores) for t, scores in zip(tokens, leader.prompt_logprobs, strict=True)),
        )

    def _scored(self, token: int, scores: Logprobs) -> TokenLogprob:
        name, raw = self._reading.tokenizer.token_text, self._reading.tokenizer.token_raw
        top = tuple((name(other), raw(other), logprob) for other, logprob in scores.top)
        return TokenLogprob(name(token), raw(token), scores.logprob, top)

    def _end(self, text: str, reason: FinishReason, last: list[TokenLogprob]) -> list[Event]:
        """The events of the last text, of text that splitter and parser held back, and of the end."""
        events = self._read(text)
        if self._splitter is not None:
            events += [event for part in self._splitter.flush() for event in self._text_events(part)]
        if self._parser is not None:
            rest = self._parser.flush(is_cut=reason == "length", is_forced=self._reading.is_forced)
            events += [event for part in rest for event in self._call_events(part)]
        return [*self._with_scores(events, is_last=True), *self._finish(reason, last)]

    def _finish(self, reason: FinishReason, last: list[TokenLogprob]) -> list[Event]:
        self.is_finished = True
        usage = Usage(
            self.leader.num_prompt,
            self.num_tokens,
            self.leader.num_cached,
            reasoning_tokens=self._num_reasoning,
        )
        began = self.sequence.first_token_at
        if reason == "stop" and self._num_calls:
            reason = "tool_calls"
        decode_s = time.perf_counter() - began
        return [Finished(self.index, reason, usage, decode_s, tuple(last), self._stops.stop)]

    def _read(self, text: str) -> list[Event]:
        """The events of a piece of text."""
        self._scores.num_shown += len(text)
        parts = self._split(text)
        events = [event for part in parts for event in self._text_events(part)]
        if text and ((self._has_thought and not parts) or (self._num_calls and not events)):
            self._scores.take(is_cut=False)  # of marks and white space around them: not part of the answer
        return events

    def _split(self, text: str) -> Many[reasoning.Reasoned | toolcalls.Text]:
        if self._splitter is None:
            return [toolcalls.Text(text)]
        parts = self._splitter.push(text)
        self._num_reasoning += self._splitter.is_thinking
        self._has_thought = self._has_thought or self._splitter.is_thinking
        return parts

    def _text_events(self, part: reasoning.Reasoned | toolcalls.Text) -> list[Event]:
        if isinstance(part, reasoning.Reasoned):
            return [ReasoningDelta(self.index, part.text)] if part.text else []
        if self._parser is None:
            return [TextDelta(self.index, part.text)] if part.text else []
        return [event for call_part in self._parser.push(part.text) for event in self._call_events(call_part)]

    def _call_events(self, part: toolcalls.Part) -> list[Event]:
        if isinstance(part, toolcalls.Text):
            return [TextDelta(self.index, part.text)] if part.text else []
        if isinstance(part, toolcalls.CallBegin):
            self._num_calls += 1
            id = f"call_{secrets.token_hex(12)}"
            return [ToolCallDelta(self.index, self._num_calls - 1, id=id, name=part.name)]
        if isinstance(part, toolcalls.CallArguments):
            return [ToolCallDelta(self.index, self._num_calls - 1, part.text)]
        return []

    def _with_scores(self, events: list[Event], *, is_last: bool = False) -> list[Event]:
        """Add the count of unreported tokens to the first event, and their logprobs to the first text."""
        if not events and not (is_last and self._scores.is_waiting):
            return events
        scores = self._scores.take(is_cut=self._stops.stopped)
        if not events:  # at the end: logprobs of tokens without text
            events = [TextDelta(self.index, "")] if scores else []
        for place, event in enumerate(events):
            if isinstance(event, TextDelta):
                events[place] = replace(event, logprobs=scores)
                break
        first = events[0] if events else None
        if isinstance(first, TextDelta | ReasoningDelta | ToolCallDelta):
            events[0] = replace(first, tokens=self._num_unreported)
            self._num_unreported = 0
        return events


class _Scores:
    """Logprobs whose tokens' text is not shown yet. Text that may begin a stop string is held back, and a
    stop string is cut off, so text and tokens do not arrive together.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int, TokenLogprob]] = (
            deque()
        )  # (start, end) of the token's text, in characters
        self._num_decoded = 0  # characters
        self.num_shown = 0

    @property
    def is_waiting(self) -> bool:
        return bool(self._waiting)

    def add(self, score: TokenLogprob, length: int) -> None:
        start, self._num_decoded = self._num_decoded, self._num_decoded + length
        self._waiting.append((start, self._num_decoded, score))

    def take(self, *, is_cut: bool) -> tuple[TokenLogprob, ...]:
        """Remove and return those whose text is shown; with `is_cut`, also one that is shown in part."""
        taken = []
        while self._waiting and (self._waiting[0][0] if is_cut else self._waiting[0][1] - 1) < self.num_shown:
            taken.append(self._waiting.popleft()[2])
        return tuple(taken)
