"""Tools of a response. The caller runs functions and custom tools. Tools that OpenAI would run are skipped
and not refused, because agents send them with every request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from headrace.errors import BadRequest
from headrace.types import Tool, ToolChoice
from headrace.wire.items.messages import CUSTOM_ARGUMENT
from headrace.wire.limits import MAX_TOOLS, at_most
from headrace.wire.parameters import ByType, RequestBody
from headrace.wire.tools import FunctionBody, Mode, ToolName, check_new


class FunctionTool(FunctionBody):
    type: Literal["function"]


class TextInput(RequestBody):
    type: Literal["text"]


class GrammarInput(RequestBody):
    type: Literal["grammar"]
    syntax: Literal["lark", "regex"]
    definition: str


class TextTool(RequestBody):
    """A tool that takes text."""

    type: Literal["custom"]
    name: ToolName
    description: str | None = None
    format: Annotated[TextInput | GrammarInput, Field(discriminator="type")] | None = Field(
        None, description="A grammar is described to the model but not enforced."
    )


AnyTool = Annotated[FunctionTool | TextTool | dict[str, Any], ByType("tool_type", "a tool has a type")]


class ToolReference(RequestBody):
    type: str
    name: str | None = None


class ChosenTool(ToolReference):
    """A function or a custom tool by its name, `allowed_tools`, or a hosted tool by its type."""

    mode: Literal["auto", "required"] | None = Field(None, description="With type allowed_tools.")
    tools: Annotated[list[ToolReference], at_most(MAX_TOOLS, least=1)] | None = Field(
        None, description="With type allowed_tools."
    )


AnyChoice = Mode | ChosenTool
OURS = ("function", "custom")
CUSTOM_PARAMETERS = {
    "type": "object",
    "properties": {CUSTOM_ARGUMENT: {"type": "string"}},
    "required": [CUSTOM_ARGUMENT],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Offered:
    """The tools that a model gets. `places`: each tool's index in the body; `skipped`: the paths of members
    that were left out; `written`, `written_choice`: tools and tool_choice as members of the response object.
    """

    tools: tuple[Tool, ...]
    choice: ToolChoice
    places: tuple[int, ...]
    skipped: tuple[str, ...]
    written: tuple[dict[str, Any], ...]
    written_choice: str | dict[str, Any]


def offered(bodies: Sequence[AnyTool] | None, requested: AnyChoice | None) -> Offered:
    """Read the tools of a request and which of them the model may call. Raises BadRequest if the choice names
    a tool that is not there.
    """
    by_name: dict[str, FunctionTool | TextTool] = {}
    places: list[int] = []
    skipped: list[str] = []
    for index, body in enumerate(bodies or ()):
        if isinstance(body, dict):
            skipped.append(f"tools.{index}:{body['type']}")
            continue
        check_new(body.name, by_name, f"tools.{index}")
        by_name[body.name] = body
        places.append(index)
    choice, written_choice = _choice(requested, by_name, skipped)
    return Offered(
        tuple(_tool(body) for body in by_name.values()),
        choice,
        tuple(places),
        tuple(skipped),
        tuple(_written(body) for body in by_name.values()),
        written_choice,
    )


def custom_names(bodies: Sequence[AnyTool] | None) -> frozenset[str]:
    return frozenset(body.name for body in bodies or () if isinstance(body, TextTool))


def _tool(body: FunctionTool | TextTool) -> Tool:
    if isinstance(body, FunctionTool):
        return Tool(body.name, body.description, body.parameters, bool(body.strict))
    sentences = [body.description or "Takes text."]
    if isinstance(body.format, GrammarInput):
        grammar = f"The input has to match this {body.format.syntax} grammar:\n{body.format.definition}"
        sentences.append(grammar)
    return Tool(body.name, "\n\n".join(sentences), CUSTOM_PARAMETERS, True)


def _written(body: FunctionTool | TextTool) -> dict[str, Any]:
    if isinstance(body, TextTool):
        return body.model_dump(exclude=set(body.model_extra or ()), exclude_none=True)
    return {
        "type": "function",
        "name": body.name,
        "description": body.description,
        "parameters": body.parameters,
        "strict": bool(body.strict),
    }


def _choice(
    requested: AnyChoice | None, by_name: dict[str, FunctionTool | TextTool], skipped: list[str]
) -> tuple[ToolChoice, str | dict[str, Any]]:
    """The choice for the model, and the response's member tool_choice."""
    if isinstance(requested, ChosenTool):
        return _chosen(requested, by_name, skipped)
    mode = requested or "auto"
    if mode == "required" and not by_name:
        if not skipped:
            raise BadRequest.at("tool_choice", "required needs tools")
        skipped.append("tool_choice")
        mode = "auto"
    return ToolChoice(mode), mode


def _chosen(
    requested: ChosenTool, by_name: dict[str, FunctionTool | TextTool], skipped: list[str]
) -> tuple[ToolChoice, str | dict[str, Any]]:
    if requested.type in OURS:
        name = _known(requested, by_name, "tool_choice")
        return ToolChoice("required", (name,)), {"type": requested.type, "name": name}
    if requested.type != "allowed_tools":
        skipped.append(f"tool_choice:{requested.type}")
        return ToolChoice("auto"), "auto"
    allowed = list(_allowed(requested, by_name, skipped))
    if not allowed:
        return ToolChoice("none"), "none"
    mode = requested.mode or "auto"
    names = tuple(dict.fromkeys(name for _, name in allowed))
    tools = [{"type": type, "name": name} for type, name in allowed]
    return ToolChoice(mode, names), {"type": "allowed_tools", "mode": mode, "tools": tools}


def _allowed(
    requested: ChosenTool, by_name: dict[str, FunctionTool | TextTool], skipped: list[str]
) -> Iterator[tuple[str, str]]:
    for name in ("mode", "tools"):
        if getattr(requested, name) is None:
            param = f"tool_choice.{name}"
            raise BadRequest(f"{param} is needed with type allowed_tools", param=param)
    for index, tool in enumerate(requested.tools or ()):
        param = f"tool_choice.tools.{index}"
        if tool.type in OURS:
            yield tool.type, _known(tool, by_name, param)
        else:
            skipped.append(f"{param}:{tool.type}")


def _known(requested: ToolReference, by_name: dict[str, FunctionTool | TextTool], param: str) -> str:
    name = requested.name
    if name is None or name not in by_name or by_name[name].type != requested.type:
        problem = "no name is given"
        if name is not None:
            problem = f"there is no {requested.type} tool of the name {name[:256]!r}"
        raise BadRequest(f"{param}: {problem}", param=f"{param}.name")
    return name
