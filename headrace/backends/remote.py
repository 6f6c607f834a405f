"""What remote providers share: a list of models that is fetched now and then, and what none can do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod

from headrace.backends.http import Upstream
from headrace.dialects.values import Object, objects
from headrace.errors import BadRequest, ProviderError, ServerError
from headrace.features import COMMON, NONE, Feature
from headrace.types import ModelInfo, TokenizeRequest, TokenizerInfo

log = logging.getLogger(__name__)

MAX_MODELS = 10_000  # of a list; what follows is left out
REFRESH_S = 300.0
RETRY_S = 30.0  # when the list could not be had


def listed(provider: str, found: object, member: str, *, id: str = "id") -> list[Object]:
    """The entries of a list of models, which some providers send without the object around it; those without
    an id are left out. Raises ProviderError for what is no list.
    """
    entries = found.get(member) if isinstance(found, dict) else found or None
    known = [entry for entry in objects(entries) if isinstance(entry.get(id), str) and entry[id]]
    if not isinstance(entries, list) or (entries and not known):
        raise ProviderError(f"{provider} answered with something that is no list of models")
    return known[:MAX_MODELS]


class Remote(ABC):
    """A provider behind an Upstream. `allowed`: the only models that it serves here; none: all of its own.

    `features`: what it carries; `by_us`: those of them that Headrace provides, so that the provider is not
    asked; `unsent`: see Backend.

    A provider may serve models that it does not list, so that every id is looked for there, unless `allowed`
    says otherwise. That its list cannot be had breaks nothing: the last one stays.
    """

    features: frozenset[Feature] = COMMON
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
        return True  # that a provider is down does not make this server unfit

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
        """What the provider says it serves. Raises ServerError."""

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        raise self._has_no_tokenizer()

    async def detokenize(self, model: str, tokens: list[int]) -> str:
        raise self._has_no_tokenizer()

    async def token_texts(self, model: str, tokens: list[int]) -> list[str]:
        raise self._has_no_tokenizer()

    async def tokenizer_info(self, model: str) -> TokenizerInfo:
        raise self._has_no_tokenizer()

    async def refresh(self) -> None:
        """Fetch the list anew. Raises ServerError."""
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
