"""Structured output. llama.cpp gets Headrace's own grammar, which it enforces with the same library
(llguidance). It ignores grammars that it cannot read, so its answer is checked against the grammar here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace

from llguidance import LLMatcher, LLTokenizer

from headrace.errors import ProviderError, UnsupportedParameter
from headrace.offload import SMALL, aside
from headrace.text.structured.grammar import lark_source
from headrace.text.structured.narrowing import ALL
from headrace.text.structured.schema import ESCAPES
from headrace.types import Conversation, Event, Format, GenerateRequest, TextDelta, Tool

MARK = "%llguidance"  # the beginning by which llama.cpp recognizes such a grammar
UNKNOWN = ", " + json.dumps(ESCAPES)[1:-1]  # an option that llama.cpp's version of the library lacks
# keywords of a tool's schema that llama.cpp enforces, with its own grammars
ENFORCED = frozenset(
    (
        "type", "properties", "required", "additionalProperties", "items", "enum", "const", "title",
        "description", "default", "examples", "$schema",
    )
)  # fmt: skip


async def with_grammar(request: GenerateRequest) -> GenerateRequest:
    """Replace a request's format by a grammar, compiled off the event loop. Raises BadRequest."""
    if request.format is None:
        return request
    form = await aside(SMALL + 1, lambda: as_grammar(request))
    return replace(request, format=form)


def as_grammar(request: GenerateRequest) -> Format | None:
    """The format as a grammar for llama.cpp; None if tool calls are required instead. Raises BadRequest."""
    form, prompt = request.format, request.prompt
    if form is None or (form.kind == "grammar" and form.value.startswith(MARK)):
        return form
    if isinstance(prompt, Conversation) and prompt.tools and prompt.tool_choice.mode != "none":
        if prompt.tool_choice.mode == "required":
            return None
        message = f"{form.param} and tools that may be called exclude each other, with llama.cpp"
        raise UnsupportedParameter(message, param=form.param)
    source = lark_source(form, ALL if request.narrowings is None else request.narrowings)
    header = "" if source.lstrip().startswith(MARK) else f"{MARK} {{}}\n"
    return replace(form, kind="grammar", value=header + source.lstrip().replace(UNKNOWN, ""))


async def checked(events: AsyncIterator[Event], form: Format) -> AsyncGenerator[Event, None]:
    """Yield the events of an answer. Raises ProviderError when its text leaves the grammar."""
    matcher = LLMatcher(LLTokenizer("byte"), LLMatcher.grammar_from_lark(form.value), log_level=0)
    async for event in events:
        if isinstance(event, TextDelta):
            written = event.text.encode()
            if matcher.try_consume_tokens(list(written)) < len(written):
                raise ProviderError("llama.cpp left the form that was prescribed")
        yield event


def check_tool(tool: Tool, param: str) -> None:
    """Raises UnsupportedParameter for keywords in a strict tool's schema that llama.cpp does not enforce."""
    left: list[tuple[str, object]] = [(param, tool.parameters or {})]
    while left:
        path, schema = left.pop()
        if not isinstance(schema, dict):
            continue
        properties, required = schema.get("properties", {}), schema.get("required", [])
        unknown = [name for name in schema if name not in ENFORCED]
        if isinstance(required, list) and any(name not in properties for name in required):
            unknown.append("required")
        if unknown:
            where = f"{path}.{unknown[0]}"
            raise UnsupportedParameter(f"{where}: llama.cpp would not enforce it", param=where)
        left += [(f"{path}.properties.{name}", part) for name, part in properties.items()]
        left += [
            (f"{path}.{name}", schema[name]) for name in ("items", "additionalProperties") if name in schema
        ]
