"""The base class of remote providers: a list of models, refreshed regularly, and no tokenizer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod

from headrace.backends.http import Upstream
from headrace.dialects.values import Object, objects
from headrace.errors import BadRequest, ProviderError, ServerError
from headrace.features import NONE, Feature
from headrace.types import ModelInfo, TokenizeRequest, TokenizerInfo

log = logging.getLogger(__name__)

MAX_MODELS = 10_000  # of a provider's list; the rest is left out
REFRESH_S = 300.0  # between two fetches of the list
RETRY_S = 30.0  # after a fetch that failed


def listed(provider: str, found: object, member: str, *, id: str = "id") -> list[Object]:
    """Return the entries of a list of models that have an id. Some providers send the list without the object
    around it. Raises ProviderError if there is no list.
    """
    entries = found.get(member) if isinstance(found, dict) else found or None
    known = [entry for entry in objects(entries) if isinstance(entry.get(id), str) and entry[id]]
    if not isinstance(entries, list) or (entries and not known):
        raise ProviderError(f"{provider} answered with something that is no list of models")
    return known[:MAX_MODELS]


class Remote(ABC):
    """A provider behind an Upstream. `allowed`: ids of the models that are served; empty: all of them.

    `features`: those that it supports; `by_us`: those of them that Headrace implements, so that the provider
    does not receive them; `unsent`: see Backend.

    Unless `allowed` is set, every model id is accepted, because a provider may serve models that it does not
    list. If the list cannot be fetched, the last one stays in use.
    """

    features: frozenset[Feature] = NONE
    by_us: frozenset[Feature] = NONE
    unsent: frozenset[Feature] = NONE

    def __init__(self, name: str, upstream: Upstream, *, allowed: tuple[str, ...] = ()) -> None:
        self._name, self.upstream, self.allowed = name, upstream, allowed
        self._models = [self.info(id) for id in allowed]
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self._name

    def features_of(self, model: str) -> frozenset[Feature]:
        return self.features

    @property
    def is_alive(self) -> bool:
        return True  # a provider that is down does not make this server unhealthy

    async def start(self) -> None:
        await self.upstream.start()
        self._refreshing = asyncio.create_task(self._refresh())

    async def aclose(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._refreshing
        await self.upstream.aclose()

    def models(self) -> list[ModelInfo]:
        return self._models

    def find(self, id: str) -> ModelInfo | None:
        listed = next((info for info in self._models if info.id == id), None)
        return listed or (None if self.allowed else self.info(id))

    def info(self, id: str, *, created: int = 0) -> ModelInfo:
        return ModelInfo(id, self._name, created, None, None)

    @abstractmethod
    async def list_models(self) -> list[ModelInfo]:
        """Fetch the provider's list. Raises ServerError."""

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        raise self._has_no_tokenizer()

    async def detokenize(self, model: str, tokens: list[int]) -> str:
        raise self._has_no_tokenizer()

    async def token_texts(self, model: str, tokens: list[int]) -> list[str]:
        raise self._has_no_tokenizer()

    async def tokenizer_info(self, model: str) -> TokenizerInfo:
        raise self._has_no_tokenizer()

    async def refresh(self) -> None:
        """Fetch the list and replace the last one. Raises ServerError."""
        found = await self.list_models()
        listed = {info.id: info for info in found}
        self._models = [listed.get(id) or self.info(id) for id in self.allowed] if self.allowed else found

    async def _refresh(self) -> None:
        while True:
            pause_s = RETRY_S
            try:
                await self.refresh()
                pause_s = REFRESH_S
            except ServerError as exc:
                log.info("no list of models: %s", exc.message)
            except Exception:
                log.exception("the list of %s's models could not be read", self._name)
            await asyncio.sleep(pause_s)

    def _has_no_tokenizer(self) -> BadRequest:
        return BadRequest(f"{self._name} does not tell its tokens", param="model")
