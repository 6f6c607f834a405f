"""The interface of every backend, in the neutral values of types.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Set
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from headrace.features import Feature
from headrace.rerank_types import Ranking, RerankRequest
from headrace.steering.types import Library
from headrace.types import (
    Embeddings,
    EmbedRequest,
    Event,
    GenerateRequest,
    ModelCard,
    ModelInfo,
    TokenizeRequest,
    TokenizerInfo,
)


class Backend(Protocol):
    """A source of answers. It is started once and closed once; `generate` may be entered concurrently."""

    @property
    def name(self) -> str:
        """The provider's name, as in `/{provider}/v1` and `provider:model`."""
        ...

    @property
    def unsent(self) -> Set[Feature]:
        """Features that its provider has, but that this backend does not write in the provider's dialect.
        They are lost rather than meaningless, so a strict request that needs one is refused.
        """
        ...

    def features_of(self, model: str) -> Set[Feature]:
        """The features that it has for a model. The gateway refuses or drops what needs any other."""
        ...

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...

    def models(self) -> list[ModelInfo]:
        """The models known so far. Cheap."""
        ...

    def find(self, id: str) -> ModelInfo | None:
        """The model with this id, or None. A remote provider may serve models that it does not list."""
        ...

    def card(self, model: str) -> ModelCard:
        """Facts about a model that it has. Cheap."""
        ...

    @property
    def is_alive(self) -> bool:
        """Whether it can still answer. Cheap, for liveness probes."""
        ...

    @property
    def has_ended(self) -> bool:
        """Whether the backend has failed for good, so that only another backend can answer. Cheap to call."""
        ...

    def library(self, model: str) -> Library | None:
        """What the model may be steered with; None: it cannot be steered here. Cheap."""
        ...

    def generate(self, request: GenerateRequest) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Start a generation. Entering may raise ServerError; leaving releases all resources."""
        ...

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Raises ServerError; BadRequest if this backend cannot embed."""
        ...

    async def rerank(self, request: RerankRequest) -> Ranking:
        """Raises ServerError; BadRequest if this backend cannot rerank."""
        ...

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        """Raises BadRequest if this backend cannot tokenize."""
        ...

    async def detokenize(self, model: str, tokens: list[int]) -> str:
        """Raises BadRequest if this backend cannot tokenize."""
        ...

    async def token_texts(self, model: str, tokens: list[int]) -> list[str]:
        """The text of each token by itself. Raises BadRequest if this backend cannot tokenize."""
        ...

    async def tokenizer_info(self, model: str) -> TokenizerInfo:
        """Raises BadRequest if this backend cannot tokenize."""
        ...
