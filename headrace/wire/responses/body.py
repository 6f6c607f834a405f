"""The bodies of POST /v1/responses and its sub-paths, and their conversion to neutral requests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from headrace.errors import BadRequest
from headrace.types import Conversation, Format, GenerateRequest, Message, TokenizeRequest
from headrace.wire.conversations import Metadata, check_id
from headrace.wire.forms import output_format, request_of, schema_form
from headrace.wire.generation import GenerationBody, JsonObject, max_tokens, sampling
from headrace.wire.items import Item, ItemBody, to_messages
from headrace.wire.limits import MAX_INCLUDED, MAX_MESSAGES, MAX_TOOLS, at_most, shown
from headrace.wire.messages import wishes
from headrace.wire.pagination import check_include
from headrace.wire.parameters import RequestBody, advice_in
from headrace.wire.responses.tools import AnyChoice, AnyTool, Offered, offered
from headrace.wire.steering import SteeringMembers

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ConversationRef(RequestBody):
    id: str


class Reasoning(RequestBody):
    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class TextFormat(RequestBody):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(None, description="With type json_schema.")
    schema_: JsonObject | None = Field(None, alias="schema", description="With type json_schema.")
    strict: bool | None = None
    description: str | None = None


class TextConfig(RequestBody):
    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class HistoryBody(RequestBody):
    """The members that make the history and this turn's input."""

    model: str
    input: str | Annotated[list[ItemBody], at_most(MAX_MESSAGES)] | None = None
    instructions: str | None = None
    previous_response_id: str | None = Field(None, description="Go on after that response.")


class PromptBody(HistoryBody):
    """The members that make the prompt."""

    conversation: str | ConversationRef | None = None
    tools: Annotated[list[AnyTool], at_most(MAX_TOOLS)] | None = None
    tool_choice: AnyChoice | None = None
    parallel_tool_calls: bool | None = True
    reasoning: Reasoning | None = None
    text: TextConfig | None = None
    truncation: Literal["auto", "disabled"] | None = "disabled"

    @property
    def conversation_id(self) -> str | None:
        return self.conversation.id if isinstance(self.conversation, ConversationRef) else self.conversation


class ResponseBody(PromptBody, GenerationBody):
    """The body of POST /v1/responses."""

    max_output_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    include: Annotated[list[str], at_most(MAX_INCLUDED)] | None = None
    store: bool | None = Field(True, description="Keep the response, and what it answers.")
    background: bool | None = Field(False, description="Answer at once with status queued.")
    metadata: Metadata | None = None
    max_tool_calls: int | None = Field(None, ge=1)
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None


class InputTokensBody(PromptBody):
    """The body of POST /v1/responses/input_tokens."""


class CompactBody(HistoryBody, SteeringMembers):
    """The body of POST /v1/responses/compact."""


ID = re.compile(r"resp_[A-Za-z0-9_-]{1,250}")
LOGPROBS, SEALED = "message.output_text.logprobs", "reasoning.encrypted_content"


def check(body: HistoryBody) -> None:
    """Check what needs neither the store nor a model. Raises BadRequest."""
    conversation = body.conversation_id if isinstance(body, PromptBody) else None
    previous = body.previous_response_id
    if previous is not None and not ID.fullmatch(previous):
        raise BadRequest(
            f"Invalid 'previous_response_id': {previous[:100]!r}. Expected an ID that begins with 'resp_'.",
            param="previous_response_id",
        )
    if conversation is not None:
        check_id(conversation, "conversation")
    if conversation is not None and previous is not None:
        raise BadRequest(
            "Mutually exclusive parameters: 'previous_response_id' and 'conversation'. Give one of them.",
            param="previous_response_id",
        )
    if not body.input and body.input != "" and not (conversation or previous):
        problem = "one of input, previous_response_id, conversation is needed"
        raise BadRequest.at("input", problem, code="missing_required_parameter")
    if isinstance(body, ResponseBody):
        _check_response(body)


def _check_response(body: ResponseBody) -> None:
    if body.background and body.store is False:
        raise BadRequest("background can only be used when `store` is true", param="background")
    if body.n not in (None, 1):
        raise BadRequest.at("n", "a response is one answer")
    if body.response_format is not None:
        raise BadRequest("response_format is called text.format here", param="response_format")
    limit = max_tokens(body)
    if limit is not None and body.max_output_tokens not in (None, limit):
        raise BadRequest("max_tokens and max_output_tokens differ", param="max_tokens")
    check_include(body.include or ())


