"""Anthropic's Messages API as a Backend. Requests always stream: a silent connection may time out before a
long answer is complete, and an abandoned answer stops when its connection closes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import quote

from headrace.backends.answer import open_answer
from headrace.backends.anthropic.answer import Answer
from headrace.backends.anthropic.corrections import can_be_relayed, correct_body
from headrace.backends.anthropic.relay_reader import AnthropicRelayReader
from headrace.backends.anthropic.request import MAX_NAME, to_body
from headrace.backends.anthropic.thinking import Abilities, of_listed, of_name
from headrace.backends.http import Upstream, root
from headrace.backends.passthrough import open_relay
from headrace.backends.remote import MAX_MODELS, Remote, listed, unix_seconds
from headrace.backends.writing import Writing, size_of
from headrace.config import ProviderConfig
from headrace.features import COMMON, Feature
from headrace.offload import aside
from headrace.relay_types import Relayed, RelayRequest
from headrace.types import Event, GenerateRequest, ModelInfo

BASE_URL = "https://api.anthropic.com"  # paths begin with /v1
VERSION = "2023-06-01"  # the next version, 2026-10-21, refuses temperature, top_p and top_k
ENDS = ("/v1/messages/count_tokens", "/v1/messages", "/v1/models", "/v1/chat/completions", "/v1")
MAX_PAGES = 50
FEATURES = COMMON | {
    Feature.ANTHROPIC_ADVICE, Feature.CONTINUED_MESSAGE, Feature.PROMPT_CACHE, Feature.SIGNED_REASONING,
    Feature.STRICT_TOOLS, Feature.THINKING_BUDGET,
    Feature.USER,
}  # fmt: skip


class AnthropicBackend(Remote):
    """`key`: None sends no key. `config.headers` override the caller's and our own headers."""

    features = FEATURES
    unsent = frozenset({Feature.ADVICE, Feature.PREDICTION, Feature.SERVER_TOOLS, Feature.SERVICE_TIER})
    by_us = frozenset({Feature.CONTINUED_MESSAGE})

    def __init__(self, name: str, config: ProviderConfig, key: str | None) -> None:
        headers = {"anthropic-version": VERSION, **({"x-api-key": key} if key else {})}
        headers |= {header.lower(): value for header, value in config.headers.items()}
        url = root(config.base_url or BASE_URL, *ENDS)
        upstream = Upstream(name, url, headers=headers, timeout_s=config.timeout_s)
        super().__init__(name, upstream, allowed=config.models)
        self._configured = {header.lower() for header in config.headers}
        self._abilities: dict[str, Abilities] = {}  # of the models in Anthropic's list, by id

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        writing = Writing(request, most=MAX_NAME)
        abilities = self._abilities_of(request.model)
        body = await aside(size_of(request), partial(to_body, request, abilities, writing))
        headers = self._unconfigured(request.headers)
        async with open_answer(self.upstream, "/v1/messages", body, Answer(self.upstream), headers) as events:
            yield writing.for_caller(events)

    def relays(self, request: RelayRequest, model: str) -> bool:
        return request.dialect == "anthropic" and can_be_relayed(request.body.members)

    def relay(
        self, request: RelayRequest, model: str, *, until_content: bool = False
    ) -> AbstractAsyncContextManager[Relayed]:
        path, headers = f"/v1{request.endpoint}", self._unconfigured(request.headers)
        correct = partial(correct_body, request.body, model, self._abilities_of(model))
        reader = AnthropicRelayReader(self.upstream, request.endpoint)
        return open_relay(reader, request, correct, path=path, headers=headers, until_content=until_content)

    def _unconfigured(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The caller's headers that the configuration does not set."""
        return {name: value for name, value in headers.items() if name not in self._configured}

    def _abilities_of(self, model: str) -> Abilities:
        return self._abilities.get(model) or of_name(model)

    async def list_models(self) -> list[ModelInfo]:
        entries: list[dict[str, Any]] = []
        after = ""
        for _ in range(MAX_PAGES):
            page = await self.upstream.json("GET", f"/v1/models?limit=1000{after}")
            entries += listed(self.name, page, "data")
            last = page.get("last_id") if isinstance(page, dict) else None
            if not isinstance(last, str) or not page.get("has_more") or len(entries) >= MAX_MODELS:
                break
            after = f"&after_id={quote(last, safe='')}"
        self._abilities = {entry["id"]: of_listed(entry["id"], entry) for entry in entries}
        return [self._listed(entry) for entry in entries]

    def _listed(self, entry: dict[str, Any]) -> ModelInfo:
        window = entry.get("max_input_tokens")
        max_model_len = window if isinstance(window, int) and window > 0 else None
        return self.info(
            entry["id"], created=unix_seconds(entry.get("created_at")), max_model_len=max_model_len
        )
