"""Anthropic's event stream as neutral events of one choice. Events, blocks and deltas of unknown types are
passed over, as its documentation asks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from headrace.backends.anthropic.upstream import AnthropicUpstream
from headrace.backends.bodies import Budget
from headrace.backends.choice import ChoiceReading, finish_reason
from headrace.backends.forms import is_heartbeat
from headrace.backends.sse import ServerSentEvent
from headrace.backends.words import message_of
from headrace.dialects.anthropic import counts_in, usage_of
from headrace.dialects.values import Object, an_object, count, dumped, objects, parsed, valid, word
from headrace.errors import ProviderError
from headrace.types import Event, Finished, Started, Thought


@dataclass(slots=True)
class _Thinking:
    """A block of thinking that has begun."""

    pieces: list[str] = field(default_factory=list)
    signature: str | None = None


@dataclass(slots=True)
class _ToolUse:
    """A call that has begun. `whole`: arguments that came with its beginning."""

    id: str
    whole: Object
    has_arguments: bool = False


class _Other:
    """A block of a kind that is passed over, with all of its deltas."""


class Answer:
    """One answer as it comes; `push` raises ServerError for an error in it, and for nonsense."""

    def __init__(self, upstream: AnthropicUpstream) -> None:
        self._upstream = upstream
        self._asked_at = self._began_at = time.monotonic()
        self._said = ChoiceReading(upstream.provider, 0, Budget(upstream.provider))
        self._blocks: dict[int, _Thinking | _ToolUse | _Other] = {}  # by their index, while they run
        self.counts: dict[str, int] = {}  # of tokens, as far as they were told
        self._is_started = False
        self._is_begun = False  # more came than the message's head
        self._reason: str | None = None
        self.stop: str | None = None  # the stop sequence that was met
        self.is_finished = False

    def push(self, sent: ServerSentEvent) -> list[Event]:
        if self.is_finished:
            return []
        if not sent.is_whole and is_heartbeat(sent.data) and sent.event != "error":
            return []
        value = self._loaded(sent)
        match _kind(value, sent):
            case "message_start":
                return self._start(an_object(value.get("message")))
            case "message":
                return self._message(value)
            case "content_block_start":
                return self._begin(count(value.get("index")), an_object(value.get("content_block")))
            case "content_block_delta":
                return self._delta(count(value.get("index")), an_object(value.get("delta")))
            case "content_block_stop":
                return self._end(count(value.get("index")))
            case "message_delta":
                self._is_begun = True
                self.counts |= counts_in(value.get("usage"))
                self._reasoned(an_object(value.get("delta")))
            case "message_stop":
                self._reason = self._reason or ("end_turn" if self._is_begun else None)
                return self.finish()
            case "error":
                error = an_object(value.get("error"))
                words = word(error.get("message")) or message_of(sent.data)
                raise self._upstream.error_of_type(word(error.get("type")), words)
        return []

    def finish(self) -> list[Event]:
        """The last events: on message_stop, or when the stream ends without one. Raises ProviderError if the
        answer was not complete by then.
        """
        if self._reason is None:
            raise ProviderError(f"{self._upstream.provider} ended the answer in the middle")
        found = [event for index in list(self._blocks) for event in self._end(index)]
        found += self._said.end()
        self.is_finished = True
        reason = finish_reason(self._reason, has_calls=bool(self._said.num_calls))
        decode_s = time.monotonic() - self._began_at
        return [*found, Finished(0, reason, usage_of(self.counts), decode_s, stop=self.stop)]

    def _loaded(self, sent: ServerSentEvent) -> Object:
        if sent.event == "error" and is_heartbeat(sent.data):
            return {"type": "error", "error": {"type": "", "message": sent.data}}
        try:
            value = parsed(sent.data)
        except (ValueError, RecursionError) as exc:
            if sent.is_last:
                return {}  # half an event: that the answer has no end is said elsewhere
            raise ProviderError(f"{self._upstream.provider} sent an event that is no JSON") from exc
        if not isinstance(value, dict):
            raise ProviderError(f"{self._upstream.provider} sent an event that is no JSON object")
        return value

    def _start(self, message: Object) -> list[Event]:
        self.counts |= counts_in(message.get("usage"))
        if self._is_started:
            return []
        self._is_started, self._began_at = True, time.monotonic()
        usage = usage_of(self.counts)
        prefill_s = self._began_at - self._asked_at
        return [Started(0, 0.0, prefill_s, usage.prompt_tokens, usage.cached_tokens)]

    def _message(self, message: Object) -> list[Event]:
        """A whole answer, though a stream was asked for."""
        found = self._start(message)
        for index, block in enumerate(objects(message.get("content"))):
            found += self._begin(index, block)
            found += self._end(index)
        self._reasoned(message)
        self._reason = self._reason or "end_turn"
        return found + self.finish()

    def _reasoned(self, told: Object) -> None:
        self._reason = word(told.get("stop_reason")) or self._reason
        self.stop = word(told.get("stop_sequence")) or self.stop

    def _begin(self, index: int | None, block: Object) -> list[Event]:
        kind, at = block.get("type"), -1 if index is None else index
        self._is_begun = self._is_begun or kind is not None
        if self._is_repeated(at, block):
            return []
        found = self._end(at)  # some providers leave out the end of a block
        match kind:
            case "text":
                found += self._said.say(_text(block, "text"))
            case "thinking":
                text = _text(block, "thinking")
                self._blocks[at] = _Thinking([text], word(block.get("signature")) or None)
                found += self._said.think(text)
            case "redacted_thinking":
                found += self._said.thought(Thought(redacted=word(block.get("data"))))
            case "tool_use":
                id, name = word(block.get("id")), word(block.get("name"))
                self._blocks[at] = _ToolUse(id, an_object(block.get("input")))
                found += self._said.call(index, id, name, "")
            case _:
                self._blocks[at] = _Other()
        return found

    def _is_repeated(self, at: int, block: Object) -> bool:
        """Whether the beginning of a call is told twice."""
        begun = self._blocks.get(at)
        is_call = isinstance(begun, _ToolUse) and block.get("type") == "tool_use"
        return is_call and bool(begun.id) and begun.id == word(block.get("id"))  # type: ignore[union-attr]

    def _delta(self, index: int | None, delta: Object) -> list[Event]:
        at = -1 if index is None else index
        block = self._blocks.get(at)
        if isinstance(block, _Other):
            return []
        match delta.get("type"):
            case "text_delta":
                return list(self._said.say(_text(delta, "text")))
            case "thinking_delta":
                text = _text(delta, "thinking")
                if isinstance(block, _Thinking):
                    block.pieces.append(text)
                return list(self._said.think(text))
            case "signature_delta" if isinstance(block, _Thinking):
                block.signature = word(delta.get("signature"))
            case "input_json_delta":
                part = _text(delta, "partial_json")
                if isinstance(block, _ToolUse):
                    block.has_arguments |= bool(part)
                return list(self._said.call(index, "", "", part)) if part else []
        return []

    def _end(self, index: int | None) -> list[Event]:
        """What is complete with its block: a thought, and arguments that did not come in pieces."""
        block = self._blocks.pop(-1 if index is None else index, None)
        if isinstance(block, _Thinking) and block.signature is not None:
            return list(self._said.thought(Thought(valid("".join(block.pieces)), block.signature)))
        if isinstance(block, _ToolUse) and not block.has_arguments:
            return list(self._said.call(index, "", "", dumped(block.whole)))
        return []


def _kind(value: Object, sent: ServerSentEvent) -> str:
    """The type of an event, or of a body that came instead of a stream."""
    kind = word(value.get("type")) or sent.event
    if not kind and value.get("error"):
        return "error"
    return kind or ("message" if sent.is_whole and "content" in value else "")


def _text(of: Object, name: str) -> str:
    """May end in half of a surrogate pair."""
    found = of.get(name)
    return found if isinstance(found, str) else ""
