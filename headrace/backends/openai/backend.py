"""OpenAIBackend: a provider that speaks OpenAI's dialect, over its HTTP API."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Any, TypeVar

from headrace.backends.answer import open_answer
from headrace.backends.http import Upstream, root
from headrace.backends.openai.answer import Answer
from headrace.backends.openai.body import Body, chat_body, completion_body, embed_body, rerank_body
from headrace.backends.openai.corrections import corrections, is_google, is_own
from headrace.backends.openai.relay_reader import OpenAIRelayReader
from headrace.backends.passthrough import open_relay
from headrace.backends.ranking import embeddings, ranking
from headrace.backends.remote import Remote, listed
from headrace.backends.writing import Writing, size_of
from headrace.config import ProviderConfig
from headrace.dialects.values import an_object, count
from headrace.encoder_types import Ranking, RerankRequest
from headrace.errors import ServerError
from headrace.features import OPENAI_AND_VLLM, Feature
from headrace.finite import size_up_to
from headrace.offload import SMALL, aside
from headrace.relay_types import Relayed, RelayRequest
from headrace.types import Conversation, Embeddings, EmbedRequest, Event, GenerateRequest, ModelInfo

FEATURES = OPENAI_AND_VLLM | {
    Feature.ADVANCED_SAMPLING, Feature.ADVICE, Feature.IMAGE_DETAIL, Feature.OTHER_SAMPLING,
    Feature.PREDICTION, Feature.REPETITION_WINDOW, Feature.RERANK, Feature.SCHEMA_DESCRIPTION,
    Feature.SERVICE_TIER,
    Feature.TYPICAL_P, Feature.USER, Feature.VERBOSITY,
}  # fmt: skip
ENDPOINTS = (
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/rerank",
    "/responses",
    "/models",
)  # ends of a base_url
USAGE_OPTION = "stream_options"
REFUSES_USAGE = re.compile(f"{USAGE_OPTION}|include_usage")

T = TypeVar("T")


class OpenAIBackend(Remote):
    """A provider of OpenAI's dialect. `key`: None for a provider without keys. Requests always stream."""

    features = FEATURES
    unsent: frozenset[Feature] = frozenset()
    url = "https://api.openai.com/v1"
    own_headers: Mapping[str, str] = {}
    knows_verbosity = True
    counts_tokens = False  # ask for the usage so far in each chunk
    # of its answers, that callers get as they are
    extra_members: tuple[str, ...] = ("service_tier", "system_fingerprint", "citations", "search_results")

    def __init__(self, name: str, config: ProviderConfig, key: str | None) -> None:
        bearer = {} if key is None else {"Authorization": f"Bearer {key}"}
        headers = {**self.own_headers, **bearer, **config.headers}
        url = root(config.base_url or self.url, *ENDPOINTS)
        upstream = Upstream(name, url, headers=headers, timeout_s=config.timeout_s)
        super().__init__(name, upstream, allowed=config.models)
        # OpenAI's newer models accept only max_completion_tokens; some other providers only max_tokens
        is_openais = config.roles == "openai" or (config.roles is None and is_own(upstream.base_url))
        self._has_all_roles = is_openais
        self._signs_calls = is_google(upstream.base_url)
        self._limit = "max_completion_tokens" if is_own(upstream.base_url) else "max_tokens"
        # USAGE_OPTION, a member that some providers do not know; None: it was not sent yet
        self._refuses_usage: bool | None = None

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        writing = Writing(request)
        path, body = await aside(size_of(request), partial(self.write, request, writing))
        if self.counts_tokens:
            body[USAGE_OPTION]["continuous_usage_stats"] = True

        def opened() -> AbstractAsyncContextManager[AsyncIterator[Event]]:
            if self._refuses_usage:
                body.pop(USAGE_OPTION, None)
            reader = Answer(
                self.upstream,
                request.num_choices,
                num_prompts=request.num_choices // request.n,
                extra_members=self.extra_members,
                counts_tokens=self.counts_tokens,
            )
            return open_answer(self.upstream, path, body, reader, self.headers_of(request))

        async with AsyncExitStack() as exits:
            events = await exits.enter_async_context(self._with_usage(opened))
            if self._refuses_usage is None:
                events = self._read(events, opened, exits)
            yield writing.for_caller(events)

    @asynccontextmanager
    async def _with_usage(self, opened: Callable[[], AbstractAsyncContextManager[T]]) -> AsyncIterator[T]:
        """An answer for which usage is requested, which its caller may not have done: if the provider refuses
        USAGE_OPTION, it gets the request again, and all later ones, without it.
        """
        async with AsyncExitStack() as exits:
            try:
                answer = await exits.enter_async_context(opened())
            except ServerError as exc:
                self._leave_usage_out(exc)
                answer = await exits.enter_async_context(opened())
            yield answer

    def _leave_usage_out(self, refusal: ServerError) -> None:
        """Raise the refusal if it is not about USAGE_OPTION, or that was not sent."""
        if self._refuses_usage or not REFUSES_USAGE.search(f"{refusal.param} {refusal.message}"):
            raise refusal
        self._refuses_usage = True

    async def _read(
        self,
        events: AsyncIterator[Event],
        opened: Callable[[], AbstractAsyncContextManager[AsyncIterator[Event]]],
        exits: AsyncExitStack,
    ) -> AsyncIterator[Event]:
        """The events of the first answer. Some providers refuse USAGE_OPTION with a status of success."""
        try:
            first = await anext(events, None)
        except ServerError as exc:
            self._leave_usage_out(exc)
            events = await exits.enter_async_context(opened())
            first = await anext(events, None)
        if first is not None:
            self._refuses_usage = bool(self._refuses_usage)
            yield first
        async for event in events:
            yield event

    def headers_of(self, request: GenerateRequest) -> Mapping[str, str] | None:
        """Headers beside those of every request."""
        return None

    def relays(self, request: RelayRequest, model: str) -> bool:
        return request.dialect == "openai"

    def relay(
        self, request: RelayRequest, model: str, *, until_content: bool = False
    ) -> AbstractAsyncContextManager[Relayed]:
        opened = partial(self._relay, request, model, until_content=until_content)
        return self._with_usage(opened) if request.adds_usage else opened()

    def _relay(
        self, request: RelayRequest, model: str, *, until_content: bool
    ) -> AbstractAsyncContextManager[Relayed]:
        path, correct = request.endpoint, partial(self._corrected, request, model)
        members = request.body.members
        has_usage = self._adds_usage(request) or (
            an_object(members.get(USAGE_OPTION)).get("include_usage") is True
        )
        reader = OpenAIRelayReader(self.upstream, path, members, has_usage=has_usage)
        return open_relay(
            reader, request, correct, path=path, headers=request.headers, until_content=until_content
        )

    def _corrected(self, request: RelayRequest, model: str) -> tuple[bytes, tuple[str, ...]]:
        members, all_roles = request.body.members, self._has_all_roles
        corrected, ignored = corrections(members, has_all_roles=all_roles, signs_calls=self._signs_calls)
        return request.body.changed({**corrected, **self.changes(request, model)}), ignored

    def changes(self, request: RelayRequest, model: str) -> Body:
        """Members of a relayed body that replace the caller's."""
        changed: Body = {"model": model}
        if request.max_tokens is not None:
            changed[self._limit] = request.max_tokens
        if self._adds_usage(request):
            options = request.body.members.get(USAGE_OPTION) or {}
            changed[USAGE_OPTION] = {**options, "include_usage": True}
        return changed

    def _adds_usage(self, request: RelayRequest) -> bool:
        return request.adds_usage and not self._refuses_usage

    async def embed(self, request: EmbedRequest) -> Embeddings:
        body = await self.upstream.json("POST", "/embeddings", embed_body(request))
        read = partial(embeddings, self.name, partial(_rows, body), len(request.inputs))
        return await aside(size_up_to(body, SMALL), read)

    async def rerank(self, request: RerankRequest) -> Ranking:
        """Jina's and Cohere's endpoint, which vLLM, SGLang, llama.cpp's server and others have, too."""
        body = await self.upstream.json("POST", "/rerank", rerank_body(request))
        return await aside(size_up_to(body, SMALL), partial(ranking, self.name, body, len(request.documents)))

    async def list_models(self) -> list[ModelInfo]:
        body = await self.upstream.json("GET", "/models")
        return [
            self.info(
                entry["id"],
                created=count(entry.get("created")) or 0,
                max_model_len=count(entry.get("max_model_len")) or None,
            )
            for entry in listed(self.name, body, "data")
        ]

    def write(self, request: GenerateRequest, writing: Writing | None = None) -> tuple[str, Body]:
        """Return the path and the body of a request. Raises UnsupportedParameter."""
        prompt, limit, all_roles = request.prompt, self._limit, self._has_all_roles
        if Feature.ADVICE not in self.features:
            request = replace(request, advice={})
        if isinstance(prompt, Conversation):
            body = chat_body(
                request,
                prompt,
                limit=limit,
                has_all_roles=all_roles,
                signs_calls=self._signs_calls,
                writing=writing,
            )
            if not self.knows_verbosity:
                body.pop("verbosity", None)
            return "/chat/completions", body
        return "/completions", completion_body(request, prompt)


def _rows(body: Any) -> tuple[list[object], int]:
    """The vectors of an answer, and the number of tokens. Raises KeyError, TypeError and others."""
    indexes = [count(row.get("index")) for row in body["data"]]
    places = [place if index is None else index for place, index in enumerate(indexes)]
    rows = [row["embedding"] for _, row in sorted(zip(places, body["data"], strict=True), key=itemgetter(0))]
    usage = an_object(body.get("usage"))
    return rows, count(usage.get("prompt_tokens")) or count(usage.get("total_tokens")) or 0
