"""OpenAIBackend: a provider that speaks OpenAI's dialect, over its HTTP API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from headrace.backends.answer_body import events_of
from headrace.backends.http import Upstream, root
from headrace.backends.openai.answer import Answer
from headrace.backends.openai.body import Body, chat_body, completion_body, embed_body
from headrace.backends.openai.mending import changes, is_own
from headrace.backends.openai.reading import OpenAIReading
from headrace.backends.passthrough import relayed
from headrace.backends.remote import Remote, listed
from headrace.backends.sse import ServerSentEvent
from headrace.backends.writing import Writing, size_of
from headrace.config import ProviderConfig
from headrace.dialects.values import count
from headrace.errors import ProviderError, ServerError
from headrace.features import COMMON, Feature
from headrace.finite import size_up_to
from headrace.offload import SMALL, aside
from headrace.relay_types import Relayed, RelayRequest
from headrace.types import (
    Conversation,
    Embeddings,
    EmbedRequest,
    Event,
    GenerateRequest,
    ModelInfo,
)

FEATURES = COMMON | {
    Feature.ADVANCED_SAMPLING,
    Feature.CHOICES,
    Feature.CONTINUED_MESSAGE,
    Feature.DIMENSIONS,
    Feature.ECHO,
    Feature.EMBEDDINGS,
    Feature.FREQUENCY_PENALTY,
    Feature.IGNORE_EOS,
    Feature.IMAGE_DETAIL,
    Feature.INPUT_TRUNCATION,
    Feature.JSON_OBJECT,
    Feature.LOGIT_BIAS,
    Feature.LOGPROBS,
    Feature.MIN_P,
    Feature.MIN_TOKENS,
    Feature.NO_GENERATION_PROMPT,
    Feature.OTHER_SAMPLING,
    Feature.PRESENCE_PENALTY,
    Feature.PROMPT_TRUNCATION,
    Feature.REPETITION_PENALTY,
    Feature.REPETITION_WINDOW,
    Feature.SCHEMA_DESCRIPTION,
    Feature.SEED,
    Feature.SPEAKER_NAMES,
    Feature.SPECIAL_TOKENS_SHOWN,
    Feature.STOP_TOKEN_IDS,
    Feature.STRICT_TOOLS,
    Feature.SUFFIX,
    Feature.TEMPLATE_VARIABLES,
    Feature.TEXT_COMPLETION,
    Feature.TYPICAL_P,
    Feature.UNSIGNED_REASONING,
    Feature.USER,
    Feature.VERBOSITY,
}
ENDPOINTS = ("/chat/completions", "/completions", "/embeddings", "/responses")
USAGE_S = 2.0  # wait for the usage after the last finish reason
END_S = 0.05  # wait for the end of a finished stream, after which its connection can be reused


class OpenAIBackend(Remote):
    """A provider of OpenAI's dialect. `key`: None for a provider without keys. Requests always stream."""

    features = FEATURES
    unsent = frozenset({Feature.ADVICE})
    url = "https://api.openai.com/v1"
    own_headers: Mapping[str, str] = {}
    knows_verbosity = True
    kept: tuple[str, ...] = ()  # members of its answers, besides OpenAI's, that callers get

    def __init__(self, name: str, config: ProviderConfig, key: str | None) -> None:
        bearer = {} if key is None else {"Authorization": f"Bearer {key}"}
        headers = {**self.own_headers, **bearer, **config.headers}
        url = root(
            config.base_url or self.url, "/chat/completions", "/completions", "/embeddings", "/responses"
        )
        upstream = Upstream(name, url, headers=headers, timeout_s=config.timeout_s)
        super().__init__(name, upstream, allowed=config.models)
        # OpenAI's newer models accept only max_completion_tokens; some other providers only max_tokens
        is_openais = config.roles == "openai" or (config.roles is None and is_own(upstream.base_url))
        self._has_all_roles = is_openais
        self._limit = "max_completion_tokens" if is_own(upstream.base_url) else "max_tokens"

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        writing = Writing(request)
        path, body = await aside(size_of(request), partial(self.ask, request, writing))
        async with (
            self.upstream.stream(path, body) as pieces,
            aclosing(events_of(self.upstream, pieces)) as found,
            aclosing(self._events(found, request.num_choices)) as answer,
        ):
            yield writing.restored(answer)

    def relays(self, request: RelayRequest, model: str) -> bool:
        return request.dialect == "openai"

    @asynccontextmanager
    async def relay(
        self, request: RelayRequest, model: str, *, until_content: bool = False
    ) -> AsyncIterator[Relayed]:
        body, ignored = await aside(request.body.size, partial(self._mended, request, model))
        reading = OpenAIReading(self.upstream, request.endpoint, request.body.members)
        async with relayed(
            self.upstream,
            request.endpoint,
            body,
            request.headers,
            reading,
            streamed=request.is_streamed,
            until_content=until_content,
        ) as answer:
            yield replace(answer, ignored=tuple(ignored))

    def _mended(self, request: RelayRequest, model: str) -> tuple[bytes, list[str]]:
        mended, ignored = changes(request.body.members, has_all_roles=self._has_all_roles)
        return request.body.changed({**mended, **self.changes(request, model)}), ignored

    def changes(self, request: RelayRequest, model: str) -> Body:
        """Members of a relayed body that replace the caller's."""
        return {"model": model}

    async def embed(self, request: EmbedRequest) -> Embeddings:
        body = await self.upstream.json("POST", "/embeddings", embed_body(request))
        read = partial(_embeddings, self.name, body, len(request.inputs))
        return await aside(size_up_to(body, SMALL), read)

    async def list_models(self) -> list[ModelInfo]:
        found = await self.upstream.json("GET", "/models")
        return [self._info(entry) for entry in listed(self.name, found, "data")]

    def ask(self, request: GenerateRequest, writing: Writing | None = None) -> tuple[str, Body]:
        """Return the path and the body of a request. Raises UnsupportedParameter."""
        prompt, limit, all_roles = request.prompt, self._limit, self._has_all_roles
        if isinstance(prompt, Conversation):
            body = chat_body(request, prompt, limit=limit, has_all_roles=all_roles, writing=writing)
            if not self.knows_verbosity:
                body.pop("verbosity", None)
            return "/chat/completions", body
        return "/completions", completion_body(request, prompt)

    def _info(self, entry: dict[str, Any]) -> ModelInfo:
        info = self.info(entry["id"], created=count(entry.get("created")) or 0)
        return replace(info, max_model_len=count(entry.get("max_model_len")) or None)

    async def _events(
        self, found: AsyncIterator[ServerSentEvent], num_choices: int
    ) -> AsyncGenerator[Event, None]:
        answer = Answer(self.upstream, num_choices, kept=self.kept)
        while True:
            sent = await (_soon(found, USAGE_S) if answer.is_complete else anext(found, None))
            if sent is None:
                break
            for event in answer.read(sent):
                yield event
            if answer.is_over:
                break
        for event in answer.end():
            yield event
        if sent is not None:
            await _soon(found, END_S)


def _embeddings(provider: str, body: Any, num_inputs: int) -> Embeddings:
    """Raises ProviderError."""
    from headrace.backends.vectors import matrix

    try:
        rows = sorted(body["data"], key=lambda row: row["index"])
        vectors = matrix([row["embedding"] for row in rows])
        tokens = int((body.get("usage") or {}).get("prompt_tokens", 0))
        if len(vectors) != num_inputs:
            raise ValueError(f"there are {len(vectors)} vectors for {num_inputs} inputs")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as exc:
        raise ProviderError(f"{provider} answered with something that is no embeddings") from exc
    return Embeddings(vectors, tokens)


async def _soon(events: AsyncIterator[ServerSentEvent], within_s: float) -> ServerSentEvent | None:
    """The next event, if it arrives in time. Errors after a complete answer do not matter."""
    try:
        async with asyncio.timeout(within_s):
            return await anext(events, None)
    except (TimeoutError, ServerError):
        return None
