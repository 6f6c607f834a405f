"""Inspects an answer in Anthropic's dialect while it is relayed: errors, usage, its end. Converts one from a
stream into one message, and back; unknown members and blocks stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import StringIO

from headrace.backends.answer import BLANK, object_in
from headrace.backends.anthropic.answer import Answer, blocks_in, error_in, kind_of
from headrace.backends.choice import finish_reason, is_broken
from headrace.backends.http import Upstream
from headrace.backends.relay_reader import RelayReader
from headrace.backends.sse import ServerSentEvent
from headrace.dialects.anthropic import STOP_REASONS, counts_in, tool_input, usage_of
from headrace.dialects.openai import is_done
from headrace.dialects.values import Object, an_object, count, dumped, word
from headrace.errors import ProviderError, ServerError
from headrace.types import Event, ReasoningDelta, TextDelta, ToolCallDelta, Usage

HEAD = ("id", "type", "role", "model")  # members of a message that message_start contains
READ = ("text", "thinking", "redacted_thinking", "tool_use")  # types of blocks that Answer reads
WRITTEN = {"text": "text", "thinking": "thinking"}  # type of block → its member with text
REASONS = (
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal",
    "model_context_window_exceeded",
)  # fmt: skip
# type of delta → the delta's member, and the block's member that it extends
DELTAS = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("signature", "signature"),
    "input_json_delta": ("partial_json", "input"),
}
EMPTY = ("text", "thinking")  # types of blocks that start without content
WITH_CONTENT = ("content_block_delta", "message_delta", "message_stop")  # types of events


class AnthropicRelayReader(RelayReader):
    """A stream is complete with message_stop or, as for Anthropic's own clients, once a message_delta has a
    stop reason. An event's type counts, and its name only where it has none.
    """

    notable = (b"error", b"message_stop", b'"detail"', b'"code"')
    reason = re.compile(rb'"stop_reason"\s*:\s*"')
    last_word = b"message_stop"
    last = re.compile(rb'(?:^|[\r\n])event: ?message_stop *[\r\n]+data: ?\{\s*"type"\s*:\s*"message_stop"')

    part = re.compile(rb"content_block|message_delta")

    def __init__(self, upstream: Upstream, endpoint: str = "/messages") -> None:
        super().__init__(upstream)
        self._is_count = endpoint.endswith("/count_tokens")

    def is_odd(self, beginning: bytes) -> bool:
        """Clients read no event without its name."""
        return beginning.lstrip(BLANK).startswith(b"data:") or super().is_odd(beginning)

    def framed(self, sent: ServerSentEvent) -> bytes:
        value = {} if is_done(sent.data) else object_in(self.provider, sent) or {}
        return super().framed(replace(sent, event=sent.event or kind_of(value, sent)))

    @property
    def member(self) -> str:
        return "input_tokens" if self._is_count else "content"

    def is_answer(self, value: object) -> bool:
        return count(value) is not None if self._is_count else isinstance(value, str | list | dict)

    def reasons(self, members: Object) -> list[str]:
        return [word(members.get("stop_reason"))]

    def is_readable(self, sent: ServerSentEvent) -> bool:
        """Clients read those events only that are named errors, and say so in their type, too."""
        return sent.event == "error" and b'"type"' in sent.data.encode() and super().is_readable(sent)

    def usage(self, members: Object) -> Usage | None:
        counts = counts_in(members)
        return usage_of(counts) if counts else None

    def error_in(self, sent: ServerSentEvent, value: Object) -> ServerError | None:
        return error_in(self.upstream, sent, value)

    def content_in(self, sent: ServerSentEvent, value: Object) -> bool:
        """Whether an event has text, reasoning, a call or a stop reason."""
        kind = kind_of(value, sent)
        if kind == "content_block_start":
            return an_object(value.get("content_block")).get("type") not in EMPTY
        if kind == "content_block_delta" and isinstance(value.get("delta"), dict):
            return any(member for name, member in value["delta"].items() if name != "type")
        return kind in WITH_CONTENT

    def follow(self, sents: Sequence[ServerSentEvent]) -> None:
        self.is_over = self.is_over or any(map(self._completes, sents))

    def _completes(self, sent: ServerSentEvent) -> bool:
        try:
            value = object_in(self.provider, sent)
        except ProviderError:
            return False
        if value is None:
            return False
        kind, reason = kind_of(value, sent), word(an_object(value.get("delta")).get("stop_reason"))
        if is_broken(reason):
            raise ProviderError(f"{self.provider} failed in the middle of its answer")
        if kind == "message_stop" and not self.has_part:
            raise self.cut()
        return kind == "message_stop" or (kind == "message_delta" and bool(reason))

    def folded(self, sents: Sequence[ServerSentEvent]) -> bytes:
        return folded(self.upstream, sents)

    def unfolded(self, whole: Object) -> bytes:
        return unfolded(whole)


class _Message:
    """Builds a message from its events: from the neutral events of Answer, and from blocks and members that
    Answer skips.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._provider, self._answer = upstream.provider, Answer(upstream)
        self._head: Object = {}
        self._usage: Object = {}
        self._blocks: list[Object] = []
        self._texts: list[StringIO] = []  # of each block
        self._calls: dict[int, int] = {}  # index of a call → place of its block
        self._others: dict[int | None, int] = {}  # index of a skipped block → place

    def push(self, sent: ServerSentEvent) -> None:
        """Add an event to the message. Raises ServerError."""
        if self._answer.is_over:
            return
        self._write(self._answer.read(sent))
        if is_done(sent.data):
            return
        value = an_object(object_in(self._provider, sent))
        index = count(value.get("index"))
        match kind_of(value, sent):
            case "message_start":
                message = an_object(value.get("message"))
                self._head = self._head or {name: message[name] for name in HEAD if name in message}
                self._usage |= an_object(message.get("usage"))
            case "content_block_start":
                block = an_object(value.get("content_block"))
                if block and isinstance(kind := block.get("type", "text"), str) and kind not in READ:
                    self._others[index] = self._add({**block})
            case "content_block_delta":
                self._delta(index, an_object(value.get("delta")))
            case "message_delta":
                self._usage |= an_object(value.get("usage"))

    def body(self) -> Object:
        """Return the message. Raises ProviderError if the stream broke off."""
        self._write(self._answer.end())
        for block, text in zip(self._blocks, self._texts, strict=True):
            if block["type"] in WRITTEN:
                block[WRITTEN[block["type"]]] = text.getvalue()
            elif text.getvalue():
                block["input"] = tool_input(text.getvalue())
        usage = {**self._usage, "input_tokens": 0, "output_tokens": 0, **self._answer.counts}
        head = {"type": "message", "role": "assistant", **self._head}
        stop = {"stop_reason": self._reason(), "stop_sequence": self._answer.choice.stop}
        return {**head, "content": self._blocks, **stop, "usage": usage}

    def _reason(self) -> str:
        """The provider's stop reason, corrected where it contradicts the presence of calls."""
        has_calls, reason = bool(self._calls), self._answer.choice.reason or ""
        if reason not in REASONS:
            reason = STOP_REASONS[finish_reason(reason, has_calls=has_calls)]
        if has_calls and reason in ("end_turn", "stop_sequence", "pause_turn"):
            return "tool_use"
        return "end_turn" if reason == "tool_use" and not has_calls else reason

    def _write(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, TextDelta):
                self._texts[self._last("text", {"citations": None})].write(event.text)
            elif isinstance(event, ReasoningDelta):
                self._think(event)
            elif isinstance(event, ToolCallDelta):
                if event.name is not None:
                    block: Object = {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}
                    self._calls[event.call] = self._add(block)
                self._texts[self._calls[event.call]].write(event.arguments)

    def _think(self, event: ReasoningDelta) -> None:
        if event.thought is not None and event.thought.redacted is not None:
            self._add({"type": "redacted_thinking", "data": event.thought.redacted})
            return
        place = self._last("thinking", {"signature": ""})
        self._texts[place].write(event.text)
        if event.thought is not None:
            self._blocks[place]["signature"] = event.thought.signature or ""

    def _delta(self, index: int | None, delta: Object) -> None:
        """Add a delta that Answer skips."""
        place = self._others.get(index)
        if place is not None and isinstance(delta.get("partial_json"), str):
            self._texts[place].write(delta["partial_json"])
        elif delta.get("type") == "citations_delta" and self._blocks and self._blocks[-1]["type"] == "text":
            self._blocks[-1]["citations"] = self._blocks[-1]["citations"] or []
            self._blocks[-1]["citations"].append(delta.get("citation"))

    def _last(self, kind: str, members: Object) -> int:
        """The place of the last block if it is open and of this kind, else of a new one."""
        last = self._blocks[-1] if self._blocks else {}
        is_open = last.get("type") == kind and not last.get("signature")
        return len(self._blocks) - 1 if is_open else self._add({"type": kind, **members})

    def _add(self, block: Object) -> int:
        self._blocks.append(block if isinstance(block.get("type"), str) else {**block, "type": "unknown"})
        self._texts.append(StringIO())
        return len(self._blocks) - 1


