"""Requests to Anthropic, and what it is body_of for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from anthropic.types.message_create_params import MessageCreateParamsStreaming
from pydantic import TypeAdapter

from headrace.backends.anthropic.request import to_body
from headrace.backends.anthropic.thinking import Abilities, of_name
from headrace.types import Conversation, Format, GenerateRequest, Message, Sampling
from tests.backends.anthropic_wire import MODEL

USER = Message("user", "Hello")
SDK_TYPES = TypeAdapter(MessageCreateParamsStreaming)


def neutral(
    *messages: Message,
    sampling: Sampling | None = None,
    format: Format | None = None,
    n: int = 1,
    model: str = MODEL,
    **members: Any,
) -> GenerateRequest:
    prompt = Conversation(messages or (USER,), **members)
    return GenerateRequest(model, prompt, sampling or Sampling(), n, format)


def body_of(request: GenerateRequest, abilities: Abilities | None = None) -> dict[str, Any]:
    """The body, once Anthropic's own types have found it good."""
    body = to_body(request, abilities or of_name(request.model))
    _exhaust(SDK_TYPES.validate_python(body))
    return body


def _exhaust(value: object) -> None:
    """pydantic checks an Iterable only as it is read."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, Iterator | list | tuple):
        for item in value:
            _exhaust(item)
