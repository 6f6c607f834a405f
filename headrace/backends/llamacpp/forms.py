"""Answers in a prescribed form. llama.cpp is sent our own grammar, which it enforces with the library that we
use, too. It ignores a grammar that it cannot read, so its answer is held against the grammar here.
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

MARK = "%llguidance"  # what llama.cpp knows such a grammar by
UNKNOWN = ", " + json.dumps(ESCAPES)[1:-1]  # an option that the library in llama.cpp does not have
# what llama.cpp enforces of a tool's schema, by grammars of its own
ENFORCED = frozenset(
    (
        "type", "properties", "required", "additionalProperties", "items", "enum", "const", "title",
        "description", "default", "examples", "$schema",
    )
)  # fmt: skip


async def with_grammar(request: GenerateRequest) -> GenerateRequest:
    """The request with its form as a grammar, compiled off the event loop. Raises BadRequest."""
    if request.format is None:
        return request
    form = await aside(SMALL + 1, lambda: as_grammar(request))
    return replace(request, format=form)


def as_grammar(request: GenerateRequest) -> Format | None:
    """The form as a grammar for llama.cpp; None where calls must be made instead. Raises BadRequest."""
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


async def held(events: AsyncIterator[Event], form: Format) -> AsyncGenerator[Event, None]:
    """The events of an answer while its text is one that the grammar allows. Raises ProviderError."""
    matcher = LLMatcher(LLTokenizer("byte"), LLMatcher.grammar_from_lark(form.value), log_level=0)
    async for event in events:
        if isinstance(event, TextDelta):
            written = event.text.encode()
            if matcher.try_consume_tokens(list(written)) < len(written):
                raise ProviderError("llama.cpp left the form that was prescribed")
        yield event


def check_tool(tool: Tool, param: str) -> None:
    """Raises UnsupportedParameter for what llama.cpp would not enforce of a strict tool's parameters."""
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