def folded(upstream: Upstream, sents: Sequence[ServerSentEvent]) -> bytes:
    """Convert a stream into a JSON body. Raises ServerError if it contains an error or breaks off."""
    message = _Message(upstream)
    for sent in sents:
        message.push(sent)
    return dumped(message.body()).encode()


def unfolded(message: Object) -> bytes:
    """Convert a message into a stream."""
    return "".join(
        f"event: {value['type']}\ndata: {dumped(value)}\n\n" for value in _events(message)
    ).encode()


def _events(message: Object) -> Iterator[Object]:
    blocks = blocks_in(message)
    ended = {name: message.get(name) for name in ("stop_reason", "stop_sequence")}
    has_calls = any(block.get("type") == "tool_use" for block in blocks)
    reason = ended["stop_reason"] or ("tool_use" if has_calls else "end_turn")
    head = {**message, "content": [], "stop_reason": None, "stop_sequence": None}
    yield {"type": "message_start", "message": head}
    for index, block in enumerate(blocks):
        yield from _block(index, block)
    delta = {**ended, "stop_reason": reason}
    yield {"type": "message_delta", "delta": delta, "usage": an_object(message.get("usage"))}
    yield {"type": "message_stop"}


def _block(index: int, block: Object) -> Iterator[Object]:
    empty, deltas = {**block}, list[Object]()
    for type, (name, member) in DELTAS.items():
        value = block.get(member)
        if isinstance(value, str) and value:
            empty[member] = ""
            deltas.append({"type": type, name: value})
        elif member == "input" and value and block.get("type") == "tool_use":
            empty[member] = {}
            deltas.append({"type": type, name: dumped(value)})
    yield {"type": "content_block_start", "index": index, "content_block": empty}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}
