"""Turns one sequence's tokens into events: tokens to text, and text to answer, reasoning and tool calls."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from headrace.backends.engine.pending import (
    PendingActivations,
    PendingLogprobs,
    prompt_logprobs,
    token_logprob,
)
from headrace.engine.engine import Output
from headrace.engine.sequence import Readings, Sequence
from headrace.offload import SMALL
from headrace.steering.types import Receipt
from headrace.text.reasoning import Reasoned, Splitter
from headrace.text.stops import NO_STOPS, LoopDetector, StopMatcher, Stops
from headrace.text.tokenizer import Detokenizer, Tokenizer
from headrace.text.toolcalls import CallArguments, CallBegin, Parser, Part, Text
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

MANY_READINGS = 64  # tokens of one step whose activations are not written on the event loop
READING = 64  # work of writing one token's activations, in headrace.offload's bytes
LOGPROB = 64  # work of writing one logprob, in headrace.offload's bytes


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How the answers to one prompt are to be read."""

    tokenizer: Tokenizer
    stops: Stops = NO_STOPS
    shown: frozenset[int] = frozenset()  # special tokens whose text is kept
    splitter: Callable[[], Splitter] | None = None  # creates one per answer, if the model may think
    parser: Callable[[], Parser] | None = None  # creates one per answer, if it may call tools
    is_forced: bool = False  # the answer consists of tool calls only
    loop_tokens: int = 0  # a loop of this many tokens ends the answer; 0: never


@dataclass(frozen=True, slots=True)
class Echo:
    """An event that has logprobs or activations of a whole prompt, and is too large for the event loop.
    `work`: the cost of `write`, in headrace.offload's bytes.
    """

    work: int
    write: Callable[[], TextDelta]


