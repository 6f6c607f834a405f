"""What the backends of embedding models and of cross-encoders share: a model that is loaded at its first use,
its batcher, and a bound on the requests at once.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Sized
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from headrace import __version__
from headrace.backends.base import BaseBackend
from headrace.backends.embedder.batcher import MAX_ROWS, Batcher, Encoder
from headrace.backends.embedder.loading import Loading
from headrace.encoder_types import Embedding
from headrace.engine.torch.options import TorchOptions
from headrace.errors import BadRequest, ModelError, ModelUnavailable, Overloaded
from headrace.freed import trim
from headrace.models.model import Model, Progress
from headrace.types import TEXT_ONLY, Event, GenerateRequest, ModelInfo, ModelKind

CHARACTER = 16  # work of tokenizing one, or of one token id, in headrace.offload's bytes
Text = TypeVar("Text", bound=Sized)
Tokenizer = TypeVar("Tokenizer")


@dataclass(frozen=True, slots=True)
class EmbedderSettings:
    """What the configuration sets for one embedding model. `max_requests`: at once, waiting ones included."""

    max_requests: int = 288
    num_threads: int = 0  # 0: one per core
    exact: bool = False
    deterministic: bool = False  # compute each text alone: neighbours change the last digits
    torch: TorchOptions = field(default_factory=TorchOptions)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[Text, Tokenizer]):
    model: Model
    tokenizer: Tokenizer
    encoder: Encoder[Text]


class EncoderBackend(BaseBackend, Generic[Text, Tokenizer]):
    """Serves the model `name`. `prepare` returns its files, and fetches them if need be; it runs in a thread
    and raises ModelError. With `is_eager` that happens at the start.
    """

    is_alive = True
    kind: ModelKind = "embedding"

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
        self._batcher: Batcher[Text] | None = None
        self._num_requests = 0
        self._models = [
            ModelInfo(name, self.name, 0, embedding.max_tokens, None, kind=self.kind, modalities=TEXT_ONLY)
        ]

    async def start(self) -> None:
        """Raises ModelError if the model is to be loaded now, and cannot be."""
        if not self._is_eager:
            return
        try:
            await self._loading.get()
        except ModelUnavailable as exc:
            raise ModelError(exc.message) from exc

    async def aclose(self) -> None:
        self._loading.close()
        if self._batcher is not None:
            await self._batcher.aclose()

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        raise BadRequest(f"{request.model} reads texts; it generates none", param="model")
        yield  # pragma: no cover  # makes this a context manager

    @abstractmethod
    def _load_files(self, model: Model) -> Loaded[Text, Tokenizer]:
        """Load what `prepare` returned. Raises ModelError."""

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Count a request until the block ends. Raises Overloaded."""
        if self._num_requests >= self._settings.max_requests:
            raise Overloaded(
                f"{self._num_requests} requests wait for {self._models[0].id}",
                retry_after_s=min(30, 1 + self._num_requests // 8),
            )
        self._num_requests += 1
        try:
            yield
        finally:
            self._num_requests -= 1

    def _batcher_of(self, loaded: Loaded[Text, Tokenizer]) -> Batcher[Text]:
        if self._batcher is None:
            max_rows = 1 if self._settings.deterministic else MAX_ROWS
            self._batcher = Batcher(loaded.encoder, max_rows)
        return self._batcher

    def _load(self, progress: Progress) -> Loaded[Text, Tokenizer]:
        model = self._prepare(progress)
        loaded = self._load_files(model)
        most, runner = self.embedding.max_tokens, "torch" if model.is_checkpoint else None
        fingerprint = _fingerprint(model)
        trim()  # loading needed more than running does
        self._models = [
            ModelInfo(
                model.name,
                self.name,
                model.created,
                most,
                fingerprint,
                kind=self.kind,
                runner=runner,
                modalities=TEXT_ONLY,
            )
        ]
        return loaded


def _fingerprint(model: Model) -> str:
    """An id that changes with whatever may change the model's vectors."""
    return "fp_" + hashlib.sha256(f"{__version__}\0{model.reference}".encode()).hexdigest()[:12]
