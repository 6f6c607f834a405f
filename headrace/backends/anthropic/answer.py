"""Reads Anthropic's event stream as neutral events of one choice. Events, blocks and deltas of unknown types
are skipped, as Anthropic's documentation requires of clients.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from headrace.backends.answer_body import is_heartbeat
from headrace.backends.anthropic.upstream import AnthropicUpstream
from headrace.backends.bodies import Budget
from headrace.backends.choice import ChoiceReading, finish_reason
from headrace.backends.sse import ServerSentEvent
from headrace.backends.words import message_of
from headrace.dialects.anthropic import counts_in, usage_of
from headrace.dialects.values import Object, an_object, count, dumped, objects, parsed, valid, word
from headrace.errors import ProviderError
from headrace.types import Event, Finished, Started, Thought


@dataclass(slots=True)
class _Thinking:
    """An open block of thinking."""

    pieces: list[str] = field(default_factory=list)
    signature: str | None = None


@dataclass(slots=True)
class _ToolUse:
    """An open tool_use block. `whole`: arguments that its start event contained."""

    id: str
    whole: Object
    has_arguments: bool = False


class _Other:
    """An open block of an unknown kind, whose deltas are skipped."""


class Answer:
    """Reads one answer. `push` raises ServerError for an error event and for unreadable events."""

    def __init__(self, upstream: AnthropicUpstream) -> None:
        self._upstream = upstream
        self._sent_at = self._began_at = time.monotonic()
        self._said = ChoiceReading(upstream.provider, 0, Budget(upstream.provider))
        self._blocks: dict[int, _Thinking | _ToolUse | _Other] = {}  # index → open block
        self.counts: dict[str, int] = {}  # token counts so far
        self._is_started = False
        self._is_begun = False  # an event after message_start has arrived
        self._reason: str | None = None
        self.stop: str | None = None  # the stop sequence that ended the answer
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
                self._set_reason(an_object(value.get("delta")))
            case "message_stop":
                self._reason = self._reason or ("end_turn" if self._is_begun else None)
                return self.finish()
            case "error":
                error = an_object(value.get("error"))
                words = word(error.get("message")) or message_of(sent.data)
                raise self._upstream.error_of_type(word(error.get("type")), words)
        return []

    def finish(self) -> list[Event]:
        """Return the last events, after message_stop or at the end of the stream. Raises ProviderError if the
        answer is not complete.
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
                return {}  # the stream broke off within this event; `finish` reports it
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
        prefill_s = self._began_at - self._sent_at
        return [Started(0, 0.0, prefill_s, usage.prompt_tokens, usage.cached_tokens)]

    def _message(self, message: Object) -> list[Event]:
        """Read a whole message that came instead of a stream."""
        found = self._start(message)
        for index, block in enumerate(objects(message.get("content"))):
            found += self._begin(index, block)
            found += self._end(index)
        self._set_reason(message)
        self._reason = self._reason or "end_turn"
        return found + self.finish()

    def _set_reason(self, body: Object) -> None:
        self._reason = word(body.get("stop_reason")) or self._reason
        self.stop = word(body.get("stop_sequence")) or self.stop

    def _begin(self, index: int | None, block: Object) -> list[Event]:
        kind, at = block.get("type"), -1 if index is None else index
        self._is_begun = self._is_begun or kind is not None
        if self._is_repeated(at, block):
            return []
        found = self._end(at)  # some providers leave out content_block_stop
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
        """Whether a block repeats the start of an open call."""
        open_block = self._blocks.get(at)
        is_call = isinstance(open_block, _ToolUse) and block.get("type") == "tool_use"
        return is_call and bool(open_block.id) and open_block.id == word(block.get("id"))  # type: ignore[union-attr]

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
        """Close a block; return a signed thought, or the arguments of a call that came without deltas."""
        block = self._blocks.pop(-1 if index is None else index, None)
        if isinstance(block, _Thinking) and block.signature is not None:
            return list(self._said.thought(Thought(valid("".join(block.pieces)), block.signature)))
        if isinstance(block, _ToolUse) and not block.has_arguments:
            return list(self._said.call(index, "", "", dumped(block.whole)))
        return []


def _kind(value: Object, sent: ServerSentEvent) -> str:
    """The type of an event, or of a JSON body that came instead of a stream."""
    kind = word(value.get("type")) or sent.event
    if not kind and value.get("error"):
        return "error"
    return kind or ("message" if sent.is_whole and "content" in value else "")


def _text(of: Object, name: str) -> str:
    """A text, which may end with half of a surrogate pair; "" if there is none."""
    found = of.get(name)
    return found if isinstance(found, str) else ""
