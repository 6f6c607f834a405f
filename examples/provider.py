"""A provider in one file, for docs/adding-a-provider.md. What it speaks is made up, and small:

GET /models → {"models": [ID, …]}
POST /generate {"model", "turns": [[ROLE, TEXT], …], "limit", "heat", "until"} → lines of JSON: {"text": …},
and at last {"ended": "stop" | "length", "read": TOKENS, "written": TOKENS}, or {"failed": TEXT}
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from headrace.backends.http import Upstream
from headrace.backends.remote import Remote
from headrace.backends.sse import lines
from headrace.config import ProviderConfig
from headrace.errors import ProviderError, UnsupportedParameter
from headrace.features import Feature
from headrace.types import (
    Conversation,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    ModelInfo,
    TextDelta,
    Usage,
)

REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


class PlainBackend(Remote):
    features = frozenset({Feature.MAX_TOKENS, Feature.STOP, Feature.TEMPERATURE})  # what it has words for

    def __init__(self, name: str, config: ProviderConfig, key: str | None) -> None:
        headers = {**({} if key is None else {"Authorization": f"Bearer {key}"}), **config.headers}
        url = config.base_url or "http://127.0.0.1:9000"
        upstream = Upstream(name, url, headers=headers, timeout_s=config.timeout_s)
        super().__init__(name, upstream, allowed=config.models)

    async def list_models(self) -> list[ModelInfo]:
        found = await self.upstream.json("GET", "/models")
        try:
            return [self.info(str(id)) for id in found["models"]]
        except (KeyError, TypeError) as exc:
            raise ProviderError(f"{self.name} answered with something that is no list of models") from exc

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        """Leaving it closes the connection."""
        async with (
            self.upstream.stream("/generate", _body(request)) as pieces,
            aclosing(lines(pieces)) as answer,
            aclosing(self._events(answer)) as events,
        ):
            yield events

    async def _events(self, answer: AsyncIterator[str]) -> AsyncGenerator[Event, None]:
        async for line in answer:
            if not line:
                continue
            try:
                event = self._event(self.upstream.loads(line))
            except (KeyError, TypeError, ValueError) as exc:
                raise ProviderError(f"{self.name} sent something that is no part of an answer") from exc
            yield event
            if isinstance(event, Finished):
                return
        raise ProviderError(f"{self.name} ended its answer in the middle")

    def _event(self, said: Any) -> Event:
        if "failed" in said:
            raise self.upstream.error(500, str(said["failed"]))
        if "ended" in said:
            return Finished(0, REASONS[said["ended"]], Usage(int(said["read"]), int(said["written"])))
        return TextDelta(0, str(said["text"]))


def _body(request: GenerateRequest) -> dict[str, Any]:
    """What the provider is sent. A feature that is not carried does not come here: only values are left to be
    refused. Raises UnsupportedParameter.
    """
    prompt, sampling = request.prompt, request.sampling
    assert isinstance(prompt, Conversation), "it carries no text completions"
    if any(message.parts or message.tool_calls for message in prompt.messages):
        raise UnsupportedParameter("messages: this provider takes texts only", param="messages")
    given = {"limit": sampling.max_tokens, "heat": sampling.temperature, "until": list(sampling.stop) or None}
    return {
        "model": request.model,
        "turns": [[message.role, message.text] for message in prompt.messages],
        **{name: value for name, value in given.items() if value is not None},
    }