class Choice:
    """One answer: from the outputs of a sequence to events. `echo`: the prompt, if the answer repeats it;
    `receipt`: how it is steered.
    """

    def __init__(
        self,
        sequence: Sequence,
        index: int,
        options: AnswerOptions,
        echo: str | None = None,
        receipt: Receipt | None = None,
    ) -> None:
        self.sequence, self.index, self._options, self._echo = sequence, index, options, echo
        self._detokenizer = Detokenizer(options.tokenizer, options.shown)
        self._stops = StopMatcher(options.stops)
        self._text = AnswerText(
            index,
            options.splitter() if options.splitter else None,
            options.parser() if options.parser else None,
        )
        self._logprobs = PendingLogprobs()
        self._activations, self._receipt = PendingActivations(sequence, options.tokenizer), receipt
        self._loops = LoopDetector(options.loop_tokens) if options.loop_tokens else None
        self._num_unreported = 0  # tokens since the last event
        self.num_tokens = 0
        self.is_started = self.is_finished = False

    @property
    def leader(self) -> Sequence:
        return self.sequence.leader or self.sequence

    def push(self, output: Output) -> list[Event | Echo]:
        """The events of one token, or of the end. Not to be called after `is_finished`."""
        events: list[Event | Echo] = [] if self.is_started else self._start()
        if len(output.readings) > MANY_READINGS:
            events.append(self._read_aside(output.readings))
        else:
            self._activations.add(output.readings)
        guard = self.sequence.guard
        if guard is not None and guard.found is not None:
            return [*events, *self._activations.attach(self._abort())]
        if output.token is None:
            return [*events, *self._activations.attach(self._finish("length"))]
        return [*events, *self._activations.attach(self._of_token(output, output.token))]

    def _abort(self) -> list[Event]:
        """The events of the end at a token that the request forbids. It was computed one step after it was
        chosen; the token that this step chose is not part of the answer.
        """
        self._activations.end = self.sequence.num_prompt + self.num_tokens
        shown = self._until_stop(self._detokenizer.flush()) + self._stops.flush()
        return self._end(shown, "content_filter")

    def _read_aside(self, readings: Readings) -> Echo:
        """The event of a long prompt's activations."""
        entries = self._activations.taken(readings)
        work = max(SMALL + 1, readings[-1][0] * READING)
        return Echo(work, lambda: TextDelta(self.index, "", activations=tuple(entries())))

    def _of_token(self, output: Output, token: int) -> list[Event]:
        """The events of one token."""
        self.num_tokens += 1
        self._num_unreported += 1
        is_end = token in self.sequence.params.stop_token_ids and output.finish_reason == "stop"
        # Not in tool calls: arguments may repeat rows.
        is_loop = self._loops is not None and self._loops.push(token) and not self._text.num_calls
        is_last = output.finish_reason is not None or is_loop
        text = "" if is_end else self._detokenizer.push(token)
        if is_last:
            text += self._detokenizer.flush()
        last: tuple[TokenLogprob, ...] = ()
        if output.logprobs is not None:
            logprob = token_logprob(self._options.tokenizer, token, output.logprobs)
            if is_end:
                last = (logprob,)
            else:
                self._logprobs.add(logprob, len(text))
        shown = self._until_stop(text)
        if self._stops.stopped:
            return self._end(shown, "stop")
        if not is_last:
            return self._with_logprobs(self._read(shown))
        reason: FinishReason = "stop" if output.finish_reason == "stop" else "length"
        return self._end(shown + self._stops.flush(), reason, last)

    def _until_stop(self, text: str) -> str:
        """The text that can be shown: up to a stop string, and without an ending that may become one. Stop
        strings are ignored after the first call has started: its arguments would not be valid JSON.
        """
        if self._text.num_calls:
            return self._stops.flush() + text
        return self._stops.push(text) if self.num_tokens >= self.sequence.params.min_tokens else text

    def _start(self) -> list[Event | Echo]:
        self.is_started = True
        sequence, leader = self.sequence, self.leader
        queue_s = sequence.started_at - sequence.queued_at
        prefill_s = sequence.first_token_at - sequence.started_at
        started = Started(self.index, queue_s, prefill_s, leader.num_prompt, leader.num_cached, self._receipt)
        if self._echo is None:
            return [started]
        num_logprobs = len(leader.prompt_logprobs) * (1 + (leader.params.logprobs or 0))
        echo = Echo(num_logprobs * LOGPROB, self._echo_event)
        return [started, echo if echo.work > SMALL else echo.write()]

    def _echo_event(self) -> TextDelta:
        return TextDelta(self.index, self._echo or "", prompt_logprobs(self._options.tokenizer, self.leader))

    def _end(self, text: str, reason: FinishReason, last: tuple[TokenLogprob, ...] = ()) -> list[Event]:
        """The events of the last text and of the end. `last`: the logprobs of a last token without text."""
        events = self._read(text)
        events += self._text.end(
            is_cut=reason in ("length", "content_filter"), is_forced=self._options.is_forced
        )
        if not events and self._logprobs and (logprobs := self._take_logprobs()):
            events = [TextDelta(self.index, "", logprobs)]  # of tokens without text
        return [*self._with_logprobs(events), *self._finish(reason, last)]

    def _finish(self, reason: FinishReason, last: tuple[TokenLogprob, ...] = ()) -> list[Event]:
        self.is_finished = True
        usage = Usage(
            self.leader.num_prompt,
            self.num_tokens,
            self.leader.num_cached,
            reasoning_tokens=self._text.num_reasoning,
            # The engine may have gone on beyond a stop string.
            accepted_prediction_tokens=min(self.sequence.drafter.num_accepted, self.num_tokens),
            rejected_prediction_tokens=self.sequence.drafter.num_rejected,
        )
        if reason == "stop" and self._text.num_calls:
            reason = "tool_calls"
        decode_s = time.perf_counter() - self.sequence.first_token_at
        finished = Finished(self.index, reason, usage, decode_s, last, self._stops.stop)
        return [replace(finished, receipt=self._settled())]

    def _settled(self) -> Receipt | None:
        """The steering receipt, completed by the counts and the achieved values, which the end of the choice
        fixes.
        """
        plan, sequence, receipt = self.sequence.plan, self.sequence, self._receipt
        if receipt is None:
            return None
        abort = sequence.guard.found if sequence.guard is not None else None
        receipt = replace(receipt, abort=abort)
        if plan is None:
            return receipt
        end = min(sequence.num_prompt + self.num_tokens, len(sequence.tokens))
        is_last_computed = abort is not None or not self.num_tokens
        end -= not is_last_computed
        receipt = replace(receipt, tokens_steered=plan.count(sequence.tokens, end, sequence.flags))
        achieved = sequence.achieved
        if achieved is None:
            return receipt
        return replace(receipt, achieved=achieved.means(), side_effects=achieved.side_effects())

    def _read(self, text: str) -> list[Event]:
        """The events of a piece of text."""
        self._logprobs.num_shown += len(text)
        events = self._text.push(text)
        if self._text.is_markup:
            self._logprobs.take()  # markup is not part of the answer
        return events

    def _take_logprobs(self) -> tuple[TokenLogprob, ...]:
        return self._logprobs.take(is_cut=self._stops.stopped)

    def _with_logprobs(self, events: list[Event]) -> list[Event]:
        """Add the count of unreported tokens to the first event, and their logprobs to the first text."""
        if not events:
            return events
        logprobs = self._take_logprobs()
        for place, event in enumerate(events):
            if isinstance(event, TextDelta):
                events[place] = replace(event, logprobs=event.logprobs + logprobs)
                break
        first = events[0]
        if isinstance(first, TextDelta | ReasoningDelta | ToolCallDelta):
            events[0] = replace(first, tokens=self._num_unreported)
            self._num_unreported = 0
        return events


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
