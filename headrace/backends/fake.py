"""A backend with scripted answers, for tests; served only if a configuration names it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np

from headrace.backend_types import Backend
from headrace.encoder_types import Ranking, RerankRequest
from headrace.features import NONE, OWN_ENGINE, Feature
from headrace.types import (
    Conversation,
    Embeddings,
    EmbedRequest,
    Event,
    Finished,
    GenerateRequest,
    ModelInfo,
    TextDelta,
    TokenizeRequest,
    TokenizerInfo,
    Usage,
)

WIDTH = 8  # of its embeddings


class FakeBackend(Backend):
    """Answers every choice with `script`: one text or event each `delay_s`. At the end of a script without a
    Finished it raises `error` or finishes with "stop". It waits `opening_s` before it answers, or raises
    `refusal` at once. Its tokens are the bytes of UTF-8.
    """

    is_alive = True

    def __init__(
        self,
        script: Sequence[str | Event],
        *,
        id: str = "fake",
        name: str = "fake",
        features: frozenset[Feature] = OWN_ENGINE - {Feature.STEERING, Feature.PROBES},
        unsent: frozenset[Feature] = NONE,
        delay_s: float = 0.0,
        opening_s: float = 0.0,
        error: Exception | None = None,
        refusal: Exception | None = None,
    ) -> None:
        super().__init__(name)
        self._models = [ModelInfo(id, name, 0, 4096, "fp_fake")]
        self.script, self.id, self.delay_s, self.opening_s = script, id, delay_s, opening_s
        self.features, self.unsent = features, unsent
        self.error, self.refusal = error, refusal
        self.num_active = 0
        self.requests: list[GenerateRequest] = []
        self.embedded: list[EmbedRequest] = []
        self.ranked: list[RerankRequest] = []

    @property
    def conversations(self) -> list[Conversation]:
        """The conversations of the requests so far."""
        return [request.prompt for request in self.requests if isinstance(request.prompt, Conversation)]

    async def start(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        self.requests.append(request)
        if self.refusal is not None:
            raise self.refusal
        self.num_active += 1
        try:
            await asyncio.sleep(self.opening_s)
            yield self._events(request.num_choices)
        finally:
            self.num_active -= 1

    async def _events(self, num_choices: int) -> AsyncIterator[Event]:
        for step in self.script:
            await asyncio.sleep(self.delay_s)
            for index in range(num_choices):
                yield TextDelta(index, step) if isinstance(step, str) else replace(step, index=index)
        if self.error is not None:
            raise self.error
        if not any(isinstance(step, Finished) for step in self.script):
            for index in range(num_choices):
                yield Finished(index, "stop", Usage(1, len(self.script)))

    async def embed(self, request: EmbedRequest) -> Embeddings:
        self.embedded.append(request)
        vectors = np.zeros((len(request.inputs), request.dimensions or WIDTH), np.float32)
        for row, text in enumerate(request.inputs):
            vectors[row, len(text) % vectors.shape[1]] = 1
        return Embeddings(vectors, sum(map(len, request.inputs)))

    async def rerank(self, request: RerankRequest) -> Ranking:
        """Score each document by its length."""
        self.ranked.append(request)
        scores = tuple(float(len(text)) for text in request.documents)
        return Ranking(scores, "provider", len(request.query) + sum(map(len, request.documents)))

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        prompt = request.prompt
        text = prompt if isinstance(prompt, str) else "\n".join(message.text for message in prompt.messages)
        return list(text.encode())

    async def detokenize(self, model: str, tokens: list[int]) -> str:
        return bytes(tokens).decode(errors="replace")

    async def tokenizer_info(self, model: str) -> TokenizerInfo:
        return TokenizerInfo(None, "\0", None, None, 256)
