"""The JSON of tools and of their calls. The older `functions` and `function_call` are the same under other
names.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Set
from typing import Annotated, Literal, NotRequired

from pydantic import Field, StringConstraints
from typing_extensions import TypedDict

from headrace.collected import Choice
from headrace.errors import BadRequest
from headrace.features import Feature, Use
from headrace.types import FinishReason, Tool, ToolCallDelta, ToolChoice
from headrace.wire.generation import JsonObject
from headrace.wire.limits import MAX_TOOLS, at_most
from headrace.wire.parameters import RequestBody

# OpenAI's own allow no dots and 64 characters; tools that come from elsewhere are often named module.function
ToolName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{1,256}$")]
Mode = Literal["none", "auto", "required"]


class FunctionBody(RequestBody):
    name: ToolName
    description: str | None = None
    parameters: JsonObject | None = Field(None, description="A JSON schema. None: no arguments.")
    strict: bool | None = None


class ToolBody(RequestBody):
    type: Literal["function"] = "function"
    function: FunctionBody


class FunctionName(RequestBody):
    name: str


class NamedTool(RequestBody):
    """A tool's name, nested as in chat (`function.name`) or flat (`name`)."""

    type: Literal["function"] = "function"
    function: FunctionName | None = None
    name: str | None = None


class AllowedTools(RequestBody):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], at_most(MAX_TOOLS, least=1)]


class ChoiceBody(RequestBody):
    type: Literal["function", "allowed_tools"]
    function: FunctionName | None = None
    name: str | None = None
    allowed_tools: AllowedTools | None = None


class ToolsBody(RequestBody):
    """The members of a body that define tools, and the choice among them."""

    tools: Annotated[list[ToolBody], at_most(MAX_TOOLS)] | None = None
    tool_choice: Mode | ChoiceBody | None = None
    parallel_tool_calls: bool | None = True
    functions: Annotated[list[FunctionBody], at_most(MAX_TOOLS)] | None = None
    function_call: Literal["none", "auto"] | FunctionName | None = None


ChatFinishReason = Literal["stop", "length", "tool_calls", "function_call", "content_filter"]


class CalledFunction(TypedDict):
    name: str
    arguments: Annotated[str, Field(description="JSON text.")]


class CalledTool(TypedDict):
    id: str
    type: Literal["function"]
    function: CalledFunction


class CallMembers(TypedDict, total=False):
    """The members of a message that hold its calls."""

    tool_calls: list[CalledTool]
    function_call: CalledFunction


class FunctionDelta(TypedDict):
    name: NotRequired[str]
    arguments: str


class ToolDelta(TypedDict):
    """A piece of a call. Only the first has id, type and name."""

    index: int
    id: NotRequired[str | None]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


class CallDeltaMembers(TypedDict, total=False):
    """The members of a chunk's delta that hold a piece of a call."""

    tool_calls: list[ToolDelta]
    function_call: FunctionDelta


def in_callers_terms(body: ToolsBody, error: BadRequest) -> BadRequest:
    """The error with the names of the body's `functions` instead of `tools`, if it has functions."""
    if body.functions and error.param is not None:
        param = re.sub(r"^tools\.(\d+)\.function\b", r"functions.\1", error.param)
        error.message, error.param = error.message.replace(error.param, param), param
    return error


# `functions` allow only one call at a time
FUNCTIONS_USE = Use("functions", Feature.PARALLEL_TOOL_CALLS, Feature.PARALLEL_TOOL_CALLS.loss)


def to_tools(body: ToolsBody) -> tuple[tuple[Tool, ...], ToolChoice]:
    """The tools and the choice among them. Raises BadRequest when members contradict each other."""
    if body.functions and (body.tools or body.tool_choice is not None):
        other = "tools" if body.tools else "tool_choice"
        raise BadRequest(f"functions and {other} exclude each other", param="functions")
    if body.functions:
        tools = tools_of(body.functions, "functions.{}")
    else:
        tools = tools_of([tool.function for tool in body.tools or ()])
    return tools, _choice(body, {tool.name for tool in tools})


def tools_of(bodies: Iterable[FunctionBody], place: str = "tools.{}.function") -> tuple[Tool, ...]:
    """The tools. `place`: the path of one in the request. Raises BadRequest if two have one name."""
    tools: dict[str, Tool] = {}
    for index, body in enumerate(bodies):
        check_new(body.name, tools, place.format(index))
        tools[body.name] = Tool(body.name, body.description, body.parameters, bool(body.strict))
    return tuple(tools.values())


def check_new(name: str, names: Container[str], param: str) -> None:
    """Raise BadRequest if an earlier tool has the name. `param`: the path of the tool."""
    if name in names:
        raise BadRequest.at(f"{param}.name", f"there are two of the name {name!r}")


def check_known(name: str, names: Container[str], param: str) -> str:
    """Return the name that a choice has at `param`. Raises BadRequest if no tool has it."""
    if name not in names:
        raise BadRequest.at(param, f"there is no tool of the name {name[:256]!r}")
    return name


def _choice(body: ToolsBody, names: Set[str]) -> ToolChoice:
    if isinstance(body.function_call, FunctionName):
        return ToolChoice("required", (check_known(body.function_call.name, names, "function_call"),))
    if body.functions:
        return ToolChoice(body.function_call or "auto")
    choice = body.tool_choice
    if isinstance(choice, ChoiceBody):
        return _named_choice(choice, names)
    if choice == "required" and not names:
        raise BadRequest.at("tool_choice", "required needs tools")
    return ToolChoice(choice or "auto")


def _named_choice(choice: ChoiceBody, names: Set[str]) -> ToolChoice:
    """A choice that names tools. Raises BadRequest."""
    if choice.type == "function":
        return ToolChoice("required", (_name(choice, names),))
    if choice.allowed_tools is None:
        param = "tool_choice.allowed_tools"
        raise BadRequest(f"{param} is needed with type allowed_tools", param=param)
    allowed = tuple(dict.fromkeys(_name(tool, names) for tool in choice.allowed_tools.tools))
    return ToolChoice(choice.allowed_tools.mode, allowed)


def _name(choice: ChoiceBody | NamedTool, names: Set[str]) -> str:
    name = choice.name if choice.function is None else choice.function.name
    if name is None:
        raise BadRequest.at("tool_choice", "type function needs function.name")
    return check_known(name, names, "tool_choice")


def legacy_reason(reason: FinishReason) -> ChatFinishReason:
    """The finish reason of a choice in the older form."""
    return "function_call" if reason == "tool_calls" else reason


def calls(choice: Choice, *, legacy: bool) -> CallMembers:
    """The members of a message that hold its calls; none if there are no calls."""
    functions: list[CalledFunction] = [
        {"name": call.name, "arguments": call.arguments} for call in choice.calls
    ]
    if not functions:
        return {}
    if legacy:
        return {"function_call": functions[0]}
    return {
        "tool_calls": [
            {"id": call.id, "type": "function", "function": function}
            for call, function in zip(choice.calls, functions, strict=True)
        ]
    }


def delta(event: ToolCallDelta, *, legacy: bool) -> CallDeltaMembers:
    """A piece of a call as members of a chunk's delta. The older form has room for a single call: other calls
    have no members.
    """
    if event.name is None:
        function: FunctionDelta = {"arguments": event.arguments}
        piece: ToolDelta = {"index": event.call, "function": function}
    else:
        function = {"name": event.name, "arguments": event.arguments}
        piece = {"index": event.call, "id": event.id, "type": "function", "function": function}
    if legacy:
        return {"function_call": function} if event.call == 0 else {}
    return {"tool_calls": [piece]}
