"""Bodies of every endpoint that generates or embeds: as neutral requests, and as what they ask for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from headrace.features import Uses
from headrace.types import EmbedRequest, GenerateRequest
from headrace.wire import chat, completions, embeddings
from headrace.wire.anthropic import request as messages
from headrace.wire.anthropic.tables import uses_of_messages
from headrace.wire.items import to_items
from headrace.wire.parameters import parse, uses_of
from headrace.wire.responses import body as responses
from headrace.wire.responses.tables import uses_of_responses
from headrace.wire.tables import TABLES
from tests.wire.samples import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, USER, Sample
from tests.wire.samples_of_responses import RESPONSES

Asked = GenerateRequest | EmbedRequest

SMALL: dict[str, Any] = {"model": "gpt-oss-120b"}
BASES: dict[str, dict[str, Any]] = {
    "chat/completions": {**SMALL, "messages": [USER]},
    "completions": {**SMALL, "prompt": "hi"},
    "embeddings": {**SMALL, "input": "hi"},
    "responses": {**SMALL, "input": "hi"},
    "messages": {**SMALL, "messages": [USER], "max_tokens": 99},
}
SAMPLES: dict[str, dict[str, Sample]] = {
    "chat/completions": CHAT,
    "completions": COMPLETIONS,
    "embeddings": EMBEDDINGS,
    "responses": RESPONSES,
    "messages": MESSAGES,
}


def _to_response_request(body: responses.ResponseBody) -> GenerateRequest:
    responses.check(body)
    return responses.to_request(body, to_items(body.input, "input"))


BODIES: dict[str, tuple[type[BaseModel], Callable[[Any], Asked]]] = {
    "chat/completions": (chat.ChatBody, chat.to_request),
    "completions": (completions.CompletionBody, completions.to_request),
    "embeddings": (embeddings.EmbeddingsBody, embeddings.to_request),
    "responses": (responses.ResponseBody, _to_response_request),
    "messages": (messages.MessagesBody, messages.to_request),
}


def parsed(endpoint: str, members: dict[str, Any]) -> Any:
    return parse(BODIES[endpoint][0], json.dumps({**BASES[endpoint], **members}).encode())


def request(endpoint: str, members: dict[str, Any]) -> Asked:
    return BODIES[endpoint][1](parsed(endpoint, members))


def uses(endpoint: str, members: dict[str, Any], *, strict: bool = False) -> Uses:
    body = parsed(endpoint, members)
    if endpoint == "responses":
        return uses_of_responses(body, strict=strict)
    if endpoint == "messages":
        return uses_of_messages(body, strict=strict)
    return uses_of(body, TABLES[endpoint], strict=strict)


def bare(path: str) -> str:
    """A path without indices."""
    return ".".join(step for step in path.split(".") if not step.isdigit())
