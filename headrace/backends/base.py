"""The base of all backends: a list of models, and the errors for what a backend cannot do."""

from __future__ import annotations

from headrace.errors import BadRequest
from headrace.features import NONE, Feature
from headrace.rerank_types import Ranking, RerankRequest
from headrace.steering.types import Library
from headrace.types import (
    Capability,
    Embeddings,
    EmbedRequest,
    ModelCard,
    ModelInfo,
    TokenizeRequest,
    TokenizerInfo,
)

# feature → what a program that chooses a model calls it
CAPABILITIES: dict[Feature, Capability] = {
    Feature.TEMPERATURE: "completion",
    Feature.TOOLS: "tools",
    Feature.EMBEDDINGS: "embedding",
}


class BaseBackend:
    """`features`: those that it supports; `by_us`: those of them that Headrace implements itself, so that
    no provider receives them; `unsent`: see types.Backend.
    """

    features: frozenset[Feature] = NONE
    by_us: frozenset[Feature] = NONE
    unsent: frozenset[Feature] = NONE

    def __init__(self, name: str) -> None:
        self.name = name
        self._models: list[ModelInfo] = []

    @property
    def has_ended(self) -> bool:
        return False

    def features_of(self, model: str) -> frozenset[Feature]:
        return self.features

    def models(self) -> list[ModelInfo]:
        return self._models

    def find(self, id: str) -> ModelInfo | None:
        for info in self._models:
            if info.id == id:
                return info
        return None

    def library(self, model: str) -> Library | None:
        return None

    def card(self, model: str) -> ModelCard:
        has = self.features_of(model)
        return ModelCard(frozenset(name for feature, name in CAPABILITIES.items() if feature in has))

    async def embed(self, request: EmbedRequest) -> Embeddings:
        raise BadRequest(f"{self.name} has no embeddings", param="model")

    async def rerank(self, request: RerankRequest) -> Ranking:
        raise BadRequest(f"{self.name} has no reranking", param="model")

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        raise self._no_tokenizer()

    async def detokenize(self, model: str, tokens: list[int]) -> str:
        raise self._no_tokenizer()

    async def token_texts(self, model: str, tokens: list[int]) -> list[str]:
        texts = {token: await self.detokenize(model, [token]) for token in dict.fromkeys(tokens)}
        return [texts[token] for token in tokens]

    async def tokenizer_info(self, model: str) -> TokenizerInfo:
        raise self._no_tokenizer()

    def _no_tokenizer(self) -> BadRequest:
        return BadRequest(
            f"the tokenizer of {self.name} is not known here: its tokens cannot be counted or read",
            param="model",
        )
