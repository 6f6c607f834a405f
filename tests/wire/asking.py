"""Bodies of every endpoint that generates or embeds: as neutral requests, and as what they ask for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from headrace.encoder_types import RerankRequest
from headrace.features import Uses
from headrace.types import EmbedRequest, GenerateRequest
from headrace.wire import chat, completions, embeddings
from headrace.wire.anthropic import request as messages
from headrace.wire.anthropic.tables import uses_of_messages
from headrace.wire.items import to_items
from headrace.wire.ollama import request as ollama
from headrace.wire.ollama.tables import uses_of_chat, uses_of_embed, uses_of_generate
from headrace.wire.parameters import parse, uses_of
from headrace.wire.responses import body as responses
from headrace.wire.responses.tables import uses_of_responses
from headrace.wire.steering import (
    ProfileBody,
    Steered,
    SteeringBody,
    SteeringMembers,
    to_probes,
    to_steering,
)
from headrace.wire.tables import TABLES
from tests.wire.samples import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RERANK, USER, Sample
from tests.wire.samples_of_ollama import OLLAMA
from tests.wire.samples_of_responses import RESPONSES

Asked = GenerateRequest | EmbedRequest | RerankRequest

SMALL: dict[str, Any] = {"model": "gpt-oss-120b"}
BASES: dict[str, dict[str, Any]] = {
    "chat/completions": {**SMALL, "messages": [USER]},
    "completions": {**SMALL, "prompt": "hi"},
    "embeddings": {**SMALL, "input": "hi"},
    "rerank": {**SMALL, "query": "hi", "documents": ["hi"]},
    "responses": {**SMALL, "input": "hi"},
    "messages": {**SMALL, "messages": [USER], "max_tokens": 99},
    "/api/chat": {**SMALL, "messages": [USER]},
    "/api/generate": {**SMALL, "prompt": "hi"},
    "/api/embed": {**SMALL, "input": "hi"},
    "/api/embeddings": {**SMALL, "prompt": "hi"},
}
SAMPLES: dict[str, dict[str, Sample]] = {
    "chat/completions": CHAT,
    "completions": COMPLETIONS,
    "embeddings": EMBEDDINGS,
    "rerank": RERANK,
    "responses": RESPONSES,
    "messages": MESSAGES,
    **OLLAMA,
}


def _to_response_request(body: responses.ResponseBody) -> GenerateRequest:
    responses.check(body)
    return responses.to_request(body, to_items(body.input, "input"))


BODIES: dict[str, tuple[type[BaseModel], Callable[[Any], Asked]]] = {
    "chat/completions": (chat.ChatBody, chat.to_request),
    "completions": (completions.CompletionBody, completions.to_request),
    "embeddings": (embeddings.EmbeddingsBody, embeddings.to_request),
    "rerank": (embeddings.RerankBody, embeddings.to_rerank_request),
    "responses": (responses.ResponseBody, _to_response_request),
    "messages": (messages.MessagesBody, messages.to_request),
    "/api/chat": (ollama.OllamaChatBody, ollama.chat_request),
    "/api/generate": (ollama.OllamaGenerateBody, ollama.generate_request),
    "/api/embed": (ollama.EmbedBody, ollama.embed_request),
    "/api/embeddings": (ollama.OllamaEmbeddingsBody, ollama.embeddings_request),
}
USES_OF: dict[str, Callable[..., Uses]] = {
    "responses": uses_of_responses,
    "messages": uses_of_messages,
    "/api/chat": uses_of_chat,
    "/api/generate": uses_of_generate,
    "/api/embed": uses_of_embed,
    "/api/embeddings": uses_of_embed,
}


def parsed(endpoint: str, members: dict[str, Any]) -> Any:
    body = parse(BODIES[endpoint][0], json.dumps({**BASES[endpoint], **members}).encode())
    return _steered(body) if isinstance(body, SteeringMembers) else body


def _steered(body: SteeringMembers) -> SteeringMembers:
    """With its steering resolved, as a server does that has every profile."""
    own = body.steering if isinstance(body.steering, SteeringBody) else None
    profile = None if body.profile is None else ProfileBody(scale=1.0, when=None, abort_when=None)
    steering = None if own is profile is None else to_steering(own, profile, body.profile)
    return body.with_steered(Steered(steering, to_probes(body.probe)))


def request(endpoint: str, members: dict[str, Any]) -> Asked:
    return BODIES[endpoint][1](parsed(endpoint, members))


def uses(endpoint: str, members: dict[str, Any], *, strict: bool = False) -> Uses:
    body = parsed(endpoint, members)
    if endpoint in USES_OF:
        return USES_OF[endpoint](body, strict=strict)
    return uses_of(body, TABLES[endpoint], strict=strict)


def bare(path: str) -> str:
    """A path without indices."""
    return ".".join(step for step in path.split(".") if not step.isdigit())
