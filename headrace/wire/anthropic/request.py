"""The bodies of POST /v1/messages and …/count_tokens, and their conversion to neutral requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from headrace.dialects.anthropic import effort_of_budget
from headrace.errors import BadRequest
from headrace.offload import check_wanted
from headrace.types import (
    Conversation,
    Format,
    GenerateRequest,
    Media,
    Message,
    Role,
    Sampling,
    Thought,
    TokenizeRequest,
    Tool,
    ToolCall,
    ToolChoice,
)
from headrace.wire.anthropic.blocks import (
    AnyBlock,
    OtherBlock,
    RedactedOfHistory,
    TextBlock,
    ThinkingOfHistory,
    ToolResultBlock,
    ToolUseBlock,
    arguments,
    parts,
    written,
)
from headrace.wire.forms import schema_form
from headrace.wire.generation import INT64, JsonObject, Stop
from headrace.wire.limits import MAX_MESSAGES, MAX_PARTS, MAX_STOP_SEQUENCES, MAX_TOOLS, at_most
from headrace.wire.media import joined, mixed
from headrace.wire.messages import Piece, in_order, thought, wishes
from headrace.wire.parameters import ByType, RequestBody, carried
from headrace.wire.steering import SteeringMembers
from headrace.wire.tools import ToolName, check_known, check_new

HEADERS = ("anthropic-version", "anthropic-beta")  # those that belong to the dialect
CACHED = "For Anthropic. Models that run here cache every prompt."


class MessageOfHistory(RequestBody):
    role: Literal["user", "assistant", "system"]
    content: str | Annotated[list[AnyBlock], at_most(MAX_PARTS)]


class CustomTool(RequestBody):
    type: Literal["custom"] | None = None
    name: ToolName
    description: str | None = None
    input_schema: JsonObject
    strict: bool | None = None
    cache_control: JsonObject | None = Field(None, description=CACHED)


class ServerTool(RequestBody):
    """A tool that Anthropic would run, or that its models are trained for."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)
    type: str


AnyTool = Annotated[
    CustomTool | ServerTool, ByType("tool_type", "a tool is an object", untyped=lambda _: "CustomTool")
]


class ToolChoiceOfMessages(RequestBody):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = Field(None, description="With type tool.")
    disable_parallel_tool_use: bool | None = False


class ThinkingConfig(RequestBody):
    type: Literal["enabled", "adaptive", "between_tools", "disabled"]
    budget_tokens: int | None = Field(None, ge=1, description="With type enabled.")


class OutputFormat(RequestBody):
    type: Literal["json_schema"]
    schema_: JsonObject = Field(alias="schema")


class OutputConfig(RequestBody):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class MetadataOfMessages(RequestBody):
    user_id: str | None = None


class CountTokensBody(RequestBody):
    """The body of POST /v1/messages/count_tokens: the members from which the prompt is made."""

    model: str
    messages: Annotated[list[MessageOfHistory], at_most(MAX_MESSAGES, least=1)]
    system: str | Annotated[list[TextBlock], at_most(MAX_PARTS)] | None = None
    tools: Annotated[list[AnyTool], at_most(MAX_TOOLS)] | None = None
    tool_choice: ToolChoiceOfMessages | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = Field(None, description="The older name of output_config.format.")
    cache_control: JsonObject | None = Field(None, description=CACHED)


class MessagesBody(CountTokensBody, SteeringMembers):
    """The body of POST /v1/messages."""

    max_tokens: int = Field(ge=1)
    stream: bool | None = False
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, lt=INT64)
    stop_sequences: Annotated[list[Stop], at_most(MAX_STOP_SEQUENCES)] | None = None
    metadata: MetadataOfMessages | None = None


# member of chat completions → this endpoint's member
NAMES = {
    "reasoning_effort": "thinking",
    "thinking_budget": "thinking.budget_tokens",
    "user": "metadata.user_id",
    "messages.reasoning_content": "messages.content.thinking",
    "messages.tool_calls.function.arguments": "messages.content.input",
}


