"""What the backends of embedding models and of cross-encoders share: a model that is loaded at its first use,
its batcher, and a bound on the requests at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import threading
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Sized
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from headrace import __version__
from headrace.backend_types import Backend
from headrace.backends.embedder.batcher import MAX_ROWS, Batcher, Encoder
from headrace.encoder_types import Embedding
from headrace.engine.torch.options import TorchOptions
from headrace.errors import BadRequest, ModelError, ModelUnavailable, Overloaded
from headrace.free_memory import trim
from headrace.models.model import Model, Progress
from headrace.types import TEXT_ONLY, Event, GenerateRequest, ModelInfo, ModelKind

if TYPE_CHECKING:
    from headrace.engine.torch.encoder import TorchEncoder

CHARACTER = 16  # work of tokenizing one, or of one token id, in headrace.offload's bytes
TEXT = 128  # characters that take as long as a text by itself, however short
Text = TypeVar("Text", bound=Sized)
Tokenizer = TypeVar("Tokenizer")


log = logging.getLogger(__name__)

RETRY_S = 30.0
SHARES = 4  # how many lines of the log a long step takes

T = TypeVar("T")


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


class EncoderBackend(Backend, Generic[Text, Tokenizer]):
    """Serves the model `name`. `prepare` returns its files, and fetches them if need be; it runs in a thread
    and raises ModelError. With `is_eager` that happens at the start.
    """

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
        """Load the model, unless it is loaded at its first use. Raises ModelError."""
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

    def _torch_encoder(self, model: Model) -> TorchEncoder:
        from headrace.engine.torch.encoder import TorchEncoder

        settings, form = self._settings, self.embedding
        exact, threads = settings.exact, settings.num_threads
        return TorchEncoder(model.folder, form, settings.torch, exact=exact, num_threads=threads)

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


class Loading(Generic[T]):
    """`load` runs in a thread of its own, reports its progress to the log, and raises ModelError. For
    `retry_s` seconds after a failure, that is reported again without another attempt.
    """

    def __init__(self, name: str, load: Callable[[Progress], T], *, retry_s: float = RETRY_S) -> None:
        self._name, self._load, self._retry_s = name, load, retry_s
        self._running: asyncio.Future[T] | None = None
        self._failure = ""  # why the last attempt failed
        self._failed_at = 0.0
        self._is_closed = False

    @property
    def value(self) -> T | None:
        """What was loaded; None: it is not loaded yet."""
        done = self._running is not None and self._running.done() and not self._running.exception()
        return self._running.result() if done and self._running is not None else None

    async def get(self) -> T:
        """What is loaded, once it is. Cancelling the call does not end the loading. Raises
        ModelUnavailable.
        """
        passed_s = time.monotonic() - self._failed_at
        if self._failure and passed_s < self._retry_s:
            raise self._error(self._retry_s - passed_s)
        if self._running is None:
            self._running = asyncio.get_running_loop().create_future()
            # A daemon: neither a download nor a compilation may delay the end of the process.
            threading.Thread(
                target=self._run, args=(self._running, asyncio.get_running_loop()), daemon=True
            ).start()
        return await asyncio.shield(self._running)

    def close(self) -> None:
        """End a download that runs."""
        self._is_closed = True

    def _run(self, future: asyncio.Future[T], loop: asyncio.AbstractEventLoop) -> None:
        log.info("%s is loaded, at its first use", self._name)
        try:
            value = self._load(_Log(self._name, self._check_open))
        except ModelError as exc:
            self._tell(loop, self._fail, future, exc.message)
        except Exception as exc:
            log.exception("%s could not be loaded", self._name)
            self._tell(loop, self._fail, future, f"{type(exc).__name__} (see the log)")
        else:
            self._tell(loop, _succeed, future, value)

    def _tell(self, loop: asyncio.AbstractEventLoop, call: Callable[..., None], *values: object) -> None:
        if not self._is_closed:
            loop.call_soon_threadsafe(call, *values)

    def _fail(self, future: asyncio.Future[T], reason: str) -> None:
        log.warning("%s could not be loaded: %s", self._name, reason)
        self._failure, self._failed_at, self._running = reason, time.monotonic(), None
        future.set_exception(self._error(self._retry_s))
        future.exception()  # marks the error as retrieved: all who wait may have left

    def _error(self, retry_after_s: float) -> ModelUnavailable:
        message = f"the model {self._name} could not be loaded: {self._failure}"
        return ModelUnavailable(message, retry_after_s=math.ceil(retry_after_s))

    def _check_open(self) -> None:
        if self._is_closed:
            raise ModelError("the server is shutting down")


def _succeed(future: asyncio.Future[T], value: T) -> None:
    future.set_result(value)


class _Log:
    """Writes a few lines of progress to the log. Calls `check` each time, which may end the work."""

    def __init__(self, name: str, check: Callable[[], None]) -> None:
        self._name, self._check = name, check
        self._last: tuple[str, int] | None = None

    def __call__(self, label: str, done: int, total: int) -> None:
        self._check()
        share = SHARES * done // total if total else 0
        if (label, share) != self._last:
            self._last = (label, share)
            amount = f" {100 * done // total} % of {total / 1e6:.1f} MB" if total else ""
            log.info("%s: %s%s", self._name, label, amount)