def includes(body: ResponseBody, what: str) -> bool:
    return what in (body.include or ())


def tools_of(body: PromptBody) -> Offered:
    """Raises BadRequest."""
    return offered(body.tools, body.tool_choice)


def to_request(body: ResponseBody, items: Sequence[Item]) -> GenerateRequest:
    """`items`: the whole history, with this turn's input at the end. Raises BadRequest."""
    limit = max_tokens(body) if body.max_output_tokens is None else body.max_output_tokens
    logprobs = (body.top_logprobs or 0) if includes(body, LOGPROBS) else None
    conversation, parameters = to_conversation(body, items), sampling(body, limit, logprobs)
    return request_of(body, conversation, parameters, 1, _format(body))


def to_tokenize_request(body: PromptBody, items: Sequence[Item]) -> TokenizeRequest:
    """Raises BadRequest."""
    return TokenizeRequest(body.model, to_conversation(body, items), add_special_tokens=False)


def to_conversation(body: PromptBody, items: Sequence[Item]) -> Conversation:
    """Raises BadRequest."""
    _check_outputs(items)
    tools = tools_of(body)
    messages = to_messages(items)
    instructions = (Message("system", body.instructions),) if body.instructions else ()
    verbosity = body.text.verbosity if body.text else None
    if not messages and not instructions:
        raise BadRequest.at("input", "there is nothing to answer")
    return Conversation(
        (*instructions, *messages),
        tools.tools,
        tools.choice,
        body.parallel_tool_calls is not False,
        body.reasoning.effort if body.reasoning else None,
        verbosity=verbosity,
        wishes=wishes(messages, verbosity=verbosity, **advice_in(body)),
    )


def _check_outputs(items: Sequence[Item]) -> None:
    """Raise BadRequest for the output of a call that is not in the history, before a provider refuses it
    with an unclear message.
    """
    call_ids: set[str] = set()
    for item in items:
        if item["type"] in ("function_call", "custom_tool_call"):
            call_ids.add(item["call_id"])
        elif (
            item["type"] in ("function_call_output", "custom_tool_call_output")
            and item["call_id"] not in call_ids
        ):
            raise BadRequest(
                f"No tool call found for the output with call_id {shown(item['call_id'])}.", param="input"
            )


def _format(body: ResponseBody) -> Format | None:
    """The format that the answer must have, if any. Raises BadRequest if there are two."""
    format, guided = _text_format(body.text.format if body.text else None), output_format(body)
    if format is not None and guided is not None:
        raise BadRequest(f"{guided.param} and {format.param} exclude each other", param=guided.param)
    return format or guided


def _text_format(requested: TextFormat | None) -> Format | None:
    if requested is None:
        return None
    if requested.type == "text":
        if requested.schema_ is not None:
            raise BadRequest.at("text.format.schema", "not with type text: use type json_schema")
        return None
    if requested.type == "json_object" and not requested.schema_:
        return Format("json_object", param="text.format")
    for name, value in (("name", requested.name), ("schema", requested.schema_)):
        if value is None and requested.type == "json_schema":
            param = f"text.format.{name}"
            raise BadRequest(f"{param} is needed with type json_schema", param=param)
    param, strict = "text.format.schema", requested.strict
    return schema_form(requested.schema_, param, requested.name, requested.description, strict)


# member of chat completions → this endpoint's member
NAMES = {
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "logprobs": "top_logprobs",
    "response_format": "text.format",
}
TOOL = re.compile(r"tools\.(\d+)(?:\.function)?")


# the same for whole paths
PATHS = {
    "messages.tool_calls.function.arguments": "input.arguments",
    "messages.role": "input.role",
    "messages.reasoning_content": "input.content",
    "verbosity": "text.verbosity",
}


def endpoint_name(name: str) -> str:
    """This endpoint's name for a member of chat completions."""
    return PATHS.get(name) or NAMES.get(name.partition(".")[0], name)


def in_endpoint_names(body: PromptBody, error: BadRequest) -> BadRequest:
    """Replace names of chat completions' members in an error by this endpoint's."""
    param = error.param
    if param is None:
        return error
    tool = TOOL.match(param)
    if tool is not None:
        places = tools_of(body).places
        index = int(tool[1])
        own = f"tools.{places[index] if index < len(places) else index}{param[tool.end() :]}"
    else:
        own = NAMES.get(param.partition(".")[0], param)
    if error.message.startswith(param):
        error.message = own + error.message[len(param) :]
    error.param = own
    return error