def endpoint_name(name: str) -> str:
    """This endpoint's name for a member of chat completions."""
    return NAMES.get(name, name)


# members of bodies and of tools that no other dialect has
OWN = (
    "cache_control", "context_management", "diagnostics", "inference_geo", "service_tier", "speed",
    "user_profile_id", "workspace_id",
)  # fmt: skip
OWN_OF_TOOLS = ("cache_control", "eager_input_streaming", "input_examples")


def to_request(body: MessagesBody, headers: Mapping[str, str] | None = None) -> GenerateRequest:
    """`headers`: those that belong to the dialect. Raises BadRequest."""
    sampling = Sampling(
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        stop=tuple(body.stop_sequences or ()),
    )
    request = GenerateRequest(
        body.model,
        to_conversation(body),
        sampling,
        format=_format(body),
        user=body.metadata.user_id if body.metadata else None,
        foreign=carried(body),
        anthropics={**_own(body, OWN), **_display(body.thinking)},
        headers=headers or {},
    )
    return body.steered.applied(request)


def _own(body: RequestBody, names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in body if name in names and value is not None}


def _display(thinking: ThinkingConfig | None) -> dict[str, Any]:
    display = None if thinking is None else (thinking.model_extra or {}).get("display")
    return {} if display is None else {"thinking": {"display": display}}


def to_tokenize_request(body: CountTokensBody) -> TokenizeRequest:
    """Convert the body of /v1/messages/count_tokens. Raises BadRequest."""
    return TokenizeRequest(body.model, to_conversation(body), add_special_tokens=False)


def to_conversation(body: CountTokensBody) -> Conversation:
    """Convert a conversation. A last message of the assistant is continued. Raises BadRequest."""
    system = [_system(body.system)] if body.system else []
    turns = [_messages(turn, f"messages.{index}.content") for index, turn in enumerate(body.messages)]
    history = [message for messages in turns for message in messages]
    tools = _tools(body.tools or ())
    choice = body.tool_choice
    is_continued = goes_on(body)
    return Conversation(
        (*system, *history),
        tools,
        _choice(choice, tools),
        choice is None or not choice.disable_parallel_tool_use,
        _effort(body),
        not is_continued,
        is_continued,
        thinking_budget=_budget(body.thinking),
        wishes=wishes(history) | {"reasoning_effort"},
    )


def goes_on(body: CountTokensBody) -> bool:
    """Whether the last message is the assistant's and has no calls, so that it is continued."""
    last = body.messages[-1]
    calls = () if isinstance(last.content, str) else last.content
    return last.role == "assistant" and not any(isinstance(block, ToolUseBlock) for block in calls)


def _system(content: str | Sequence[TextBlock]) -> Message:
    blocks = () if isinstance(content, str) else written(content)
    return Message("system", joined(parts(content, "system"), "\n\n"), blocks=blocks)


def _messages(turn: MessageOfHistory, path: str) -> list[Message]:
    """The messages of one turn: one for each result of a call, then one for the rest of its content."""
    check_wanted()
    if isinstance(turn.content, str):
        return [Message(turn.role, turn.content)]
    if turn.role == "assistant":
        return [_assistant(turn.content, path)]
    for index, block in enumerate(turn.content):
        if isinstance(block, OtherBlock | ToolUseBlock | ThinkingOfHistory | RedactedOfHistory):
            problem = f"a {turn.role} cannot send a block of type {block.type[:100]!r}"
            raise BadRequest.at(f"{path}.{index}", problem)
    results = [
        _result(block, f"{path}.{index}.content")
        for index, block in enumerate(turn.content)
        if isinstance(block, ToolResultBlock)
    ]
    content = parts(turn.content, path)
    blocks = written([block for block in turn.content if not isinstance(block, ToolResultBlock)])
    own = replace(_message(turn.role, content), blocks=blocks)
    return [*results, own] if content or not results else results


