"""OpenAI's dialect as llama.cpp's server implements it: members that it would silently ignore are refused,
and members that have another name there are renamed. For structured output it gets Headrace's own grammar,
which it enforces with the same library (llguidance). It ignores grammars that it cannot read, so its answer
is checked against the grammar here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace

from llguidance import LLMatcher, LLTokenizer

from headrace.backends.openai import OpenAIBackend
from headrace.backends.openai.body import Body
from headrace.backends.writing import Writing
from headrace.errors import ProviderError, UnsupportedParameter
from headrace.features import Feature
from headrace.offload import SMALL, aside
from headrace.text.structured.grammar import lark_source
from headrace.text.structured.keywords import ALL_NARROWINGS
from headrace.text.structured.schema import ESCAPES
from headrace.types import Conversation, Event, Format, GenerateRequest, Sampling, TextDelta, Tool

UNSUPPORTED = {
    Feature.ADVICE, Feature.DIMENSIONS, Feature.ECHO, Feature.EMBEDDINGS, Feature.INPUT_TRUNCATION,
    Feature.MIN_TOKENS, Feature.OTHER_SAMPLING, Feature.PREDICTION, Feature.PROMPT_TRUNCATION,
    Feature.RERANK, Feature.SCHEMA_DESCRIPTION, Feature.SERVICE_TIER,
    Feature.SPECIAL_TOKENS_SHOWN, Feature.STOP_TOKEN_IDS, Feature.SUFFIX, Feature.VERBOSITY,
}  # fmt: skip
FEATURES = (OpenAIBackend.features - UNSUPPORTED) | {
    Feature.CHOICE, Feature.GRAMMAR, Feature.PROMPT_CACHE, Feature.REGEX, Feature.SCHEMA_NARROWING,
}  # fmt: skip
MARK = "%llguidance"  # the beginning by which llama.cpp recognizes such a grammar
UNKNOWN = ", " + json.dumps(ESCAPES)[1:-1]  # an option that llama.cpp's version of the library lacks
# keywords of a tool's schema that llama.cpp enforces, with its own grammars
ENFORCED = frozenset(
    (
        "type", "properties", "required", "additionalProperties", "items", "enum", "const", "title",
        "description", "default", "examples", "$schema",
    )
)  # fmt: skip


class LlamaCppDialect(OpenAIBackend):
    """Writes requests for one choice. `has_tools`: the chat template supports tools. `reuses_prompts`: see
    LlamaCppBackend.
    """

    features = FEATURES
    by_us = frozenset({Feature.CONTINUED_MESSAGE, Feature.PROMPT_CACHE, Feature.SCHEMA_NARROWING})
    has_tools = True
    knows_verbosity = False
    reuses_prompts = True
    extra_members = ()  # it is a part of ours

    def write(self, request: GenerateRequest, writing: Writing | None = None) -> tuple[str, Body]:
        assert request.num_choices == 1, "it counts the tokens of one choice only"
        form = as_grammar(request)
        path, body = super().write(
            replace(request, sampling=_with_alternatives(request.sampling), format=None), writing
        )
        if form is not None:
            body["grammar"] = form.value
        if not self.reuses_prompts:
            body["cache_prompt"] = False
        if "repetition_penalty" in body:
            body["repeat_penalty"] = body.pop("repetition_penalty")
        if isinstance(request.prompt, Conversation):
            self._check_conversation(request.prompt)
            for member in ("continue_final_message", "add_generation_prompt"):
                if request.prompt.continue_final_message:
                    body.pop(member, None)  # llama.cpp always continues a last message of the assistant
        return path, body

    def _check_conversation(self, prompt: Conversation) -> None:
        for index, tool in enumerate(prompt.tools):
            if tool.strict:
                check_tool(tool, f"tools.{index}.function.parameters")
        if prompt.tools and not self.has_tools:
            # llama.cpp would leave them out silently, even with tool_choice "required"
            raise UnsupportedParameter.at("tools", "the model's chat template has no place for them")
        is_last_assistant = prompt.messages[-1].role == "assistant"
        if is_last_assistant and not prompt.continue_final_message:
            raise UnsupportedParameter.at(
                "messages",
                "llama.cpp continues a last message of the assistant; request it with continue_final_message",
            )
        if prompt.continue_final_message and prompt.tools:
            raise UnsupportedParameter.at("continue_final_message", "not beside tools, with llama.cpp")


def shown(delta: TextDelta, sampling: Sampling) -> TextDelta:
    """Cut the alternatives of each token to the requested number: llama.cpp is always sent at least one."""
    if sampling.logprobs is None or not delta.logprobs:
        return delta
    return replace(
        delta, logprobs=tuple(replace(token, top=token.top[: sampling.logprobs]) for token in delta.logprobs)
    )


def _with_alternatives(sampling: Sampling) -> Sampling:
    """Request at least one alternative if logprobs are on: llama.cpp reads 0 as 20, or as no logprobs."""
    return sampling if sampling.logprobs is None else replace(sampling, logprobs=max(1, sampling.logprobs))


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
    source = lark_source(form, ALL_NARROWINGS if request.narrowings is None else request.narrowings)
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
    """Raise UnsupportedParameter for keywords in a strict tool's schema that llama.cpp does not enforce."""
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
            raise UnsupportedParameter.at(where, "llama.cpp would not enforce it")
        left += [(f"{path}.properties.{name}", part) for name, part in properties.items()]
        left += [
            (f"{path}.{name}", schema[name]) for name in ("items", "additionalProperties") if name in schema
        ]
