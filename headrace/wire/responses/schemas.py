"""The types of the answers under /v1/responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from headrace.dialects.openai import ResponseUsage
from headrace.wire.activations import SteeringAnswer
from headrace.wire.chat import TokenLogprobBody
from headrace.wire.items.build import Item, ReasoningMembers, ReasoningPart, Status

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
