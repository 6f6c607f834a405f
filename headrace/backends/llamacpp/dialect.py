"""OpenAI's dialect as llama.cpp's server has it: what it would leave out without a word is refused, what it
calls otherwise is said in its words.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from headrace.backends.openai import OpenAIBackend
from headrace.backends.openai.body import Body
from headrace.backends.writing import Writing
from headrace.errors import UnsupportedParameter
from headrace.types import Conversation, GenerateRequest, Sampling, TextDelta, Texts

# of JSON schemas: it has no rules for these
UNENFORCED = frozenset(
    (
        "not", "if", "then", "else", "multipleOf", "patternProperties", "propertyNames", "minProperties",
        "maxProperties", "uniqueItems", "contains", "minContains", "maxContains", "dependentRequired",
        "dependentSchemas", "unevaluatedProperties", "unevaluatedItems", "additionalItems", "$dynamicRef",
    )
)  # fmt: skip
BOUNDS = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"))  # of whole numbers only
FORMATS = frozenset(("date", "time", "date-time", "uuid"))
MANY = ("properties", "$defs", "definitions")  # keywords whose value is schemas by name
SEVERAL = ("allOf", "anyOf", "oneOf", "prefixItems")
ONE = ("items", "additionalProperties")


class LlamaCppDialect(OpenAIBackend):
    """For one choice. `has_tools`: whether the chat template has a place for them. `reuses_prompts`: see
    LlamaCppBackend.
    """

    has_tools = True
    knows_verbosity = False
    reuses_prompts = True

    def ask(self, request: GenerateRequest, writing: Writing | None = None) -> tuple[str, Body]:
        assert request.num_choices == 1, "it counts the tokens of one choice only"
        _check(request)
        path, body = super().ask(replace(request, sampling=_asked(request.sampling)), writing)
        if not self.reuses_prompts:
            body["cache_prompt"] = False
        if "repetition_penalty" in body:
            body["repeat_penalty"] = body.pop("repetition_penalty")
        if isinstance(request.prompt, Conversation):
            self._check_conversation(request.prompt)
            for member in ("continue_final_message", "add_generation_prompt"):
                if request.prompt.continue_final_message:
                    body.pop(member, None)  # it goes on with an assistant's message by itself
        elif "response_format" in body:  # in completions it knows another name
            kind = body.pop("response_format")
            body["json_schema"] = (
                kind["json_schema"]["schema"] if "json_schema" in kind else {"type": "object"}
            )
        if request.format is not None and request.format.kind == "json_schema":
            _check_schema(request.format.value, request.format.param)
        return path, body

    def _check_conversation(self, prompt: Conversation) -> None:
        if prompt.tools and not self.has_tools:
            # llama.cpp would leave them out, "required" ones too, and say nothing
            raise UnsupportedParameter(
                "tools: the model's chat template has no place for them", param="tools"
            )
        is_begun = prompt.messages[-1].role == "assistant"
        if is_begun and not prompt.continue_final_message:
            raise UnsupportedParameter(
                "messages: llama.cpp goes on with a last message of the assistant; ask for it with "
                "continue_final_message",
                param="messages",
            )
        if prompt.continue_final_message and prompt.tools:
            raise UnsupportedParameter(
                "continue_final_message: not beside tools, with llama.cpp", param="continue_final_message"
            )


def shown(delta: TextDelta, sampling: Sampling) -> TextDelta:
    """With as many probable tokens beside each as were asked for: llama.cpp is never asked for less than
    one.
    """
    if sampling.logprobs is None or not delta.logprobs:
        return delta
    return replace(
        delta, logprobs=tuple(replace(token, top=token.top[: sampling.logprobs]) for token in delta.logprobs)
    )


def _asked(sampling: Sampling) -> Sampling:
    """With at least one probable token, if any: of none it makes 20, or no logprobs at all."""
    return sampling if sampling.logprobs is None else replace(sampling, logprobs=max(1, sampling.logprobs))


def _check(request: GenerateRequest) -> None:
    sampling = request.sampling
    ignored = {
        "stop_token_ids": bool(sampling.stop_token_ids),
        "min_tokens": bool(sampling.min_tokens),
        "skip_special_tokens": not sampling.skip_special_tokens,
        "truncate_prompt_tokens": sampling.truncate_prompt_tokens is not None,
    }
    if isinstance(request.prompt, Texts):
        ignored |= {"echo": request.prompt.echo, "suffix": request.prompt.suffix is not None}
    for name, is_given in ignored.items():
        if is_given:
            raise UnsupportedParameter(f"{name}: llama.cpp cannot do this", param=name)


def _check_schema(schema: Any, param: str) -> None:
    """Raises UnsupportedParameter for what it would not enforce."""
    if not isinstance(schema, dict):
        return
    for keyword in schema:
        bounded = keyword in BOUNDS and schema.get("type") != "integer"
        unknown = keyword == "format" and schema["format"] not in FORMATS
        if keyword in UNENFORCED or bounded or unknown:
            where = f"{param}.{keyword}"
            raise UnsupportedParameter(f"{where}: llama.cpp would not enforce it", param=where)
    for step, below in _below(schema):
        _check_schema(below, f"{param}.{step}")


def _below(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas directly inside one, with the way to each."""
    with suppress(AttributeError, TypeError):  # no schema at all: llama.cpp says so
        for keyword in MANY:
            yield from ((f"{keyword}.{name}", part) for name, part in schema.get(keyword, {}).items())
        for keyword in SEVERAL:
            yield from ((f"{keyword}.{index}", part) for index, part in enumerate(schema.get(keyword, ())))
    yield from ((keyword, schema[keyword]) for keyword in ONE if keyword in schema)
