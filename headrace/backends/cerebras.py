"""Cerebras: OpenAI's dialect, with members that its models refuse and a quota that is taken in advance.

Its chunks tell how long a request waited and computed (`time_info`). No neutral event has a place for that:
it is dropped.
"""

from __future__ import annotations

from dataclasses import replace

from headrace.backends.openai import OpenAIBackend
from headrace.backends.openai.body import Body
from headrace.config import ProviderConfig
from headrace.errors import BadRequest, UnsupportedParameter
from headrace.types import Conversation, Embeddings, EmbedRequest, GenerateRequest

# The provider counts a request's most tokens against the minute's quota before the first is generated, and
# takes the model's whole context if it is told none.
DEFAULT_TOKENS = 8192
MAX_TOKENS = 32_768  # quota is reserved for all of it in advance; our own choice, from no page of theirs

# What a model answers with 400, by how its id begins; the first that fits counts.
PENALTIES = ("frequency_penalty", "presence_penalty", "logit_bias")
REFUSED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("gpt-oss", PENALTIES),
    ("zai-glm", PENALTIES),
    ("qwen-3", PENALTIES),
    ("", (*PENALTIES, "parallel_tool_calls")),
)


class CerebrasBackend(OpenAIBackend):
    """Raises UnsupportedParameter for what a model would refuse, before anything is sent."""

    url = "https://api.cerebras.ai/v1"
    own_headers = {"X-Cerebras-3rd-Party-Integration": "headrace"}  # noqa: RUF012  # nobody writes to it

    def __init__(self, name: str, config: ProviderConfig, key: str | None) -> None:
        super().__init__(name, config, key)
        self._limit = "max_completion_tokens"

    def ask(self, request: GenerateRequest) -> tuple[str, Body]:
        sampling = request.sampling
        limit = min(DEFAULT_TOKENS if sampling.max_tokens is None else sampling.max_tokens, MAX_TOKENS)
        path, body = super().ask(replace(request, sampling=replace(sampling, max_tokens=limit)))
        for name in _refused(request.model):
            if name in body:
                raise UnsupportedParameter(f"{name}: {request.model} does not take it", param=name)
        if isinstance(request.prompt, Conversation):
            for message in body["messages"]:
                if "reasoning_content" in message:  # it calls this so
                    message["reasoning"] = message.pop("reasoning_content")
        return path, body

    async def embed(self, request: EmbedRequest) -> Embeddings:
        raise BadRequest(f"{self.name} has no embeddings", param="model")


def _refused(model: str) -> tuple[str, ...]:
    return next(names for prefix, names in REFUSED if model.startswith(prefix))
