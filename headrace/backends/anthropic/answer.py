"""Anthropic's event stream as neutral events of one choice. Events, blocks and deltas of unknown types are
passed over, as its documentation asks.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from headrace.backends.anthropic.upstream import AnthropicUpstream
from headrace.backends.http import Sent
from headrace.errors import ProviderError
from headrace.types import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    Thought,
    ToolCallDelta,
    Usage,
)

REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")


@dataclass(slots=True)
class _Thinking:
    """A block of thinking that has begun."""

    text: str = ""
    signature: str | None = None


@dataclass(slots=True)
class _ToolUse:
    """A call that has begun. `call`: its place among the calls, which is not its place among the blocks."""

    call: int
    whole: dict[str, Any]  # arguments that came with its beginning
    has_arguments: bool = False


class Answer:
    """One answer as it comes; `push` raises ServerError for an error in it, and for nonsense."""

    def __init__(self, upstream: AnthropicUpstream) -> None:
        self._upstream = upstream
        self._asked_at = self._began_at = time.monotonic()
        self._blocks: dict[int, _Thinking | _ToolUse] = {}  # by their index, while they run
        self._num_calls = 0
        self._counts: dict[str, int] = {}
        self._reason: str | None = None
        self._stop: str | None = None
        self.is_finished = False

    def push(self, sent: Sent) -> list[Event]:
        value = self._upstream.loads(sent.data)
        if not isinstance(value, dict):
            raise ProviderError(f"{self._upstream.provider} sent an event that is no JSON object")
        match value.get("type", sent.event):
            case "message_start":
                return self._start(_object(value, "message"))
            case "content_block_start":
                return self._begin(_index(value), _object(value, "content_block"))
            case "content_block_delta":
                return self._delta(_index(value), _object(value, "delta"))
            case "content_block_stop":
                return self._end(_index(value))
            case "message_delta":
                self._count(_object(value, "usage"))
                delta = _object(value, "delta")
                self._reason = _text(delta, "stop_reason") or self._reason
                self._stop = _text(delta, "stop_sequence") or self._stop
                return []
            case "message_stop":
                return self.finish()
            case "error":
                error = _object(value, "error")
                raise self._upstream.error_of_type(_text(error, "type"), _text(error, "message"))
        return []

    def finish(self) -> list[Event]:
        """The last event: on message_stop, or when the stream ends without one. Raises ProviderError if the
        answer was not complete by then.
        """
        if self._reason is None:
            raise ProviderError(f"{self._upstream.provider} ended the answer in the middle")
        self.is_finished = True
        reason = REASONS.get(self._reason, "stop")
        decode_s = time.monotonic() - self._began_at
        return [Finished(0, reason, self._usage(), decode_s, stop=self._stop)]

    def _start(self, message: dict[str, Any]) -> list[Event]:
        self._began_at = time.monotonic()
        self._count(_object(message, "usage"))
        usage = self._usage()
        prefill_s = self._began_at - self._asked_at
        return [Started(0, 0.0, prefill_s, usage.prompt_tokens, usage.cached_tokens)]

    def _begin(self, index: int, block: dict[str, Any]) -> list[Event]:
        match block.get("type"):
            case "text":
                text = _text(block, "text")
                return [TextDelta(0, text)] if text else []
            case "thinking":
                text = _text(block, "thinking")
                self._blocks[index] = _Thinking(text, _text(block, "signature") or None)
                return [ReasoningDelta(0, text)] if text else []
            case "redacted_thinking":
                return [ReasoningDelta(0, "", thought=Thought(redacted=_text(block, "data")))]
            case "tool_use":
                tool = self._blocks[index] = _ToolUse(self._num_calls, _object(block, "input"))
                self._num_calls += 1
                return [ToolCallDelta(0, tool.call, id=_text(block, "id"), name=_text(block, "name"))]
        return []

    def _delta(self, index: int, delta: dict[str, Any]) -> list[Event]:
        block = self._blocks.get(index)
        match delta.get("type"):
            case "text_delta":
                text = _text(delta, "text")
                return [TextDelta(0, text)] if text else []
            case "thinking_delta" if isinstance(block, _Thinking):
                text = _text(delta, "thinking")
                block.text += text
                return [ReasoningDelta(0, text)] if text else []
            case "signature_delta" if isinstance(block, _Thinking):
                block.signature = _text(delta, "signature")
            case "input_json_delta" if isinstance(block, _ToolUse):
                part = _text(delta, "partial_json")
                block.has_arguments |= bool(part)
                return [ToolCallDelta(0, block.call, part)] if part else []
        return []

    def _end(self, index: int) -> list[Event]:
        """What is complete with its block: a thought, and arguments that did not come in pieces."""
        block = self._blocks.pop(index, None)
        if isinstance(block, _Thinking) and block.signature is not None:
            return [ReasoningDelta(0, "", thought=Thought(block.text, block.signature))]
        if isinstance(block, _ToolUse) and not block.has_arguments:
            return [ToolCallDelta(0, block.call, json.dumps(block.whole, ensure_ascii=False))]
        return []

    def _count(self, usage: dict[str, Any]) -> None:
        """Counts are cumulative, and split over events: what one leaves out, another told."""
        told = {name: usage[name] for name in COUNTS if isinstance(usage.get(name), int)}
        thought = _object(usage, "output_tokens_details").get("thinking_tokens")
        self._counts |= told | ({"thinking_tokens": thought} if isinstance(thought, int) else {})

    def _usage(self) -> Usage:
        sent, written, read, answered = (self._counts.get(name, 0) for name in COUNTS)
        return Usage(
            prompt_tokens=sent + written + read,
            completion_tokens=answered,
            cached_tokens=read,
            reasoning_tokens=self._counts.get("thinking_tokens", 0),
            cache_write_tokens=written,
            is_known=bool(self._counts),
        )


def _index(of: dict[str, Any]) -> int:
    """Of the block that an event is about; -1: it does not say."""
    found = of.get("index")
    return found if isinstance(found, int) else -1


def _object(of: dict[str, Any], name: str) -> dict[str, Any]:
    found = of.get(name)
    return found if isinstance(found, dict) else {}


def _text(of: dict[str, Any], name: str) -> str:
    found = of.get(name)
    return found if isinstance(found, str) else ""
