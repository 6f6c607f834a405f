"""Schemas of the answers under /v1/responses, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from headrace.wire.chat import TokenLogprobBody
from headrace.wire.items.input_models import Status


class Answered(BaseModel):
    model_config = ConfigDict(extra="forbid")


class OutputText(Answered):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[TokenLogprobBody]


class ReasoningPart(Answered):
    type: Literal["reasoning_text"]
    text: str


class OutputMessage(Answered):
    id: str
    type: Literal["message"]
    status: Status
    role: Literal["assistant"]
    content: list[OutputText]


class OutputReasoning(Answered):
    """Reasoning of the model."""

    id: str
    type: Literal["reasoning"]
    status: Status
    summary: list[Any]
    content: list[ReasoningPart]
    encrypted_content: str | None = Field(
        None, description="The thoughts as their provider signed them: to be sent back unchanged."
    )


class FunctionCall(Answered):
    id: str
    type: Literal["function_call"]
    status: Status
    call_id: str
    name: str
    arguments: str = Field(description="JSON text.")


class CustomToolCall(Answered):
    id: str
    type: Literal["custom_tool_call"]
    status: Status
    call_id: str
    name: str
    input: str


class UserMessage(Answered):
    """A message of the caller."""

    id: str
    type: Literal["message"]
    status: Status
    role: Literal["user"]
    content: list[Any]


class Compaction(Answered):
    id: str
    type: Literal["compaction"]
    encrypted_content: str = Field(description="A summary that the model wrote.")


Output = Annotated[
    OutputMessage | OutputReasoning | FunctionCall | CustomToolCall, Field(discriminator="type")
]


class InputTokensDetails(Answered):
    cached_tokens: int = Field(description="Found in a cache, not computed.")
    cache_write_tokens: int = Field(description="Put into a provider's cache.")


class OutputTokensDetails(Answered):
    reasoning_tokens: int


class ResponseUsage(Answered):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ErrorOfResponse(Answered):
    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class IncompleteDetails(Answered):
    reason: Literal["max_output_tokens", "content_filter"]


class ConversationOfResponse(Answered):
    id: str


class ReasoningOfResponse(Answered):
    effort: str | None
    summary: str | None


class TextOfResponse(Answered):
    format: dict[str, Any]
    verbosity: str


class ResponseObject(Answered):
    """One turn. `conversation` and `user` are there only with a value."""

    id: str
    object: Literal["response"]
    created_at: int = Field(description="Seconds since 1970.")
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
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
    conversation: ConversationOfResponse | None = None
    prompt_cache_key: str | None
    reasoning: ReasoningOfResponse
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool = Field(description="Whether it is kept.")
    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    text: TextOfResponse
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]] = Field(description="Those that the model is offered.")
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None = Field(
        description="Null until the end, and where the provider did not tell."
    )
    user: str | None = None
    metadata: dict[str, str]


class ResponseEvent(Answered):
    """One event of a stream; each type has some of these members. `data: [DONE]` follows the last."""

    type: Literal[
        "response.created", "response.queued", "response.in_progress", "response.output_item.added",
        "response.content_part.added", "response.output_text.delta", "response.output_text.done",
        "response.reasoning_text.delta", "response.reasoning_text.done", "response.content_part.done",
        "response.function_call_arguments.delta", "response.function_call_arguments.done",
        "response.custom_tool_call_input.delta", "response.custom_tool_call_input.done",
        "response.output_item.done", "response.completed", "response.incomplete", "response.failed", "error",
    ]  # fmt: skip
    sequence_number: int = Field(description="From 0, one more each.")
    response: ResponseObject | None = None
    output_index: int | None = None
    item_id: str | None = None
    item: dict[str, Any] | None = None
    content_index: int | None = None
    part: OutputText | ReasoningPart | None = None
    delta: str | None = None
    text: str | None = None
    logprobs: list[TokenLogprobBody] | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    code: str | None = Field(None, description="Of an error.")
    message: str | None = Field(None, description="Of an error.")
    param: str | None = Field(None, description="Of an error.")


class DeletedResponse(Answered):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputTokens(Answered):
    object: Literal["response.input_tokens"]
    input_tokens: int


class CompactedResponse(Answered):
    id: str
    object: Literal["response.compaction"]
    created_at: int
    output: list[UserMessage | Compaction]
    usage: ResponseUsage
