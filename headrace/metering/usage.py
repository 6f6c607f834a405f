"""Usage of each key, model and day: counted in memory, and added to the store every few seconds, so that no
request waits for it. A process that is killed loses what it has counted since.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from headrace.errors import StoreUnavailable
from headrace.gateway.lifetime import Tally
from headrace.gateway.limits import Prices
from headrace.offload import cancel_and_wait
from headrace.store import Store, UsageRow

log = logging.getLogger(__name__)

FLUSH_S = 2.0
DAY_S = 86_400
MAX_ROWS = 10_000  # in memory, while the database is down; further requests are counted under no model
Key = tuple[str, str, str, int]  # as the first columns of a UsageRow


@dataclass(slots=True)
class _Sums:
    """What is counted for one key, model and day."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost: int = 0


class UsageMeter:
    """A meter. `now`: seconds since 1970."""

    def __init__(self, store: Store, prices: Prices, now: Callable[[], float] = time.time) -> None:
        self._store, self._prices, self._now = store, prices, now
        self._sums: dict[Key, _Sums] = {}  # not yet in a batch
        self._batch: tuple[int, list[UsageRow]] = (0, [])  # its number, and what is being stored
        self._flushing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._is_failing = False

    def record(self, tally: Tally) -> None:
        """Count a request that has reached a target."""
        if tally.provider is None or tally.served is None or tally.owner is None:
            return
        day = int(self._now() // DAY_S)
        key = (tally.owner, tally.provider, tally.served, day)
        sums = self._sums.get(key)
        if sums is None:
            if len(self._sums) >= MAX_ROWS:
                key = (tally.owner, "", "", day)
            sums = self._sums.setdefault(key, _Sums())
        sums.requests += 1
        usage = tally.usage or tally.assumed
        if usage is not None:
            sums.prompt_tokens += usage.prompt_tokens
            sums.completion_tokens += usage.completion_tokens
            sums.cached_tokens += usage.cached_tokens
            sums.cost += self._prices.cost(tally.provider, tally.served, usage)

    async def spent(self, key: str) -> tuple[int, int]:
        """The tokens that a key has used in its whole life, and their cost in billionths: those in the store
        and those in memory. Raises StoreUnavailable.
        """
        await self.flush()
        return await self._store.usage.spent(key)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._flush_often())

    async def aclose(self) -> None:
        """Store what is left. Call it before the store is closed."""
        await cancel_and_wait(self._task)
        try:
            await self.flush()
        except StoreUnavailable as exc:
            log.warning("usage: what was counted last is lost: %s", exc.message)

    async def flush(self) -> None:
        """Store what is counted so far, but not what is counted meanwhile: under load there is always more. A
        batch that failed is tried again as it is, because it may have been stored. Raises StoreUnavailable.
        """
        async with self._flushing:
            await self._store_batch()
            if self._sums:
                rows = [_row(*counted) for counted in self._sums.items()]
                self._batch, self._sums = (self._batch[0] + 1, rows), {}
                await self._store_batch()

    async def _store_batch(self) -> None:
        number, rows = self._batch
        if rows:
            await self._store.usage.add(number, rows)
            self._batch = (number, [])

    async def _flush_often(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except StoreUnavailable as exc:
                if not self._is_failing:
                    log.warning("usage is kept in memory: %s", exc.message)
                self._is_failing = True
            except Exception:
                log.exception("usage could not be stored")
            else:
                self._is_failing = False


def _row(key: Key, sums: _Sums) -> UsageRow:
    counted = (sums.requests, sums.prompt_tokens, sums.completion_tokens, sums.cached_tokens, sums.cost)
    return UsageRow(*key, *counted)
