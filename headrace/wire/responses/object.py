"""The response object, with all members that the Open Responses specification requires."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import Field
from typing_extensions import TypedDict

from headrace.collected import Collected
from headrace.dialects.openai import ResponseUsage, responses_usage_body
from headrace.store import StoredItem, StoredResponse
from headrace.types import ModelInfo
from headrace.wire.activations import NOTHING, SteeringAnswer
from headrace.wire.chat import TokenLogprobBody
from headrace.wire.items import compaction, new_id
from headrace.wire.items.build import Item, ReasoningMembers, ReasoningPart, Status
from headrace.wire.responses.body import ResponseBody, TextFormat, tools_of

NO_USAGE: ResponseUsage = {
    "input_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 0,
}

ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class OutputText(TypedDict):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[TokenLogprobBody]


class OutputMessage(TypedDict):
    id: str
    type: Literal["message"]
    status: Status
    role: Literal["assistant"]
    content: list[OutputText]


class OutputReasoning(ReasoningMembers):
    """Reasoning of the model."""

    id: str
    type: Literal["reasoning"]
    status: Status


class FunctionCall(TypedDict):
    id: str
    type: Literal["function_call"]
    status: Status
    call_id: str
    name: str
    arguments: Annotated[str, Field(description="JSON text.")]


class CustomToolCall(TypedDict):
    id: str
    type: Literal["custom_tool_call"]
    status: Status
    call_id: str
    name: str
    input: str


Output = Annotated[
    OutputMessage | OutputReasoning | FunctionCall | CustomToolCall, Field(discriminator="type")
]


ResponseErrorCode = Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
IncompleteReason = Literal["max_output_tokens", "content_filter"]


class ErrorOfResponse(TypedDict):
    code: ResponseErrorCode
    message: str


class IncompleteDetails(TypedDict):
    reason: IncompleteReason


class Outcome(TypedDict, total=False):
    """The members of a response that its end sets."""

    completed_at: int | None
    error: ErrorOfResponse
    incomplete_details: IncompleteDetails | None
    usage: ResponseUsage | None


class ConversationOfResponse(TypedDict):
    id: str


class ReasoningOfResponse(TypedDict):
    effort: str | None
    summary: str | None


class TextOfResponse(TypedDict):
    format: dict[str, Any]
    verbosity: str


class SamplingOfResponse(TypedDict):
    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int


class ConversationMember(TypedDict, total=False):
    conversation: ConversationOfResponse


class UserMember(TypedDict, total=False):
    user: str


class ResponseObject(SamplingOfResponse, ConversationMember, UserMember, SteeringAnswer):
    """One turn. `conversation` and `user` are there only with a value."""

    id: str
    object: Literal["response"]
    created_at: Annotated[int, Field(description="Seconds since 1970.")]
    completed_at: int | None
    status: ResponseStatus
    background: bool
    error: ErrorOfResponse | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: list[Output]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ReasoningOfResponse
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: Annotated[bool, Field(description="Whether it is kept.")]
    text: TextOfResponse
    tool_choice: str | dict[str, Any]
    tools: Annotated[list[dict[str, Any]], Field(description="Those that the model is offered.")]
    truncation: Literal["auto", "disabled"]
    usage: Annotated[
        ResponseUsage | None, Field(description="Null until the end, and where the provider did not tell.")
    ]
    metadata: dict[str, str]


class EventMembers(TypedDict, total=False):
    response: ResponseObject
    output_index: int
    item_id: str
    item: Output
    content_index: int
    part: OutputText | ReasoningPart
    delta: str
    text: str
    logprobs: list[TokenLogprobBody]
    name: str
    arguments: str
    input: str
    code: Annotated[str | None, Field(description="Of an error.")]
    message: Annotated[str, Field(description="Of an error.")]
    param: Annotated[str | None, Field(description="Of an error.")]


class ResponseEvent(EventMembers):
    """One event of a stream; each type has some of these members. `data: [DONE]` follows the last."""

    type: Literal[
        "response.created", "response.queued", "response.in_progress", "response.output_item.added",
        "response.content_part.added", "response.output_text.delta", "response.output_text.done",
        "response.reasoning_text.delta", "response.reasoning_text.done", "response.content_part.done",
        "response.function_call_arguments.delta", "response.function_call_arguments.done",
        "response.custom_tool_call_input.delta", "response.custom_tool_call_input.done",
        "response.output_item.done", "response.completed", "response.incomplete", "response.failed", "error",
    ]  # fmt: skip
    sequence_number: Annotated[int, Field(description="From 0, one more each.")]


class DeletedResponse(TypedDict):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputTokens(TypedDict):
    object: Literal["response.input_tokens"]
    input_tokens: int


class CompactedResponse(TypedDict):
    id: str
    object: Literal["response.compaction"]
    created_at: int
    output: Annotated[list[Item], Field(description="Messages of the caller, and a compaction.")]
    usage: ResponseUsage


def begin(body: ResponseBody, info: ModelInfo, *, id: str, created_at: int) -> ResponseObject:
    """The response object before anything is generated."""
    tools = tools_of(body)
    conversation: ConversationMember = {}
    if body.conversation_id:
        conversation["conversation"] = {"id": body.conversation_id}
    user: UserMember = {} if body.user is None else {"user": body.user}
    return {
        "id": id,
        "object": "response",
        "created_at": created_at,
        "completed_at": None,
        "status": "queued" if body.background else "in_progress",
        "background": bool(body.background),
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_tokens if body.max_output_tokens is None else body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "model": info.id,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        **conversation,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {
            "effort": body.reasoning.effort if body.reasoning else None,
            "summary": body.reasoning.summary if body.reasoning else None,
        },
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": body.store is not False,
        **_sampling(body, info),
        "text": {
            "format": _format(body.text.format if body.text else None),
            "verbosity": (body.text.verbosity if body.text else None) or "medium",
        },
        "tool_choice": tools.written_choice,
        "tools": list(tools.written),
        "truncation": body.truncation or "disabled",
        "usage": None,
        **user,
        "metadata": body.metadata or {},
        **NOTHING,
    }


def _sampling(body: ResponseBody, info: ModelInfo) -> SamplingOfResponse:
    """The effective sampling members: the caller's, else the model's recommended, else OpenAI's defaults."""
    temperature, top_p = info.sampling.get("temperature", 1.0), info.sampling.get("top_p", 1.0)
    return {
        "temperature": temperature if body.temperature is None else body.temperature,
        "top_p": top_p if body.top_p is None else body.top_p,
        "presence_penalty": body.presence_penalty or 0.0,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "top_logprobs": body.top_logprobs or 0,
    }


def _format(requested: TextFormat | None) -> dict[str, Any]:
    if requested is None or requested.type != "json_schema":
        return {"type": requested.type if requested else "text"}
    return {
        "type": "json_schema",
        "name": requested.name,
        "description": requested.description,
        "schema": requested.schema_,
        "strict": bool(requested.strict),
    }


def restored(stored: StoredResponse, output: Sequence[StoredItem]) -> ResponseObject:
    """A stored response, with its output."""
    return cast(ResponseObject, {**stored.body, "output": [item.body for item in output]})


def compacted(collected: Collected, items: Sequence[Item] = ()) -> CompactedResponse:
    """The result of a compaction: the user's messages among all `items`, then the summary. Clients
    require a usage: it is zeros if unknown.
    """
    return {
        "id": new_id("resp"),
        "object": "response.compaction",
        "created_at": int(time.time()),
        "output": [*_of_user(items), compaction(collected.choices[0].text)],
        "usage": responses_usage_body(collected.usage) or NO_USAGE,
    }


def _of_user(items: Sequence[Item]) -> list[Item]:
    return [
        {"id": new_id("msg"), "status": "completed", **item}
        for item in items
        if item["type"] == "message" and item["role"] == "user"
    ]
