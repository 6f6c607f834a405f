"""The formats of tool calls by name, how to recognize a chat template's, and the grammar that enforces one,
for llguidance. docs/tools.md describes each.

A lexeme marked `[lazy]` ends at its first match and takes precedence over text that could continue: therefore
the trigger binds. A special token never matches a string or a regular expression.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from headrace.text.structured.formats import literal
from headrace.types import Tool

BEFORE = ".!?>"  # signs that may precede a bare call without a space

_ANY = "/(?s:.*)/"
# The parser reads an answer that begins like this as a call, so text must not begin like it.
_BARE_CALL = r'/\s*\{\s*"(name"|function"|type"\s*:\s*"function")(?s:.*)/'


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


def call_grammar(
    format: ToolFormat,
    tools: Sequence[Tool],
    *,
    mode: Literal["auto", "required"],
    parallel: bool,
    special: Mapping[str, int],
    schema: Callable[[Tool], str],
) -> str:
    """Lark source for llguidance; at least one tool.

    `mode`: `auto` allows text, calls, or text and then calls; `required` allows nothing but one call, or with
    `parallel` one or more. `special`: the ids of special tokens; a marker among them is written `<[ID]>`,
    which no string matches. `schema`: writes what follows `%json` for a tool's arguments.
    """
    assert tools, "a grammar of calls needs a tool"
    special = {marker: special[marker] for marker in format.markers if marker in special}
    strict = [tool.name for tool in tools if tool.strict]
    rules = _auto_rules(format, special, strict) if mode == "auto" else _required_rules(format, special)
    more_calls = f"({_terms(format.separator, special)} call)*" if parallel else ""
    rules.append(
        f"calls: {_terms(format.opening, special)} call {more_calls} {_terms(format.closing, special)}"
    )
    rules.append("call: " + " | ".join(f"call_{number}" for number in range(len(tools))))
    for number, tool in enumerate(tools):
        name = json.dumps(tool.name, ensure_ascii=False)[1:-1]
        head, tail = _terms(format.head.replace("NAME", name), special), _terms(format.tail, special)
        rules.append(f"call_{number}: {head} %json {schema(tool)} {tail}")
    return "%llguidance {}\n" + "\n".join(re.sub(" +$", "", rule) for rule in rules) + "\n"


def _required_rules(format: ToolFormat, special: Mapping[str, int]) -> list[str]:
    begin = _terms(format.begin, special)
    return [f"start: ({begin})? calls" if format.is_bare else f"start: {begin} calls"]


def _auto_rules(format: ToolFormat, special: Mapping[str, int], strict: Sequence[str]) -> list[str]:
    """Rules for text with or without calls.

    The trigger binds also as a string where it is a special token, because the parser cannot tell the two
    apart. A bare object within text may be an example, so no schema is enforced there; `strict` tools cannot
    be named in one.
    """
    heads = ["head"] + ([f"TEXT? {_terms(format.begin, special)}"] if format.begin in special else [])
    text = f"{_ANY} & ~{_BARE_CALL}" if format.is_bare else _ANY
    if format.is_bare and strict:
        names = "|".join(map(literal, strict))
        text += rf' & ~/((?s:.*)[\s\[{BEFORE}])?\{{(?s:.*)"(functions\.)?({names})"(?s:.*)/'
    bare = " | calls SPACE?" if format.is_bare else ""
    return [
        f"start: TEXT | begin calls SPACE?{bare}",
        f"begin: {' | '.join(heads)}",
        f"head[lazy]: TEXT {json.dumps(format.begin)}",
        f"TEXT: {text}",
        r"SPACE: /[ \n]{1,8}/",
    ]


def _terms(text: str, special: Mapping[str, int]) -> str:
    """The text as terms: strings and special tokens. An empty text has none."""
    pieces = re.split("(" + "|".join(map(re.escape, special)) + ")", text) if special else [text]
    written = (
        f"<[{special[piece]}]>" if piece in special else json.dumps(piece, ensure_ascii=False)
        for piece in pieces
        if piece
    )
    return " ".join(written)
