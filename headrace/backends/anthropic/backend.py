"""Anthropic's Messages API as a Backend. Requests always stream: a silent connection may time out before a
long answer is complete, and an abandoned answer stops when its connection closes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import quote

from headrace.backends.answer_body import events_of
from headrace.backends.anthropic.answer import Answer
from headrace.backends.anthropic.passing import can_be_passed, mended
from headrace.backends.anthropic.reading import AnthropicReading
from headrace.backends.anthropic.request import MAX_NAME, to_body
from headrace.backends.anthropic.thinking import Abilities, of_listed, of_name
from headrace.backends.anthropic.upstream import AnthropicUpstream
from headrace.backends.http import root
from headrace.backends.passthrough import relayed
from headrace.backends.remote import MAX_MODELS, Remote, listed
from headrace.backends.sse import ServerSentEvent
from headrace.backends.writing import Writing, size_of
from headrace.config import ProviderConfig
from headrace.errors import BadRequest, ProviderError
from headrace.features import COMMON, Feature
from headrace.offload import aside
from headrace.relay_types import Relayed, RelayRequest
from headrace.types import Embeddings, EmbedRequest, Event, GenerateRequest, ModelInfo

BASE_URL = "https://api.anthropic.com"  # paths begin with /v1
VERSION = "2023-06-01"  # the next version, 2026-10-21, refuses temperature, top_p and top_k
MAX_PAGES = 50
FEATURES = COMMON | {
    Feature.CONTINUED_MESSAGE,
    Feature.SIGNED_REASONING,
    Feature.STRICT_TOOLS,
    Feature.THINKING_BUDGET,
    Feature.USER,
}
DRAIN_S = 0.05  # wait for the end of the HTTP response after the last event


class AnthropicBackend(Remote):
    """`key`: None sends no key. `config.headers` override the caller's and our own headers."""

    features = FEATURES
    unsent = frozenset({Feature.ADVICE, Feature.ANTHROPIC_ADVICE})
    by_us = frozenset({Feature.CONTINUED_MESSAGE})

    def __init__(self, name: str, config: ProviderConfig, key: str | None) -> None:
        headers = {"anthropic-version": VERSION, **({"x-api-key": key} if key else {})}
        headers |= {header.lower(): value for header, value in config.headers.items()}
        self._anthropic = AnthropicUpstream(
            name,
            root(config.base_url or BASE_URL, "/v1/messages", "/v1"),
            headers=headers,
            timeout_s=config.timeout_s,
        )
        super().__init__(name, self._anthropic, allowed=config.models)
        self._reading = AnthropicReading(self._anthropic)
        self._configured = {header.lower() for header in config.headers}
        self._abilities: dict[str, Abilities] = {}  # of the models in Anthropic's list, by id

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        writing = Writing(request, most=MAX_NAME)
        abilities = self._abilities_of(request.model)
        body = await aside(size_of(request), partial(to_body, request, abilities, writing))
        answer = Answer(self._anthropic)
        async with self._anthropic.stream("/v1/messages", body) as pieces:
            yield writing.restored(_events(answer, events_of(self._anthropic, pieces)))

    def relays(self, request: RelayRequest, model: str) -> bool:
        return request.dialect == "anthropic" and can_be_passed(request.body.members)

    @asynccontextmanager
    async def relay(
        self, request: RelayRequest, model: str, *, until_content: bool = False
    ) -> AsyncIterator[Relayed]:
        own = {name: value for name, value in request.headers.items() if name not in self._configured}
        abilities = self._abilities_of(model)
        body, ignored = await aside(request.body.size, partial(mended, request.body, model, abilities))
        async with relayed(
            self._anthropic,
            f"/v1{request.endpoint}",
            body,
            own,
            self._reading,
            streamed=request.is_streamed,
            until_content=until_content,
        ) as answer:
            yield replace(answer, ignored=ignored)

    def _abilities_of(self, model: str) -> Abilities:
        return self._abilities.get(model) or of_name(model)

    async def embed(self, request: EmbedRequest) -> Embeddings:
        raise BadRequest(f"{self.name} has no embeddings", param="model")

    async def list_models(self) -> list[ModelInfo]:
        entries: list[dict[str, Any]] = []
        after = ""
        for _ in range(MAX_PAGES):
            page = await self._anthropic.json("GET", f"/v1/models?limit=1000{after}")
            entries += listed(self.name, page, "data")
            last = page.get("last_id") if isinstance(page, dict) else None
            if not isinstance(last, str) or not page.get("has_more") or len(entries) >= MAX_MODELS:
                break
            after = f"&after_id={quote(last, safe='')}"
        self._abilities = {entry["id"]: of_listed(entry["id"], entry) for entry in entries}
        return [self._listed(entry) for entry in entries]

    def _listed(self, entry: dict[str, Any]) -> ModelInfo:
        window = entry.get("max_input_tokens")
        info = self.info(entry["id"], created=_seconds(entry.get("created_at")))
        return replace(info, max_model_len=window if isinstance(window, int) and window > 0 else None)


async def _events(answer: Answer, sent: AsyncIterator[ServerSentEvent]) -> AsyncIterator[Event]:
    async for each in sent:
        for event in answer.push(each):
            yield event
        if answer.is_finished:
            break
    else:
        for event in answer.finish():
            yield event
        return
    # A connection can be reused only if its response was read to the end.
    with suppress(TimeoutError, ProviderError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in sent:
                pass


def _seconds(created_at: object) -> int:
    """Convert RFC 3339 to Unix seconds; 0: unknown."""
    try:
        return int(datetime.fromisoformat(created_at).timestamp()) if isinstance(created_at, str) else 0
    except ValueError:
        return 0
