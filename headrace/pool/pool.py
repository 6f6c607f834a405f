"""The models of this machine as one backend: a request for a model that is not in memory loads it first."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from headrace.backend_types import Backend
from headrace.encoder_types import Ranking, RerankRequest
from headrace.errors import ModelNotFound, ModelUnavailable, Overloaded
from headrace.features import Feature
from headrace.offload import cancel_and_wait
from headrace.pool.entry import Entry, Hold, Known
from headrace.pool.residents import Changes, Residents
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

if TYPE_CHECKING:  # it needs numpy, which a gateway does not
    from headrace.steering.library import ModelLibrary

log = logging.getLogger(__name__)

NAME = "headrace"
MAX_WAITING = 256  # requests that wait for one model to be loaded
LOOK_S = 1.0  # how often idle models are looked for


class Pool(Backend):
    """A backend with several models. `preload`: the ids of models that `start` loads, as far as they fit.

    Its methods are called on the event loop. `pool.entries` is read by others and changed only here and in
    `residents`.
    """

    def __init__(
        self,
        models: Iterable[tuple[str, Known]],
        *,
        budget_bytes: int,
        preload: Sequence[str] = (),
        pinned: Set[str] = frozenset(),
        idle_s: Mapping[str, float] | None = None,
        default_idle_s: float = math.inf,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`models`: (reference, what is known); `idle_s`: id → seconds without a request after which it is
        unloaded, for others `default_idle_s`.
        """
        super().__init__(NAME)
        self.entries: dict[str, Entry] = {}
        self.changes = Changes()
        self.now = now
        self._pinned, self._idle_s, self._default_idle_s = pinned, dict(idle_s or {}), default_idle_s
        self._preload = tuple(preload)
        self.residents = Residents(self.entries.values, budget_bytes, self.changes, now)
        self._waiters: dict[asyncio.Task[Any], Entry] = {}  # tasks that wait for a load
        self._housekeeper: asyncio.Task[None] | None = None
        for reference, known in models:
            self.add(reference, known)

    @property
    def is_alive(self) -> bool:
        """Whether no model hangs, and none that ended by itself could not be loaded again."""
        entries = tuple(self.entries.values())
        lost = any(entry.state == "failed" and entry.returns and entry.num_failures for entry in entries)
        return not lost and all(backend.is_alive for backend in self.parts())

    def parts(self) -> list[Backend]:
        """The backends of the models that are loaded."""
        return [entry.backend for entry in tuple(self.entries.values()) if entry.is_ready and entry.backend]

    def add(self, reference: str, known: Known) -> Entry:
        """Add a model that is on this machine. One of the same id takes its place."""
        entry = self.entry(known.info.id, reference)
        entry.reference, entry.known = reference, known
        if entry.state in ("absent", "downloading", "failed"):
            entry.state, entry.error = "ready", None
        self.changes.notify()
        return entry

    def entry(self, id: str, reference: str) -> Entry:
        """The entry of a model, made if there is none."""
        if id not in self.entries:
            idle_s = self._idle_s.get(id, self._default_idle_s)
            self.entries[id] = Entry(id, reference, is_pinned=id in self._pinned, idle_s=idle_s)
        return self.entries[id]

    async def start(self) -> None:
        """Load the models to be preloaded. Raises ModelError, ConfigError if one cannot be loaded for another
        reason than memory.
        """
        for id in self._preload:
            entry = self.entries[id]
            if entry.memory_bytes + self.residents.used_bytes > self.residents.budget_bytes:
                log.warning(
                    "%s is not loaded: it needs about %d MiB, and engine.memory_budget has %d MiB left. "
                    "A request loads it",
                    id, entry.memory_bytes >> 20, self._left_bytes() >> 20,
                )  # fmt: skip
                continue
            await self._start(entry)
        self._housekeeper = asyncio.create_task(self._keep_house())

    async def _start(self, entry: Entry) -> None:
        assert entry.known is not None
        began = self.now()
        backend = entry.known.build()
        await backend.start()
        entry.backend = backend
        self._loaded(entry, began)

    def _loaded(self, entry: Entry, began: float) -> None:
        entry.succeeded(self.now() - began, self.now())
        self.changes.notify()

    async def aclose(self) -> None:
        await cancel_and_wait(self._housekeeper)
        for entry in self.entries.values():
            if entry.pulling is not None:
                entry.pulling.cancel()
        await self.residents.close()

    def models(self) -> list[ModelInfo]:
        return [self._info(entry) for entry in self.entries.values() if entry.known is not None]

    def find(self, id: str) -> ModelInfo | None:
        entry = self.entries.get(id)
        return None if entry is None or entry.known is None else self._info(entry)

    def features_of(self, model: str) -> Set[Feature]:
        return self.known(model).features

    def library(self, model: str) -> ModelLibrary | None:
        """The library of a model that is loaded; None for others: only the loaded backend has it."""
        entry = self.entries.get(model)
        backend = None if entry is None or not entry.is_ready else entry.backend
        return None if backend is None else backend.library(model)

    def card(self, model: str) -> ModelCard:
        return self.known(model).card

    def known(self, id: str) -> Known:
        """What is known of a model that is on this machine. Raises ModelNotFound."""
        entry = self.entries.get(id)
        if entry is None or entry.known is None:
            raise ModelNotFound(f"the model {id[:200]!r} is not on this machine", param="model")
        return entry.known

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        async with self.use(request.model) as backend, backend.generate(request) as events:
            yield events

    async def embed(self, request: EmbedRequest) -> Embeddings:
        async with self.use(request.model) as backend:
            return await backend.embed(request)

    async def rerank(self, request: RerankRequest) -> Ranking:
        async with self.use(request.model) as backend:
            return await backend.rerank(request)

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        async with self.use(request.model) as backend:
            return await backend.tokenize(request)

    async def detokenize(self, model: str, tokens: list[int]) -> str:
        async with self.use(model) as backend:
            return await backend.detokenize(model, tokens)

    async def token_texts(self, model: str, tokens: list[int]) -> list[str]:
        async with self.use(model) as backend:
            return await backend.token_texts(model, tokens)

    async def tokenizer_info(self, model: str) -> TokenizerInfo:
        async with self.use(model) as backend:
            return await backend.tokenizer_info(model)

    @asynccontextmanager
    async def use(self, id: str) -> AsyncIterator[Backend]:
        """Load the model unless it is loaded, and keep it loaded for the block. If the wait is cancelled, the
        load goes on for others. Raises ModelNotFound, ModelUnavailable, Overloaded.
        """
        self.known(id)
        entry = self.entries[id]
        if not entry.is_ready:
            await self._wait(entry)
        assert entry.backend is not None
        entry.num_users += 1
        entry.used_at = self.now()
        try:
            yield entry.backend
        finally:
            entry.num_users -= 1
            entry.used_at = self.now()
            self.changes.notify()

    def waited_for(self, task: asyncio.Task[Any]) -> Entry | None:
        """The model that a task waits for, if it waits for one to be loaded."""
        return self._waiters.get(task)

    def keep(self, id: str, keep_s: float | None) -> None:
        """Set how long a model stays loaded after its last request; None: as configured."""
        entry = self.entries.get(id)
        if entry is not None:
            entry.keep_s = keep_s
            self.changes.notify()

    async def load(self, id: str) -> Entry:
        """Load a model and wait for it. Raises what `use` raises."""
        async with self.use(id):
            return self.entries[id]

    async def unload(self, id: str, holder: str | None = None) -> Entry:
        """Unload a model when its running requests have ended. Raises ModelNotFound, ModelLocked."""
        self.known(id)
        entry = self.entries[id]
        self.check_hold(entry, holder)
        if entry.loading is not None:
            await asyncio.shield(entry.loading)
        if entry.state == "loaded" or entry.is_spare:
            await asyncio.shield(asyncio.ensure_future(self.residents.unload(entry)))
        return entry

    def hold(self, id: str, hold: Hold) -> Entry:
        """Lock or lease a model, or renew one's own lock or lease. Raises ModelNotFound, ModelLocked."""
        self.known(id)
        entry = self.entries[id]
        self.check_hold(entry, hold.holder)
        entry.hold = hold
        self.changes.notify()
        return entry

    def release(self, id: str, holder: str) -> Entry:
        """Release one's own lock or lease; there may be none. Raises ModelNotFound, ModelLocked."""
        self.known(id)
        entry = self.entries[id]
        self.check_hold(entry, holder)
        entry.hold = None
        self.changes.notify()
        return entry

    def check_hold(self, entry: Entry, holder: str | None) -> None:
        """Raise ModelLocked if somebody else than `holder` has locked or leased the model."""
        hold, now = entry.hold, self.now()
        if hold is not None and not hold.is_over(now) and hold.holder != holder:
            raise hold.refusal(entry.id, now)

    async def _wait(self, entry: Entry) -> None:
        """Wait until the model is loaded. Raises ModelUnavailable, Overloaded."""
        if entry.num_waiting >= MAX_WAITING:
            raise Overloaded(
                f"{entry.num_waiting} requests wait for {entry.id} to be loaded", retry_after_s=5
            )
        task = asyncio.current_task()
        assert task is not None
        self._waiters[task] = entry
        entry.num_waiting += 1
        try:
            while not entry.is_ready:
                self._notice_end(entry)
                self._check_failed(entry)
                if entry.state == "draining":
                    await self.changes.next(LOOK_S)
                else:
                    await asyncio.shield(self.residents.load(entry))
        finally:
            entry.num_waiting -= 1
            del self._waiters[task]

    def _check_failed(self, entry: Entry) -> None:
        """Raise ModelUnavailable while the pause after a failed load lasts."""
        left_s = entry.retry_at - self.now()
        if entry.state == "failed" and left_s > 0:
            raise ModelUnavailable(
                f"{entry.id} cannot be loaded: {entry.error}", retry_after_s=max(1, math.ceil(left_s))
            )

    def _info(self, entry: Entry) -> ModelInfo:
        """The model as the loaded backend describes it, else as its files do."""
        assert entry.known is not None
        loaded = entry.backend.models() if entry.backend is not None and entry.state == "loaded" else []
        return loaded[0] if loaded else entry.known.info

    def _left_bytes(self) -> int:
        return self.residents.budget_bytes - self.residents.used_bytes

    def _notice_end(self, entry: Entry) -> None:
        if entry.state == "loaded" and not entry.is_ready:
            entry.ended(self.now())
            log.error("%s: %s; it is loaded again", entry.id, entry.error)
            self.changes.notify()

    async def _keep_house(self) -> None:
        """Unload models that were not used for long, and load those again that ended by themselves."""
        while True:
            await self.changes.next(LOOK_S)
            for entry in list(self.entries.values()):
                self._notice_end(entry)
                if entry.state == "failed" and entry.returns and entry.retry_at <= self.now():
                    self.residents.load(entry)
                if entry.is_idle and self._is_over(entry):
                    await self.residents.unload(entry)

    def _is_over(self, entry: Entry) -> bool:
        hold = entry.hold
        is_held = hold is not None and not hold.is_over(self.now())
        return not is_held and entry.expires_at <= self.now()
