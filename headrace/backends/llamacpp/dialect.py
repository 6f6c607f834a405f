"""OpenAI's dialect as llama.cpp's server implements it: members that it would silently ignore are refused,
and members that have another name there are renamed.
"""

from __future__ import annotations

from dataclasses import replace

from headrace.backends.llamacpp.forms import as_grammar, check_tool
from headrace.backends.openai import OpenAIBackend
from headrace.backends.openai.body import Body
from headrace.backends.writing import Writing
from headrace.errors import UnsupportedParameter
from headrace.features import Feature
from headrace.types import Conversation, GenerateRequest, Sampling, TextDelta

UNSUPPORTED = {
    Feature.ADVICE, Feature.DIMENSIONS, Feature.ECHO, Feature.EMBEDDINGS, Feature.INPUT_TRUNCATION,
    Feature.MIN_TOKENS, Feature.OTHER_SAMPLING, Feature.PREDICTION, Feature.PROMPT_TRUNCATION,
    Feature.RERANK, Feature.SCHEMA_DESCRIPTION, Feature.SERVICE_TIER,
    Feature.SPECIAL_TOKENS_SHOWN, Feature.STOP_TOKEN_IDS, Feature.SUFFIX, Feature.VERBOSITY,
}  # fmt: skip
FEATURES = (OpenAIBackend.features - UNSUPPORTED) | {
    Feature.CHOICE, Feature.GRAMMAR, Feature.PROMPT_CACHE, Feature.REGEX, Feature.SCHEMA_NARROWING,
}  # fmt: skip


class LlamaCppDialect(OpenAIBackend):
    """Writes requests for one choice. `has_tools`: the chat template supports tools. `reuses_prompts`: see
    LlamaCppBackend.
    """

    features = FEATURES
    by_us = frozenset({Feature.CONTINUED_MESSAGE, Feature.PROMPT_CACHE, Feature.SCHEMA_NARROWING})
    has_tools = True
    knows_verbosity = False
    reuses_prompts = True

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
            raise UnsupportedParameter(
                "tools: the model's chat template has no place for them", param="tools"
            )
        is_last_assistant = prompt.messages[-1].role == "assistant"
        if is_last_assistant and not prompt.continue_final_message:
            raise UnsupportedParameter(
                "messages: llama.cpp continues a last message of the assistant; request it with "
                "continue_final_message",
                param="messages",
            )
        if prompt.continue_final_message and prompt.tools:
            raise UnsupportedParameter(
                "continue_final_message: not beside tools, with llama.cpp", param="continue_final_message"
            )


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
