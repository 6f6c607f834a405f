"""The formats of tool calls by name, and how to recognize a chat template's. docs/tools.md describes each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.types import Tool

BEFORE = ".!?>"  # signs that may precede a bare call without a space


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """A way of writing calls, as pieces of text: begin, opening, the calls with `separator` between them,
    closing. A call is head, the arguments as JSON, and tail; in `head`, NAME stands for the tool's name.
    """

    name: str
    begin: str  # the trigger: a call follows it
    head: str
    tail: str
    separator: str
    opening: str = ""
    closing: str = ""
    end: str = ""  # closes a call; a part of `tail`
    tag: str = ""  # closes a bare name; a part of `head`
    is_bare: bool = False  # an answer may begin with a call, without `begin`

    @property
    def markers(self) -> tuple[str, ...]:
        """The texts that may be special tokens of a vocabulary. The parser must see them as text."""
        return tuple(marker for marker in (self.begin, self.tag, self.end) if marker)

    def instructions(self, tools: Sequence[Tool]) -> str:
        """The text for the system message, for templates that do not render tools themselves."""
        functions = "\n".join(json.dumps(_description(tool), ensure_ascii=False) for tool in tools)
        call = self.head.replace("NAME", "...") + "{...}" + self.tail
        first = f"{self.begin}{self.opening}{call}{self.closing}"
        return f"You can call these functions:\n{functions}\n\nTo call one, answer only:\n{first}"


def _description(tool: Tool) -> dict[str, object]:
    described: dict[str, object] = {"name": tool.name}
    if tool.description:
        described["description"] = tool.description
    return described | {"parameters": dict(tool.parameters or {"type": "object", "properties": {}})}


_HERMES = ToolFormat(
    name="hermes",
    begin="<tool_call>",
    head='\n{"name": "NAME", "arguments": ',
    tail="}\n</tool_call>",
    end="</tool_call>",
    separator="\n<tool_call>",
)
_LLAMA3 = ToolFormat(
    name="llama3",
    begin="<|python_tag|>",
    head='{"name": "NAME", "parameters": ',
    tail="}",
    separator="; ",
    is_bare=True,
)
_MISTRAL = ToolFormat(
    name="mistral",
    begin="[TOOL_CALLS]",
    opening="[",
    head='{"name": "NAME", "arguments": ',
    tail="}",
    separator=", ",
    closing="]",
)
_MISTRAL_ARGS = ToolFormat(
    name="mistral-args",
    begin="[TOOL_CALLS]",
    head="NAME[ARGS]",
    tail="",
    tag="[ARGS]",
    separator="[TOOL_CALLS]",
)
FORMATS: dict[str, ToolFormat] = {
    format.name: format for format in (_HERMES, _LLAMA3, _MISTRAL, _MISTRAL_ARGS)
}


def own_format(template_source: str | None) -> ToolFormat | None:
    """The format that the template itself writes; None if it is none of ours."""
    source = template_source or ""
    if "[TOOL_CALLS]" in source:
        return _MISTRAL_ARGS if "[ARGS]" in source else _MISTRAL
    if "<|python_tag|>" in source:
        return _LLAMA3
    # The same marker with <function=NAME> inside is another format.
    if "<tool_call>" in source and "<function=" not in source:
        return _HERMES
    return None


def detect(template_source: str | None) -> ToolFormat:
    """The template's own format, or else that of Hermes, which `instructions` then describes to the model."""
    return own_format(template_source) or _HERMES
