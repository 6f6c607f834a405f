"""Ollama through its native API: its OpenAI-compatible one cannot set num_ctx and truncates long prompts
silently.

`num_ctx` of a request is the next power of two that holds its estimated prompt and its max_tokens, at least
LEAST_CONTEXT and at most the model's context. It does not shrink while a model is in use, because Ollama
reloads a model whenever it changes. Requests set `truncate: false`, so that Ollama refuses a prompt that does
not fit; then num_ctx is doubled and the request repeated, up to the model's limit. Older versions truncate
nevertheless: an answer whose prompt fills num_ctx is an error.

Ollama's API has no place for the position of an image within its message. Where calls may not be parallel,
all but the first are dropped.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from headrace.backends.answer import read_answer
from headrace.backends.http import Upstream, root
from headrace.backends.ollama.answer import Answer, Shown, shown
from headrace.backends.ollama.request import Body, bodies_of, check, embed_body, sets_thinking
from headrace.backends.ranking import embeddings
from headrace.backends.remote import Remote, listed, unix_seconds
from headrace.backends.sse import lines
from headrace.backends.writing import Writing, size_of
from headrace.config import ProviderConfig
from headrace.dialects.values import count, word
from headrace.errors import ContextTooLong, ProviderTimedOut, ProviderUnreachable, ServerError
from headrace.features import OPEN_MODELS, Feature
from headrace.finite import size_up_to
from headrace.offload import SMALL, aside
from headrace.types import (
    Embeddings,
    EmbedRequest,
    Event,
    GenerateRequest,
    ModelCard,
    ModelInfo,
    TextDelta,
    Texts,
)

BASE_URL = "http://127.0.0.1:11434"
FEATURES = OPEN_MODELS | {Feature.PROMPT_CACHE, Feature.REPETITION_WINDOW, Feature.TYPICAL_P}
ENDS = ("/api/chat", "/api/generate", "/api/tags", "/api", "/v1/chat/completions", "/v1")
LEAST_CONTEXT = 4096  # tokens; Ollama's own default
UNKNOWN_CONTEXT = 2**17  # the limit of num_ctx if the model's context length is unknown
ANSWER_TOKENS = 4096  # room for an answer without max_tokens
IN_USE_S = 300.0  # after which Ollama unloads an idle model

T = TypeVar("T")


class OllamaBackend(Remote):
    """A server of Ollama. `key`: sent as a bearer token, if there is one."""

    features = FEATURES
    by_us = frozenset({Feature.ECHO, Feature.PARALLEL_TOOL_CALLS, Feature.PROMPT_CACHE})

    def __init__(self, name: str, config: ProviderConfig, key: str | None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        url = root(config.base_url or BASE_URL, *ENDS)
        upstream = Upstream(name, url, headers={**headers, **config.headers}, timeout_s=config.timeout_s)
        super().__init__(name, upstream, allowed=config.models)
        self._keep_alive = {} if config.keep_alive is None else {"keep_alive": config.keep_alive}
        self._shown: dict[str, Shown] = {}  # model → the answer of /api/show
        self._digests: dict[str, str] = {}
        self._loaded: dict[str, tuple[int, float]] = {}  # model → last num_ctx, and when it was sent

    async def list_models(self) -> list[ModelInfo]:
        infos, is_shown = [], True
        for entry in listed(self.name, await self.upstream.json("GET", "/api/tags"), "models", id="name"):
            name, digest = entry["name"], word(entry.get("digest"))
            if self._digests.get(name) != digest:  # it was pulled again
                self._shown.pop(name, None)
            self._digests[name] = digest
            # the configuration may leave out ":latest", which Ollama adds to names
            ids = [id for id in self.allowed if id in (name, name.removesuffix(":latest"))] or [name]
            length = None
            if is_shown:
                try:
                    length = (await self._show(name)).length
                except ServerError:  # one model costs no more than the lengths that are not known yet
                    is_shown = False
            created = unix_seconds(entry.get("modified_at"))
            infos += [self.info(id, created=created, max_model_len=length) for id in ids]
        return infos

    def card(self, model: str) -> ModelCard:
        """The features that Ollama itself reports, once its description of the model was fetched."""
        return (self._shown.get(model) or Shown()).card or super().card(model)

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        check(request)
        writing = Writing(request)
        thinks = (await self._show(request.model)).thinks if sets_thinking(request) else None
        work = partial(bodies_of, request, writing, thinks=thinks)
        path, bodies = await aside(size_of(request), work)
        async with AsyncExitStack() as exits:

            async def send(body: Body) -> AsyncIterator[bytes]:
                return await exits.enter_async_context(self.upstream.stream(path, body))

            first = await self._fitted(bodies[0], request.sampling.max_tokens, send)
            events = self._choices(request, bodies, first, send)
            exits.push_async_callback(events.aclose)
            yield writing.for_caller(events)

    async def _choices(
        self,
        request: GenerateRequest,
        bodies: list[Body],
        pieces: AsyncIterator[bytes],
        send: Callable[[Body], Awaitable[AsyncIterator[bytes]]],
    ) -> AsyncGenerator[Event, None]:
        """Generate the choices one after the other: Ollama takes one prompt per request."""
        for index, body in enumerate(bodies):
            if index:
                pieces = await self._fitted(body, request.sampling.max_tokens, send)
            if isinstance(request.prompt, Texts) and request.prompt.echo:
                yield TextDelta(index, body["prompt"])
            answer = Answer(self.upstream, request, index, body["options"]["num_ctx"])
            async with aclosing(read_answer(answer, lines(pieces))) as events:
                async for event in events:
                    yield event

    async def embed(self, request: EmbedRequest) -> Embeddings:
        body = embed_body(request)
        answer = await self._fitted(body, 0, lambda body: self.upstream.json("POST", "/api/embed", body))
        read = partial(embeddings, self.name, partial(_rows, answer), len(request.inputs))
        return await aside(size_up_to(answer, SMALL), read)

    async def _fitted(self, body: Body, max_tokens: int | None, send: Callable[[Body], Awaitable[T]]) -> T:
        """Send a body with a num_ctx that fits it. At first `num_ctx` is the estimated size of its prompt."""
        model, options = body["model"], body["options"]
        limit = (await self._show(model)).length or UNKNOWN_CONTEXT
        needed = options["num_ctx"] + (ANSWER_TOKENS if max_tokens is None else max_tokens)
        num_ctx, sent_at = self._loaded.get(model, (0, 0.0))
        if time.monotonic() - sent_at > IN_USE_S:
            num_ctx = 0
        num_ctx = max(num_ctx, LEAST_CONTEXT, 1 << (needed - 1).bit_length())
        while True:
            options["num_ctx"] = min(num_ctx, limit)
            try:
                answer = await send({**body, **self._keep_alive})
            except ContextTooLong:
                if num_ctx >= limit:
                    raise
                num_ctx *= 2
            else:
                self._loaded[model] = options["num_ctx"], time.monotonic()
                return answer

    async def _show(self, model: str) -> Shown:
        """Facts about a model, cached. Raises ProviderUnreachable or ProviderTimedOut."""
        if model not in self._shown:
            try:
                body = await self.upstream.json("POST", "/api/show", {"model": model})
            except (ProviderUnreachable, ProviderTimedOut):
                raise
            except ServerError:
                return Shown()  # the request itself will fail with a better error
            self._shown[model] = shown(body)
        return self._shown[model]


def _rows(body: Any) -> tuple[list[object], int]:
    """The vectors of an answer, and the number of tokens. Raises KeyError or TypeError."""
    return body["embeddings"], count(body.get("prompt_eval_count")) or 0
