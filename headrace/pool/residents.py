"""Loads models into memory and unloads them, within a budget.

One model is loaded at a time, in the order of requests. Where there is no room, models that are not in use
are unloaded, the least recently used one first; a model that answers requests is never unloaded under them.
If all are busy for DRAIN_AFTER_S, the one that was used longest ago takes no new requests until those that
run have ended and the other one has been loaded, so that none waits for ever.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Iterable

from headrace.backend_types import Backend
from headrace.errors import ModelUnavailable
from headrace.free_memory import trim
from headrace.pool.entry import Entry

log = logging.getLogger(__name__)

DRAIN_AFTER_S = 10.0
LOOK_S = 1.0  # how often a load that waits for memory looks whether it is still wanted
MIB = 2**20


class Residents:
    """The models in memory. `entries`: all that the pool knows; `now`: its clock, in seconds."""

    def __init__(
        self,
        entries: Callable[[], Iterable[Entry]],
        budget_bytes: int,
        changes: Changes,
        now: Callable[[], float],
    ) -> None:
        self._entries, self.budget_bytes, self._changes, self._now = entries, budget_bytes, changes, now
        self.restore: Callable[[Backend, str], Awaitable[None]] | None = None  # awaited after a model's start
        self._turn = asyncio.Lock()

    @property
    def used_bytes(self) -> int:
        """What the models in memory need, by their estimates."""
        return sum(entry.memory_bytes for entry in self._entries() if entry.is_resident)

    def load(self, entry: Entry) -> asyncio.Task[None]:
        """The task that loads a model: the running one, or a new one. It goes on when those who wait for it
        are cancelled. The entry's state says how it ended.
        """
        if entry.loading is None:
            entry.state = "loading"
            self._changes.notify()
            entry.loading = asyncio.ensure_future(self._load(entry))
        return entry.loading

    async def unload(self, entry: Entry) -> None:
        """Take no new requests, wait for those that run, and free the memory."""
        entry.state, entry.returns = "draining", False
        self._changes.notify()
        while entry.num_users:
            await self._changes.next()
        await self._free(entry)
        if entry.state == "draining":
            entry.state = "ready"
        self._changes.notify()

    async def close(self) -> None:
        """End all loads, and unload everything without waiting for requests."""
        for entry in self._entries():
            if entry.loading is not None:
                entry.loading.cancel()
                await asyncio.gather(entry.loading, return_exceptions=True)
            if entry.backend is not None:
                await entry.backend.aclose()
                entry.backend, entry.state = None, "ready"

    async def _load(self, entry: Entry) -> None:
        assert entry.known is not None
        try:
            async with self._turn:
                await self._free(entry)  # one that has ended by itself
                await self._make_room(entry)
                began = self._now()
                entry.backend = await asyncio.to_thread(entry.known.build)
                await entry.backend.start()
                if self.restore is not None:
                    await self.restore(entry.backend, entry.id)
                entry.succeeded(self._now() - began, self._now())
                log.info("%s is loaded, after %.1f s", entry.id, entry.load_s)
        except asyncio.CancelledError:
            entry.state = "ready"
            raise
        except _NotWanted:
            entry.state = "ready"
        except Exception as exc:
            await self._give_up(entry, exc)
        finally:
            entry.loading = None
            self._changes.notify()

    async def _give_up(self, entry: Entry, exc: Exception) -> None:
        backend = entry.backend
        message = getattr(exc, "message", None) or f"{type(exc).__name__}: {exc}"
        entry.failed(str(message), self._now())
        log.error("%s cannot be loaded: %s", entry.id, entry.error, exc_info=not hasattr(exc, "message"))
        if backend is not None:
            await _closed(entry.id, backend)
        del backend
        await _collect()

    async def _make_room(self, entry: Entry) -> None:
        """Unload others until the model fits. Raises ModelUnavailable, _NotWanted."""
        needed = entry.memory_bytes
        if needed > self.budget_bytes:
            raise ModelUnavailable(
                f"{entry.id} needs about {needed // MIB} MiB of memory, and engine.memory_budget is "
                f"{self.budget_bytes // MIB} MiB"
            )
        began = self._now()
        while self.used_bytes + needed > self.budget_bytes:
            victim = self._victim() or (self._busy() if self._now() - began > DRAIN_AFTER_S else None)
            if victim is not None:
                log.info("%s is unloaded to make room for %s", victim.id, entry.id)
                await self.unload(victim)
            elif not any(entry.is_resident for entry in self._movable()):
                raise ModelUnavailable(f"{entry.id}: the models in memory are pinned, locked or leased")
            else:
                await self._changes.next(LOOK_S)
            if not entry.num_waiting:
                raise _NotWanted

    def _victim(self) -> Entry | None:
        """The idle model that was used longest ago, of those that may be unloaded."""
        return min((e for e in self._movable() if e.is_spare), key=lambda e: e.used_at, default=None)

    def _busy(self) -> Entry | None:
        """The model whose last request came longest ago, of those that may be unloaded."""
        loaded = (e for e in self._movable() if e.state == "loaded")
        return min(loaded, key=lambda e: e.used_at, default=None)

    def _movable(self) -> Iterable[Entry]:
        now = self._now()
        for entry in self._entries():
            is_held = entry.hold is not None and not entry.hold.is_over(now)
            if entry.is_resident and not entry.is_pinned and not is_held:
                yield entry

    async def _free(self, entry: Entry) -> None:
        backend, entry.backend = entry.backend, None
        if backend is not None:
            await _closed(entry.id, backend)
            del backend
            await _collect()


class _NotWanted(Exception):
    """No request waits for the model any more."""


async def _closed(id: str, backend: Backend) -> None:
    """Close a backend. Whatever goes wrong there, the model is no longer loaded."""
    try:
        await backend.aclose()
    except Exception:
        log.exception("%s could not be closed", id)


async def _collect() -> None:
    """Free what the model's objects hold, also those in circles, and return it to the system. The server
    exempts what exists at its start from collection (gc.freeze), models that were loaded then included.
    """
    is_frozen = gc.get_freeze_count() > 0
    if is_frozen:
        gc.unfreeze()
    await asyncio.to_thread(gc.collect)
    if is_frozen:
        gc.freeze()
    await asyncio.to_thread(trim)


class Changes:
    """Each `next` returns at the first `notify` after it was called. `count` grows with each change, so that
    a reader who was busy meanwhile notices that it missed some.
    """

    def __init__(self) -> None:
        self._next: asyncio.Future[None] | None = None
        self.count = 0

    def notify(self) -> None:
        self.count += 1
        if self._next is not None and not self._next.done():
            self._next.set_result(None)
        self._next = None

    async def next(self, within_s: float | None = None) -> None:
        """Wait for a change, or for `within_s` seconds."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._next], timeout=within_s)
