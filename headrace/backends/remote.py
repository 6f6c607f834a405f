"""The base of remote providers: a list of models that is fetched again and again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import abstractmethod
from datetime import datetime

from headrace.backend_types import Backend
from headrace.backends.http import Upstream
from headrace.dialects.values import Object, an_object, word
from headrace.errors import ProviderError, ServerError
from headrace.offload import cancel_and_wait
from headrace.types import ModelInfo

log = logging.getLogger(__name__)

MAX_MODELS = 10_000  # of a provider's list; the rest is left out
REFRESH_S = 300.0  # between two fetches of the list
LISTS, IDS = ("data", "models"), ("id", "name", "model")  # members with the list, and with an entry's id
RETRY_S = 30.0  # after a fetch that failed


def listed(provider: str, body: object, member: str, *, id: str = "id") -> list[Object]:
    """Return the entries of a list of models that have an id, in the member `id`. Some providers send the
    list without the object around it, or ids alone, or other names, or null for a list without entries.
    Raises ProviderError if there is no list.
    """
    entries: object = body or None
    if isinstance(body, dict):
        name = next((name for name in (member, *LISTS) if name in body), None)
        entries = None if name is None else body[name] or []
    if isinstance(entries, list):
        by_name = ([entry for each in entries if (entry := _with_id(each, id, name))] for name in (id, *IDS))
        known = next(filter(None, by_name), [{id: word(each)} for each in entries if word(each)])
        if known or not entries:
            return known[:MAX_MODELS]
    raise ProviderError(f"{provider} answered with something that is no list of models")


def _with_id(entry: object, id: str, name: str) -> Object:
    """The entry with its id, which its member `name` has, in the member `id`; {} if it has none."""
    body = an_object(entry)
    own_id = word(body.get(name))
    return {**body, id: own_id} if own_id else {}


def unix_seconds(time: object) -> int:
    """Convert RFC 3339 to Unix seconds; 0: unknown."""
    try:
        return int(datetime.fromisoformat(time).timestamp()) if isinstance(time, str) else 0
    except ValueError:
        return 0


class Remote(Backend):
    """A provider behind an Upstream. `allowed`: ids of the models that are served; empty: all of them, also
    those that the provider does not list. If the list cannot be fetched, the last one stays in use.
    """

    def __init__(self, name: str, upstream: Upstream, *, allowed: tuple[str, ...] = ()) -> None:
        super().__init__(name)
        self.upstream, self.allowed = upstream, allowed
        self._models = [self.info(id) for id in allowed]
        self._refreshing: asyncio.Task[None] | None = None
        self._is_due = asyncio.Event()
        self.is_starting = False  # it is a process of ours that has no address yet: there is no list to fetch

    async def start(self) -> None:
        await self.upstream.start()
        self._refreshing = asyncio.create_task(self._refresh())

    async def aclose(self) -> None:
        await cancel_and_wait(self._refreshing)
        await self.upstream.aclose()

    def find(self, id: str) -> ModelInfo | None:
        return super().find(id) or (None if self.allowed else self.info(id))

    def info(self, id: str, *, created: int = 0, max_model_len: int | None = None) -> ModelInfo:
        return ModelInfo(id, self.name, created, max_model_len, None)

    @abstractmethod
    async def list_models(self) -> list[ModelInfo]:
        """Fetch the provider's list. Raises ServerError."""

    async def refresh(self) -> None:
        """Fetch the list and replace the last one. Raises ServerError."""
        infos = await self.list_models()
        listed = {info.id: info for info in infos}
        self._models = (
            [listed.get(id) or self.info(id) for id in self.allowed] if self.allowed else [*listed.values()]
        )

    def refresh_now(self) -> None:
        """Fetch the list again soon."""
        self._is_due.set()

    async def _refresh(self) -> None:
        while True:
            if self.is_starting:
                await self._is_due.wait()
            self._is_due.clear()
            pause_s = RETRY_S
            try:
                await self.refresh()
                pause_s = REFRESH_S
            except ServerError as exc:
                log.info("no list of models: %s", exc.message)
            except Exception:
                log.exception("the list of %s's models could not be read", self.name)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._is_due.wait()
