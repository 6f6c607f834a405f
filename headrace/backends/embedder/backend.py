"""One embedding model as a backend: texts in, vectors out. At its first use it is fetched and compiled."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from headrace import __version__
from headrace.backends.base import BaseBackend
from headrace.backends.embedder.batcher import MAX_ROWS, Batcher, Encoder
from headrace.backends.embedder.loading import Loading
from headrace.backends.ranking import by_embeddings
from headrace.errors import BadRequest, Overloaded
from headrace.features import Feature
from headrace.freed import trim
from headrace.models.model import ONNX, Embedding, Model, Progress
from headrace.offload import aside
from headrace.rerank_types import Ranking, RerankRequest
from headrace.text.encoder_tokenizer import EncoderTokenizer
from headrace.types import Embeddings, EmbedRequest, Event, GenerateRequest, ModelInfo

FEATURES = frozenset(
    {
        Feature.DIMENSIONS, Feature.EMBEDDINGS, Feature.INPUT_TRUNCATION, Feature.POOLING,
        Feature.RERANK, Feature.UNSCALED_VECTORS,
    }
)  # fmt: skip
CHARACTER = 16  # work of tokenizing one, or of one token id, in headrace.offload's bytes


@dataclass(frozen=True, slots=True)
class EmbedderSettings:
    """What the configuration sets for one embedding model. `max_requests`: at once, waiting ones included."""

    max_requests: int = 288
    num_threads: int = 0  # 0: one per core
    exact: bool = False
    deterministic: bool = False  # compute each text alone: neighbours change the last digits


@dataclass(frozen=True, slots=True)
class _Loaded:
    model: Model
    tokenizer: EncoderTokenizer
    encoder: Encoder


class EmbedderBackend(BaseBackend):
    """Serves the model `name`. `prepare` returns its files, and fetches them if need be; it runs in a thread
    and raises ModelError. With `is_eager` that happens at the start.
    """

    features = FEATURES
    by_us = FEATURES
    is_alive = True

    def __init__(
        self,
        name: str,
        embedding: Embedding,
        prepare: Callable[[Progress], Model],
        settings: EmbedderSettings,
        *,
        is_eager: bool = False,
    ) -> None:
        super().__init__("headrace")
        self.embedding, self._prepare, self._settings = embedding, prepare, settings
        self._is_eager = is_eager
        self._loading = Loading(name, self._load)
        self._batcher: Batcher | None = None
        self._num_requests = 0
        self._models = [ModelInfo(name, self.name, 0, embedding.max_tokens, None, kind="embedding")]

    async def start(self) -> None:
        if self._is_eager:
            await self._loading.get()

    async def aclose(self) -> None:
        self._loading.close()
        if self._batcher is not None:
            await self._batcher.aclose()

    @property
    def is_loaded(self) -> bool:
        return self._loading.value is not None

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        raise BadRequest(f"{request.model} embeds texts; it generates none", param="model")
        yield  # pragma: no cover  # makes this a context manager

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Embed the inputs. Raises BadRequest, ContextTooLong, Overloaded, ModelUnavailable, EngineFailed."""
        width = self.embedding.width
        if request.dimensions is not None and request.dimensions > width:
            raise BadRequest(
                f"dimensions is {request.dimensions}, this model's vectors have {width}", param="dimensions"
            )
        with self._place():
            loaded = await self._loading.get()
            encode = partial(loaded.tokenizer.encode, request.inputs, "input", request.truncate_prompt_tokens)
            texts = await aside(sum(map(len, request.inputs)) * CHARACTER, encode)
            pooling = request.pooling or self.embedding.pooling
            vectors = await self._batcher_of(loaded).run(texts, pooling)
            fitted = _fitted(vectors, request.dimensions, is_scaled=request.normalize)
            return Embeddings(fitted, sum(map(len, texts)))

    async def rerank(self, request: RerankRequest) -> Ranking:
        """Score documents by the cosine of their vectors and the query's. Raises what `embed` raises."""
        return await by_embeddings(self.embed, request)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Count a request until the block ends. Raises Overloaded."""
        if self._num_requests >= self._settings.max_requests:
            raise Overloaded(
                f"{self._num_requests} requests wait for the embedding model",
                retry_after_s=min(30, 1 + self._num_requests // 8),
            )
        self._num_requests += 1
        try:
            yield
        finally:
            self._num_requests -= 1

    def _batcher_of(self, loaded: _Loaded) -> Batcher:
        if self._batcher is None:
            max_rows = 1 if self._settings.deterministic else MAX_ROWS
            self._batcher = Batcher(loaded.encoder, max_rows)
        return self._batcher

    def _load(self, progress: Progress) -> _Loaded:
        from headrace.engine.encoder import EncoderOptions, OpenVINOEncoder

        model = self._prepare(progress)
        settings = self._settings
        options = EncoderOptions(exact=settings.exact, num_threads=settings.num_threads)
        encoder = OpenVINOEncoder(model.folder / ONNX, options)
        tokenizer = EncoderTokenizer(model.folder, self.embedding.max_tokens)
        self._models = [
            ModelInfo(
                model.name, self.name, model.created, self.embedding.max_tokens, _fingerprint(model),
                kind="embedding",
            )
        ]  # fmt: skip
        trim()  # loading needed more than running does
        return _Loaded(model, tokenizer, encoder)


def _fitted(vectors: NDArray[np.float32], dimensions: int | None, *, is_scaled: bool) -> NDArray[np.float32]:
    """The first dimensions of each vector, scaled to length 1 unless they are all 0."""
    vectors = vectors[:, :dimensions]
    if not is_scaled:
        return vectors
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths, lengths, 1)).astype(np.float32)


def _fingerprint(model: Model) -> str:
    """It changes with whatever may change the model's vectors."""
    return "fp_" + hashlib.sha256(f"{__version__}\0{model.reference}".encode()).hexdigest()[:12]
