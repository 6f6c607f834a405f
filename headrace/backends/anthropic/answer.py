"""Reads Anthropic's event stream as neutral events of one choice. Events, blocks and deltas of unknown types
are skipped, as Anthropic's documentation requires of clients.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from headrace.backends.answer import object_in
from headrace.backends.body_decoding import Budget
from headrace.backends.calls import CallPiece, arguments_text
from headrace.backends.choice import ChoiceAssembler, all_text, is_broken, log_left_out
from headrace.backends.error_body import error_body, is_error
from headrace.backends.http import Upstream
from headrace.backends.sse import ServerSentEvent
from headrace.dialects.anthropic import STATUS_OF_TYPE, counts_in, usage_of
from headrace.dialects.openai import is_done
from headrace.dialects.values import Object, an_object, count, objects, valid, word
from headrace.errors import ProviderError, ServerError
from headrace.types import Event, Started, TextDelta, Thought

# a member of a delta → the delta's type, for deltas that have none
TYPES = {"text": "text_delta", "thinking": "thinking_delta", "partial_json": "input_json_delta"}
SKIPPED = ("citations_delta", "signature_delta", "input_json_delta")  # deltas that need not be of a block


@dataclass(slots=True)
class _Thinking:
    """A block of thinking that has not been passed on whole."""

    pieces: list[str] = field(default_factory=list)
    signature: str | None = None
    is_closed: bool = False


@dataclass(slots=True)
class _ToolUse:
    """An open tool_use block. `whole`: arguments that its start event contained."""

    id: str
    whole: str
    has_arguments: bool


@dataclass(slots=True)
class _Text:
    """An open block of text. `start`: where it begins in the text of the answer, in characters."""

    start: int
    citations: list[Object] = field(default_factory=list)


class Answer:
    """Reads one answer: an AnswerReader."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._sent_at = self._began_at = time.monotonic()
        self._budget = Budget(upstream.provider)
        self.choice = ChoiceAssembler(upstream.provider, 0, self._budget)
        # Some providers interleave two: all but the first wait, so that each is one piece.
        self._thinking: list[_Thinking] = []
        # index → open block; None: one of an unknown kind, whose deltas are skipped
        self._blocks: dict[int | None, _Thinking | _ToolUse | _Text | None] = {}
        self._early: set[int | None] = set()  # indexes of arguments that preceded their block
        self.counts: dict[str, int] = {}  # token counts so far
        self._is_started = False
        self._num_chars = 0  # of the text so far
        self._has_content = False  # an event after message_start has arrived
        self.is_over = False

    @property
    def is_complete(self) -> bool:
        return self.choice.reason is not None  # which comes after the content

    def read(self, sent: ServerSentEvent) -> list[Event]:
        if is_done(sent.data):  # some proxies send it, also in place of message_stop
            self.is_over = self.is_over or self.choice.reason is not None
            return []
        value = None if self.is_over else object_in(self._upstream.provider, sent)
        if value is None:
            return []
        if error := error_in(self._upstream, sent, value):
            raise error
        match kind_of(value, sent):
            case "message_start":
                return self._start(an_object(value.get("message")))
            case "message":
                return self._message(value)
            case "content_block_start":
                return self._begin(count(value.get("index")), an_object(value.get("content_block")))
            case "content_block_delta":
                return self._delta(count(value.get("index")), value.get("delta"))
            case "content_block_stop":
                return self._end(count(value.get("index")))
            case "message_delta":
                self._has_content = True
                self.counts = counts_in(value.get("usage"), self.counts)
                self._set_reason({**value, **an_object(value.get("delta"))})
            case "message_stop":
                self.counts = counts_in(value.get("usage"), self.counts)
                self.choice.set_reason("end_turn" if self._has_content else "")
                self.is_over = True
        return []

    def end(self) -> list[Event]:
        if self.choice.reason is None:
            raise ProviderError(f"{self._upstream.provider} ended the answer in the middle")
        events = [event for index in list(self._blocks) for event in self._end(index)]
        events += self.choice.end()
        self.is_over = True
        return [*events, self.choice.finished(usage_of(self.counts), time.monotonic() - self._began_at)]

    def _start(self, message: Object) -> list[Event]:
        self.counts = counts_in(message.get("usage"), self.counts)
        if self._is_started:
            return []
        self._is_started, self._began_at = True, time.monotonic()
        usage = usage_of(self.counts)
        prefill_s = self._began_at - self._sent_at
        return [Started(0, 0.0, prefill_s, usage.prompt_tokens, usage.cached_tokens)]

    def _message(self, message: Object) -> list[Event]:
        """Read a whole message that came instead of a stream."""
        events = self._start(message)
        for index, block in enumerate(blocks_in(message)):
            events += self._begin(index, block)
            events += self._end(index)
        self._set_reason(message)
        self.choice.set_reason("end_turn")
        self.is_over = True
        return events

    def _set_reason(self, body: Object) -> None:
        reason = word(body.get("stop_reason"))
        if is_broken(reason):
            raise ProviderError(f"{self._upstream.provider} failed in the middle of its answer")
        self.choice.reason = reason or self.choice.reason
        self.choice.stop = word(body.get("stop_sequence")) or self.choice.stop

    def _begin(self, index: int | None, block: Object) -> list[Event]:
        kind = block.get("type")
        self._has_content = self._has_content or kind is not None
        if self._is_repeated(index, block):
            return []
        events = self._end(index)  # some providers leave out content_block_stop
        match kind:
            case "text" | None:
                text = self._blocks[index] = _Text(self._num_chars)
                self._cite(text, objects(block.get("citations")))
                events += self._say(self._text(block, "text"))
            case "thinking":
                opened = _Thinking(signature=word(block.get("signature")) or None)
                self._blocks[index] = opened
                self._thinking.append(opened)
                events += self._think(opened, self._text(block, "thinking"))
            case "redacted_thinking":
                events += self.choice.add_thought(Thought(redacted=word(block.get("data"))))
            case "tool_use":
                id, name = word(block.get("id")), word(block.get("name"))
                is_early = index in self._early
                self._blocks[index] = _ToolUse(id, arguments_text(block.get("input")), is_early)
                events += self.choice.add_call(CallPiece(index, id, name, ""))
            case _:
                log_left_out(self._upstream.provider, f"a block of type {word(kind)[:50]!r}")
                self._blocks[index] = None
        return events

    def _is_repeated(self, index: int | None, block: Object) -> bool:
        """Whether a block repeats the start of an open call."""
        open_block, id = self._blocks.get(index), word(block.get("id"))
        if not isinstance(open_block, _ToolUse) or block.get("type") != "tool_use":
            return False
        return bool(id) and open_block.id == id

    def _delta(self, index: int | None, sent: object) -> list[Event]:
        block = self._blocks.get(index)
        if block is None and index in self._blocks:
            return []
        delta = sent if isinstance(sent, dict) else {"text": sent}
        match kind := delta.get("type", next((TYPES[name] for name in TYPES if name in delta), None)):
            case "text_delta":
                return self._say(self._text(delta, "text"))
            case "thinking_delta":
                text = self._text(delta, "thinking") or self._text(delta, "text")
                if isinstance(block, _Thinking):
                    return self._think(block, text)
                return list(self.choice.add_reasoning(text))
            case "citations_delta" if isinstance(block, _Text):
                self._cite(block, [an_object(delta.get("citation"))])
            case "signature_delta" if isinstance(block, _Thinking):
                block.signature = word(delta.get("signature"))
            case "input_json_delta" if part := arguments_text(delta.get("partial_json")):
                if isinstance(block, _ToolUse):
                    block.has_arguments = True
                else:
                    self._early.add(index)
                return list(self.choice.add_call(CallPiece(index, "", "", part)))
            case _ if kind not in SKIPPED:
                log_left_out(self._upstream.provider, f"a delta of type {word(kind)[:50]!r}")
        return []

    def _text(self, of: Object, name: str) -> str:
        """A text, which may end with half of a surrogate pair; "" if there is none."""
        return all_text(self._upstream.provider, of.get(name))

    def _end(self, index: int | None) -> list[Event]:
        """Close a block; return a signed thought, or the arguments of a call that came without deltas."""
        block = self._blocks.pop(index, None)
        if isinstance(block, _Text):
            place = {"start_index": block.start, "end_index": self._num_chars}
            self.choice.add_annotations(
                [{"type": "url_citation", "url_citation": {**place, **cited}} for cited in block.citations]
            )
        if isinstance(block, _Thinking):
            block.is_closed = True
            return self._next_thoughts()
        if isinstance(block, _ToolUse) and not block.has_arguments:
            return list(self.choice.add_call(CallPiece(index, "", "", block.whole or "{}")))
        return []

    def _say(self, text: str) -> list[Event]:
        events = list(self.choice.add_text(text))
        self._num_chars += sum(len(event.text) for event in events if isinstance(event, TextDelta))
        return events

    def _cite(self, block: _Text, citations: list[Object]) -> None:
        """Keep the citations that have an address: OpenAI's dialect has no place for others."""
        for citation in citations:
            url = word(citation.get("url")) or word(citation.get("source"))
            if url.startswith(("https://", "http://")):
                title = word(citation.get("title"))
                self._budget.spend(len(url) + len(title))
                block.citations.append({"url": valid(url), "title": valid(title)})

    def _think(self, block: _Thinking, text: str) -> list[Event]:
        block.pieces.append(text)
        if block is self._thinking[0]:
            return list(self.choice.add_reasoning(text))
        self._budget.spend(len(text))
        return []

    def _next_thoughts(self) -> list[Event]:
        """Complete the first block if it is closed, and pass on what waited for that."""
        events: list[Event] = []
        while self._thinking and self._thinking[0].is_closed:
            done = self._thinking.pop(0)
            if done.signature is not None:
                events += self.choice.add_thought(Thought(valid("".join(done.pieces)), done.signature))
            if self._thinking:
                events += self.choice.add_reasoning("".join(self._thinking[0].pieces))
        return events


def kind_of(value: Object, sent: ServerSentEvent) -> str:
    """The type of an event, or of a JSON body that came instead of a stream."""
    kind = word(value.get("type")) or sent.event
    if not kind and (value.get("error") or is_error(value)):
        return "error"
    return kind or ("message" if sent.is_whole and "content" in value else "")


def error_in(upstream: Upstream, sent: ServerSentEvent, value: Object) -> ServerError | None:
    """The provider's error in an event, if there is one. It has a type but no status."""
    if kind_of(value, sent) != "error":
        return None
    error = an_object(value.get("error"))
    type, message = word(error.get("type")), word(error.get("message")) or error_body(sent.data).message
    message = message or type or ("" if value else valid(sent.data))
    return upstream.error(STATUS_OF_TYPE.get(type, 500), message, type=type)


def blocks_in(message: Object) -> list[Object]:
    """The content of a whole message: a list of blocks, one block, or texts."""
    content = message.get("content")
    blocks = content if isinstance(content, list) else [content]
    known = (block for block in blocks if block is not None)
    return [block if isinstance(block, dict) else {"type": "text", "text": block} for block in known]
