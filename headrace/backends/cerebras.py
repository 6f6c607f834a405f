"""Cerebras: OpenAI's dialect, with members that its models refuse and a quota that is charged in advance.

Its answers contain the times that a request waited and computed (`time_info`), which are relayed to callers.
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from headrace.backend_types import Backend
from headrace.backends.openai import OpenAIBackend
from headrace.backends.openai.body import Body
from headrace.backends.writing import Writing
from headrace.config import ProviderConfig
from headrace.features import Feature
from headrace.relay_types import RelayRequest
from headrace.types import Conversation, GenerateRequest

# The provider charges max_tokens to the quota before it generates, and without max_tokens the model's whole
# context. Both limits are Headrace's choice.
DEFAULT_TOKENS = 8192
MAX_TOKENS = 32_768

FEATURES = OpenAIBackend.features - {
    Feature.ADVANCED_SAMPLING, Feature.ADVICE, Feature.DIMENSIONS, Feature.EMBEDDINGS, Feature.PREDICTION,
    Feature.FREQUENCY_PENALTY, Feature.INPUT_TRUNCATION, Feature.LOGIT_BIAS, Feature.OTHER_SAMPLING,
    Feature.PRESENCE_PENALTY, Feature.REPETITION_WINDOW, Feature.RERANK, Feature.SERVICE_TIER,
    Feature.TYPICAL_P, Feature.VERBOSITY,
}  # fmt: skip
# models, by how their ids begin, that take `parallel_tool_calls: false`; the others answer it with 400
PARALLEL = ("gpt-oss", "zai-glm", "qwen-3")

# members that every model answers with 400
PENALTIES = ("frequency_penalty", "presence_penalty", "logit_bias")


class CerebrasBackend(OpenAIBackend):
    """OpenAI's dialect, less what the models refuse."""

    features = FEATURES
    unsent = frozenset({Feature.ADVICE, Feature.PREDICTION, Feature.SERVICE_TIER})
    url = "https://api.cerebras.ai/v1"
    extra_members = (*OpenAIBackend.extra_members, "time_info")
    knows_verbosity = False
    own_headers = {"X-Cerebras-3rd-Party-Integration": "headrace"}  # noqa: RUF012  # never mutated

    def __init__(self, name: str, config: ProviderConfig, key: str | None) -> None:
        url = config.base_url
        if url is not None and not urlsplit(url).path.strip("/"):  # Cerebras' own SDK wants it without
            config = config.model_copy(update={"base_url": url.rstrip("/") + "/v1"})
        super().__init__(name, config, key)
        self._limit = "max_completion_tokens"

    def features_of(self, model: str) -> frozenset[Feature]:
        return self.features if model.startswith(PARALLEL) else self.features - {Feature.PARALLEL_TOOL_CALLS}

    def write(self, request: GenerateRequest, writing: Writing | None = None) -> tuple[str, Body]:
        sampling = request.sampling
        limit = min(DEFAULT_TOKENS if sampling.max_tokens is None else sampling.max_tokens, MAX_TOKENS)
        path, body = super().write(replace(request, sampling=replace(sampling, max_tokens=limit)), writing)
        if isinstance(request.prompt, Conversation):
            for message in body["messages"]:
                if "reasoning_content" in message:  # Cerebras' name for the member
                    message["reasoning"] = message.pop("reasoning_content")
        return path, body

    def relays(self, request: RelayRequest, model: str) -> bool:
        """Only requests in which nothing but the limit has to change; `write` translates all others."""
        limit = _limit_of(request)
        members = request.body.members
        if limit is None or any(name in members for name in _refused(model)):
            return False
        value, messages = members.get(limit), members.get("messages")
        is_limit = value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0)
        is_plain = not isinstance(messages, list) or all(
            isinstance(message, dict) and "reasoning_content" not in message for message in messages
        )
        return is_limit and is_plain and (limit == "max_tokens" or "max_tokens" not in members)

    def changes(self, request: RelayRequest, model: str) -> Body:
        limit = _limit_of(request)
        assert limit is not None, "`relays` accepts no other endpoint"
        value = request.body.members.get(limit) or request.max_tokens or DEFAULT_TOKENS
        return {**super().changes(request, model), limit: min(value, MAX_TOKENS)}

    embed = Backend.embed
    rerank = Backend.rerank


def _limit_of(request: RelayRequest) -> str | None:
    """The endpoint's member for the limit of an answer's tokens; None: it has none."""
    return {"/chat/completions": "max_completion_tokens", "/completions": "max_tokens"}.get(request.endpoint)


def _refused(model: str) -> tuple[str, ...]:
    """The members of OpenAI's dialect that a model answers with 400."""
    return PENALTIES if model.startswith(PARALLEL) else (*PENALTIES, "parallel_tool_calls")