def _result(block: ToolResultBlock, path: str) -> Message:
    """A result of a call. `is_error` becomes text, as other dialects have no member for it."""
    content = parts(block.content, path)
    if block.is_error:
        content = ["Error:", *content]
    return replace(_message("tool", content, tool_call_id=block.tool_use_id), blocks=written([block]))


def _message(role: Role, content: list[str | Media], *, tool_call_id: str | None = None) -> Message:
    return Message(role, joined(content), tool_call_id=tool_call_id, parts=mixed(content))


def _assistant(content: Sequence[AnyBlock], path: str) -> Message:
    """An assistant's message. Its text blocks are joined; unsigned thoughts count as reasoning text only."""
    for index, block in enumerate(content):
        if isinstance(block, ToolResultBlock):
            raise BadRequest.at(f"{path}.{index}", "a tool_result is the user's to send")
    spoken = parts(content, path)
    pieces = _pieces(content)
    thoughts = [piece for piece in pieces if isinstance(piece, Thought)]
    return Message(
        "assistant",
        joined(spoken, ""),
        tool_calls=tuple(piece for piece in pieces if isinstance(piece, ToolCall)),
        reasoning="".join(thought.text for thought in thoughts) or None,
        parts=mixed(spoken),
        thoughts=tuple(thought for thought in thoughts if thought.signature or thought.redacted),
        in_order=in_order(pieces),
        blocks=written(content),
    )


def _pieces(content: Sequence[AnyBlock]) -> list[Piece]:
    pieces: list[Piece] = []
    for block in content:
        if isinstance(block, ThinkingOfHistory | RedactedOfHistory):
            pieces.append(thought(block))
        elif isinstance(block, ToolUseBlock):
            pieces.append(ToolCall(block.id, block.name, arguments(block)))
        elif isinstance(block, TextBlock):
            pieces.append(block.text)
    return pieces


def _tools(bodies: Sequence[CustomTool | ServerTool]) -> tuple[Tool, ...]:
    tools: dict[str, Tool] = {}
    for index, body in enumerate(bodies):
        if isinstance(body, ServerTool):
            continue
        check_new(body.name, tools, f"tools.{index}")
        own = _own(body, OWN_OF_TOOLS)
        tools[body.name] = Tool(body.name, body.description, body.input_schema, bool(body.strict), own)
    return tuple(tools.values())


def _choice(requested: ToolChoiceOfMessages | None, tools: tuple[Tool, ...]) -> ToolChoice:
    if requested is None or requested.type in ("auto", "none"):
        return ToolChoice("none" if requested and requested.type == "none" else "auto")
    if not tools:
        raise BadRequest.at("tool_choice", f"{requested.type} needs tools")
    if requested.type == "any":
        return ToolChoice("required")
    names = {tool.name for tool in tools}
    return ToolChoice("required", (check_known(requested.name or "", names, "tool_choice.name"),))


def _effort(body: CountTokensBody) -> str | None:
    """The reasoning effort; a budget is converted to one, for models without budgets."""
    requested = body.thinking
    if requested is None:
        return None
    if requested.type == "disabled":
        return "none"
    if is_free(requested):
        return (body.output_config.effort if body.output_config else None) or "medium"
    if requested.budget_tokens is None:
        raise BadRequest.at("thinking.budget_tokens", "Field required")
    return effort_of_budget(requested.budget_tokens)


def _budget(thinking: ThinkingConfig | None) -> int | None:
    return None if thinking is None or thinking.type != "enabled" else thinking.budget_tokens


def is_free(thinking: ThinkingConfig | None) -> bool:
    """Whether the amount of thinking is the model's choice, or set by `output_config.effort`."""
    return thinking is not None and thinking.type in ("adaptive", "between_tools")


def _format(body: CountTokensBody) -> Format | None:
    """The form that the answer must have, if any. Raises BadRequest if there are two."""
    newer, older = body.output_config and body.output_config.format, body.output_format
    if newer and older and newer != older:
        raise BadRequest.at("output_format", "not beside another output_config.format")
    if newer:
        return schema_form(newer.schema_, "output_config.format.schema")
    return schema_form(older.schema_, "output_format.schema") if older else None
