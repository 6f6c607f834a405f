"""/v1/completions as JSON: parse it, and write events back. Chunks are `text_completion` objects too."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from headrace.types import Event, Finished, GenerateRequest, ModelInfo, TextDelta, Texts
from headrace.wire.generation import (
    Collected,
    GenerationBody,
    UsageBody,
    dump,
    head,
    sampling,
    usage_body,
    usage_chunk,
    wants_usage,
)

DEFAULT_MAX_TOKENS = 16  # OpenAI's


class CompletionBody(GenerationBody):
    """The body of POST /v1/completions."""

    prompt: str = Field(description="Plain text; special tokens in it are text.")


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: None
    finish_reason: Literal["stop", "length"] | None


class Completion(BaseModel):
    """The answer when `stream` is false, and each event when it is true (there `usage` only as asked for)."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageBody | None = None
    system_fingerprint: str | None


def to_request(body: CompletionBody) -> GenerateRequest:
    limit = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    return GenerateRequest(body.model, Texts((body.prompt,)), sampling(body, limit, None), body.n or 1)


def completion(info: ModelInfo, collected: Collected) -> dict[str, Any]:
    choices = [
        _choice(index, choice.text, choice.reason) for index, choice in sorted(collected.choices.items())
    ]
    return {**head("cmpl", "text_completion", info), "choices": choices, "usage": usage_body(collected.usage)}


class Chunks:
    """Writes one stream: every chunk shares id, created and model."""

    def __init__(self, body: CompletionBody, info: ModelInfo) -> None:
        self._head = head("cmpl", "text_completion", info)
        self._usage: dict[str, Any] = {"usage": None} if wants_usage(body) else {}
        self._collected = Collected()

    def first(self) -> list[str]:
        return []

    def event(self, event: Event) -> list[str]:
        if isinstance(event, TextDelta):
            choice = _choice(event.index, event.text, None)
        elif isinstance(event, Finished):
            self._collected.push(event)
            choice = _choice(event.index, "", event.reason)
        else:
            return []
        return [dump({**self._head, "choices": [choice], **self._usage})]

    def last(self) -> list[str]:
        return [usage_chunk(self._head, self._collected)] if self._usage else []


def _choice(index: int, text: str, reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
