"""Writes the grammar of tool calls in a format, as source for llguidance.

A lexeme marked `[lazy]` ends at its first match and takes precedence over text that could continue: therefore
the trigger binds. A special token never matches a string or a regular expression.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from headrace.text.literals import literal
from headrace.text.toolcalls.formats import BEFORE, ToolFormat
from headrace.types import Tool

_ANY = "/(?s:.*)/"
# The parser reads an answer that begins like this as a call, so text must not begin like it.
_BARE_CALL = r'/\s*\{\s*"(name"|function"|type"\s*:\s*"function")(?s:.*)/'


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
