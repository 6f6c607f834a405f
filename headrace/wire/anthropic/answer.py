"""Writes neutral events in Anthropic's dialect: as one message, or as the events of a stream. Also
its list of models: pages of 20 by default, before or after an id.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from headrace.collected import Choice, Collected
from headrace.dialects import anthropic as dialect
from headrace.errors import BadRequest, ProviderError
from headrace.steering.types import Activations
from headrace.types import (
    Event,
    Finished,
    FinishReason,
    ModelInfo,
    ReasoningDelta,
    Started,
    TextDelta,
    Thought,
    ToolCallDelta,
    Usage,
)
from headrace.wire.activations import NOTHING, SteeringAnswer, inside
from headrace.wire.anthropic.tool_input import ToolInput
from headrace.wire.call_order import CallOrder, Content
from headrace.wire.generation import dump
from headrace.wire.limits import whole
from headrace.wire.models import rfc3339
from headrace.wire.steering import SteeringMembers

Kind = Literal["text", "thinking", "tool_use"]

USUAL, MOST = 20, 1000  # entries of a page


class Caller(TypedDict):
    type: Literal["direct"]


class AnsweredText(TypedDict):
    type: Literal["text"]
    text: str
    citations: None


class ToolUse(TypedDict):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    caller: Caller


AnsweredBlock = dialect.SignedThinking | dialect.RedactedThinking | AnsweredText | ToolUse


class UsageOfDelta(dialect.TokenCounts):
    server_tool_use: None


class UsageOfMessage(UsageOfDelta):
    cache_creation: None
    inference_geo: None
    service_tier: None


class Ending(TypedDict):
    """How a message ended; in the first event of a stream all of it is null."""

    stop_reason: dialect.StopReason | None
    stop_sequence: Annotated[
        str | None, Field(description="Null, too, where a provider does not tell which it was.")
    ]
    stop_details: None
    container: None


class Beginning(TypedDict):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str


class AnsweredMessage(Beginning, Ending, SteeringAnswer):
    """The answer when `stream` is false."""

    content: list[AnsweredBlock]
    usage: UsageOfMessage


class TokenCount(TypedDict):
    input_tokens: int


NO_ENDING: Ending = {"stop_reason": None, "stop_sequence": None, "stop_details": None, "container": None}
DIRECT: Caller = {"type": "direct"}  # the model itself calls a tool, not a program that it wrote


def message(info: ModelInfo, collected: Collected, body: SteeringMembers | None = None) -> AnsweredMessage:
    choice = collected.choices.get(0, Choice())
    return {
        **_head(info),
        "content": list(_blocks(choice)),
        **_ended(choice.reason, choice.stop),
        "usage": _usage_of_message(choice.usage),
        **inside(body, choice.activations, choice.receipt),
    }


def frame(type: str, **members: Any) -> str:
    """The bytes of one event of a stream, as text."""
    return f"event: {type}\ndata: {dump({'type': type, **members})}\n\n"


class Frames:
    """Writes an answer as a stream of Anthropic's events: one block after the other, each as a start, deltas
    and a stop.
    """

    def __init__(self, info: ModelInfo, body: SteeringMembers | None = None) -> None:
        self._body = body
        self._activations: list[Activations] = []
        self._head: Beginning | None = _head(info)  # until it is sent
        self._index = -1  # of the last block that was opened
        self._open: Kind | None = None
        self._call: int | None = None  # the index of the open call
        self._input = ToolInput()  # of the open call
        self._order = CallOrder()
        self._thoughts: list[str] = []  # reasoning since the last complete thought

    def first(self) -> list[str]:
        return []  # message_start contains the prompt's tokens, which the first event has

    def event(self, event: Event) -> list[str]:
        return [*self._start(event), *self._frames(event)]

    def last(self) -> list[str]:
        return [frame("message_stop")]

    def _start(self, event: Event) -> Iterator[str]:
        if self._head is not None:
            usage = Usage(0, 0)
            if isinstance(event, Started):
                usage = Usage(event.prompt_tokens, 0, event.cached_tokens)
            message: AnsweredMessage = {
                **self._head,
                "content": [],
                **NO_ENDING,
                "usage": _usage_of_message(usage),
                **NOTHING,
            }
            yield frame("message_start", message=message)
            self._head = None

    def _frames(self, event: Event) -> Iterator[str]:
        if not isinstance(event, Started):
            self._activations += event.activations
        if isinstance(event, Finished):
            for rest in self._order.rest():
                yield from self._written(rest)
            yield from self._close()
            delta, usage = _ended(event.reason, event.stop), _usage(event.usage)
            more = inside(self._body, self._activations, event.receipt)
            yield frame("message_delta", delta=delta, usage=usage, **more)
        elif not isinstance(event, Started):
            for ordered in self._order.push(event):
                yield from self._written(ordered)

    def _written(self, event: Content) -> Iterator[str]:
        if isinstance(event, TextDelta):
            if event.text:
                yield from self._in({"type": "text", "text": "", "citations": None})
                yield self._delta("text_delta", text=event.text)
        elif isinstance(event, ReasoningDelta):
            yield from self._thinking(event)
        else:
            yield from self._calling(event)

    def _thinking(self, event: ReasoningDelta) -> Iterator[str]:
        if event.text:
            yield from self._in({"type": "thinking", "thinking": "", "signature": ""})
            yield self._delta("thinking_delta", thinking=event.text)
            self._thoughts.append(event.text)
        if event.thought is not None:
            yield from self._thought(event.thought)

    def _thought(self, thought: Thought) -> Iterator[str]:
        """Write a complete thought. Its text was streamed before, unless the provider returns none."""
        if thought.redacted is not None:
            yield from self._close()
            yield self._begin("thinking", dialect.thinking_block(thought))
        else:
            yield from self._in({"type": "thinking", "thinking": "", "signature": ""})
            # Some providers interleave two thoughts. Half a character in each was written as a whole one.
            if thought.text.strip("\N{REPLACEMENT CHARACTER}") not in "".join(self._thoughts):
                yield self._delta("thinking_delta", thinking=thought.text)
            if thought.signature is not None:
                yield self._delta("signature_delta", signature=thought.signature)
        self._thoughts.clear()
        yield from self._close()

    def _calling(self, event: ToolCallDelta) -> Iterator[str]:
        if event.name is not None:
            yield from self._close()
            yield self._begin("tool_use", _tool_use(event.id or "", event.name, {}))
            self._call, self._input = event.call, ToolInput()
        if event.arguments:
            if self._open != "tool_use" or self._call != event.call:
                raise ProviderError("a call went on after it had ended")
            if piece := self._input.push(event.arguments):
                yield self._delta("input_json_delta", partial_json=piece)

    def _in(self, empty: AnsweredText | dialect.SignedThinking) -> Iterator[str]:
        """Begin this block, and end the open one, unless a block of its type is open already."""
        if self._open != empty["type"]:
            yield from self._close()
            yield self._begin(empty["type"], empty)

    def _begin(self, type: Kind, block: AnsweredBlock) -> str:
        self._open, self._index = type, self._index + 1
        return frame("content_block_start", index=self._index, content_block=block)

    def _delta(self, type: str, **members: str) -> str:
        return frame("content_block_delta", index=self._index, delta={"type": type, **members})

    def _close(self) -> Iterator[str]:
        if self._open == "tool_use" and (rest := self._input.end()):
            yield self._delta("input_json_delta", partial_json=rest)
        if self._open is not None:
            self._open = None
            yield frame("content_block_stop", index=self._index)


def _ended(reason: FinishReason, stop: str | None) -> Ending:
    if reason == "stop" and stop is not None:
        return {**NO_ENDING, "stop_reason": "stop_sequence", "stop_sequence": stop}
    return {**NO_ENDING, "stop_reason": dialect.STOP_REASONS[reason]}


def _head(info: ModelInfo) -> Beginning:
    return {"id": f"msg_{secrets.token_hex(12)}", "type": "message", "role": "assistant", "model": info.id}


def _usage(usage: Usage | None) -> UsageOfDelta:
    """Write a usage. Clients require these numbers: they are zeros if the usage is unknown."""
    return {**dialect.usage_body(usage or Usage(0, 0)), "server_tool_use": None}


def _usage_of_message(usage: Usage | None) -> UsageOfMessage:
    return {**_usage(usage), "cache_creation": None, "inference_geo": None, "service_tier": None}


def _tool_use(id: str, name: str, input: dict[str, Any]) -> ToolUse:
    return {"type": "tool_use", "id": id, "name": name, "input": input, "caller": DIRECT}


def _blocks(choice: Choice) -> Iterator[AnsweredBlock]:
    yield from map(dialect.thinking_block, _thoughts(choice))
    if choice.text:
        yield {"type": "text", "text": choice.text, "citations": None}
    for call in choice.calls:
        yield _tool_use(call.id, call.name, dialect.tool_input(call.arguments))


def _thoughts(choice: Choice) -> Sequence[Thought]:
    """The signed thoughts, after the reasoning that is not part of them."""
    signed = "".join(thought.text for thought in choice.thoughts)
    if not choice.reasoning or choice.reasoning == signed:
        return choice.thoughts
    if choice.reasoning.endswith(signed):
        return [Thought(choice.reasoning.removesuffix(signed)), *choice.thoughts]
    # signed and unsigned thoughts alternate: keep all text once, without the signatures
    return [Thought(choice.reasoning), *(thought for thought in choice.thoughts if thought.redacted)]


def model(info: ModelInfo) -> dict[str, Any]:
    return {
        "type": "model",
        "id": info.id,
        "display_name": info.id,
        "created_at": rfc3339(info.created),
        "lifecycle": "active",
        "line": None,
        "max_input_tokens": info.max_model_len,
        "max_tokens": info.max_model_len,
        "capabilities": None,
        "deprecated_at": None,
        "retires_at": None,
    }


def page(infos: list[ModelInfo], query: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """A page of the list. `query`: names and values; unknown names are ignored. Raises BadRequest."""
    requested = list(query)
    values = dict(requested)
    limit = _limit(values.get("limit"))
    stages = {
        stage for name, value in requested if name.rstrip("[]") == "lifecycle" for stage in value.split(",")
    }
    listed = infos if not stages or "active" in stages else []
    if "before_id" in values:
        end = _place(listed, values["before_id"], "before_id")
        start = max(0, end - limit)
        has_more = start > 0
    else:
        start = 0 if "after_id" not in values else _place(listed, values["after_id"], "after_id") + 1
        end = min(len(listed), start + limit)
        has_more = end < len(listed)
    data = [model(info) for info in listed[start:end]]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"data": data, "first_id": first, "last_id": last, "has_more": has_more}


def _limit(text: str | None) -> int:
    if text is None:
        return USUAL
    limit = whole(text, 4)
    if limit is not None and 1 <= limit <= MOST:
        return limit
    raise BadRequest.at("limit", f"a number from 1 to {MOST}")


def _place(infos: list[ModelInfo], id: str, param: str) -> int:
    place = next((index for index, info in enumerate(infos) if info.id == id), None)
    if place is None:
        raise BadRequest.at(param, f"there is no model {id[:200]!r} in the list")
    return place
