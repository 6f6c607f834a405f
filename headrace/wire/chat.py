"""/v1/chat/completions as JSON: parse it, and write events back (wire.md §1c, §1d)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from headrace.errors import BadRequest, UnsupportedParameter
from headrace.types import (
    Conversation,
    Event,
    Finished,
    GenerateRequest,
    Message,
    ModelInfo,
    TextDelta,
    ToolCall,
)
from headrace.wire.generation import (
    Collected,
    GenerationBody,
    UsageBody,
    dump,
    head,
    sampling,
    usage_body,
    usage_chunk,
    wants_usage,
)
from headrace.wire.validation import RequestBody


class TextPart(RequestBody):
    type: Literal["text"]
    text: str


class FunctionOfCall(RequestBody):
    name: str
    arguments: str


class ToolCallBody(RequestBody):
    id: str
    type: Literal["function"] = "function"
    function: FunctionOfCall


Parts = Annotated[list[TextPart], Field(min_length=1)]


class ChatMessage(RequestBody):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | Parts | None, Field(validate_default=True)] = None
    name: str | None = None
    tool_calls: list[ToolCallBody] | None = None
    tool_call_id: str | None = None

    @field_validator("content")
    @classmethod
    def _content_where_it_is_needed(cls, content: str | Parts | None, info: ValidationInfo) -> object:
        if content is None and info.data.get("role", "assistant") != "assistant":
            raise ValueError(f"a message of role {info.data['role']!r} needs content")
        return content


class ChatBody(GenerationBody):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: int | None = Field(None, ge=1, description="The newer name of max_tokens.")


class AssistantMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    annotations: list[Any]


class ChatChoice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """The answer when `stream` is false."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody
    system_fingerprint: str | None


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: None = None


class ChunkChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: None
    finish_reason: Literal["stop", "length"] | None


class ChatCompletionChunk(BaseModel):
    """One event of the answer when `stream` is true; `data: [DONE]` follows the last."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: UsageBody | None = None
    system_fingerprint: str | None


def to_request(body: ChatBody) -> GenerateRequest:
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise BadRequest("max_tokens and max_completion_tokens differ", param="max_completion_tokens")
    limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    messages = tuple(_message(index, message) for index, message in enumerate(body.messages))
    return GenerateRequest(body.model, Conversation(messages), sampling(body, limit, None), body.n or 1)


# members of a message that are content of other kinds: dropping them would change the conversation
CONTENT_REFUSED = ("audio", "function_call")


def _message(index: int, body: ChatMessage) -> Message:
    for name in CONTENT_REFUSED:
        if (body.model_extra or {}).get(name) is not None:
            raise UnsupportedParameter(
                f"{name} in a message is not supported by this server", param=f"messages.{index}.{name}"
            )
    text = (
        body.content if isinstance(body.content, str) else "".join(part.text for part in body.content or ())
    )
    calls = tuple(
        ToolCall(call.id, call.function.name, call.function.arguments) for call in body.tool_calls or ()
    )
    return Message(body.role, text, body.name, calls, body.tool_call_id)


def completion(info: ModelInfo, collected: Collected) -> dict[str, Any]:
    return {
        **head("chatcmpl", "chat.completion", info),
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": choice.reason,
            }
            for index, choice in sorted(collected.choices.items())
        ],
        "usage": usage_body(collected.usage),
    }


class Chunks:
    """Writes one stream: every chunk shares id, created and model."""

    def __init__(self, body: ChatBody, info: ModelInfo) -> None:
        self._head = head("chatcmpl", "chat.completion.chunk", info)
        self._usage: dict[str, Any] = {"usage": None} if wants_usage(body) else {}
        self._n = body.n or 1
        self._collected = Collected()

    def first(self) -> list[str]:
        return [
            self._chunk(index, {"role": "assistant", "content": "", "refusal": None})
            for index in range(self._n)
        ]

    def event(self, event: Event) -> list[str]:
        if isinstance(event, TextDelta):
            return [self._chunk(event.index, {"content": event.text})]
        self._collected.push(event)
        return [self._chunk(event.index, {}, event.reason)] if isinstance(event, Finished) else []

    def last(self) -> list[str]:
        return [usage_chunk(self._head, self._collected)] if self._usage else []

    def _chunk(self, index: int, delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return dump({**self._head, "choices": [choice], **self._usage})
