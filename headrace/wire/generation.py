"""What chat and text completions share: sampling members, usage, ids, the fold over events."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from headrace.errors import BadRequest
from headrace.types import Event, FinishReason, ModelInfo, Sampling, TextDelta, Usage
from headrace.wire.validation import RequestBody

INT64 = 2**63
Stop = Annotated[str, StringConstraints(min_length=1)]


class StreamOptions(RequestBody):
    include_usage: bool | None = None


class GenerationBody(RequestBody):
    """The members that both dialects honour. Null means: not given."""

    model: str = Field(description="A model id from /v1/models.")
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, description="Clamped to what fits the context.")
    temperature: float | None = Field(
        None, ge=0, le=2, description="0 is greedy. Default: the model's, else 1."
    )
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(1, ge=1, le=128)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    top_k: int | None = Field(None, ge=-1, lt=INT64, description="Extension. 0 or -1 keeps all.")
    min_p: float | None = Field(None, ge=0, le=1, description="Extension.")
    ignore_eos: bool | None = Field(False, description="Extension. Go on past the end-of-text token.")
    min_tokens: int | None = Field(0, ge=0, lt=INT64, description="Extension. No end before this many.")


class PromptTokensDetails(BaseModel):
    cached_tokens: int = Field(description="Found in the prefix cache, not computed.")


class UsageBody(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


def sampling(body: GenerationBody, max_tokens: int | None) -> Sampling:
    if body.stream_options is not None and not body.stream:
        raise BadRequest("stream_options is only allowed with stream: true", param="stream_options")
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return Sampling(
        max_tokens=max_tokens, temperature=body.temperature, top_p=body.top_p, min_p=body.min_p,
        seed=body.seed, stop=stop, top_k=None if body.top_k is None else max(0, body.top_k),
        ignore_eos=bool(body.ignore_eos), min_tokens=body.min_tokens or 0,
    )  # fmt: skip


def wants_usage(body: GenerationBody) -> bool:
    return body.stream_options is not None and bool(body.stream_options.include_usage)


def new_id(prefix: Literal["chatcmpl", "cmpl"]) -> str:
    return f"{prefix}-{secrets.token_hex(12)}"


def head(prefix: Literal["chatcmpl", "cmpl"], object: str, info: ModelInfo) -> dict[str, Any]:
    """The members that an answer, or all chunks of one stream, begin with."""
    return {
        "id": new_id(prefix),
        "object": object,
        "created": int(time.time()),
        "model": info.id,
        "system_fingerprint": info.fingerprint,
    }


def usage_chunk(head: dict[str, Any], collected: Collected) -> str:
    """The last chunk of a stream whose caller asked for usage."""
    return dump({**head, "choices": [], "usage": usage_body(collected.usage)})


def add(usages: Iterable[Usage]) -> Usage:
    """The usage of a request from that of its choices: they share one prompt."""
    whole = list(usages)
    return Usage(
        whole[0].prompt_tokens, sum(usage.completion_tokens for usage in whole), whole[0].cached_tokens
    )


def usage_body(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


@dataclass(slots=True)
class Choice:
    """One finished choice."""

    text: str = ""
    reason: FinishReason = "stop"


@dataclass(slots=True)
class Collected:
    """A generation folded into its result."""

    choices: dict[int, Choice] = field(default_factory=dict)
    usages: dict[int, Usage] = field(default_factory=dict)

    def push(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self.choices.setdefault(event.index, Choice()).text += event.text
        else:
            self.choices.setdefault(event.index, Choice()).reason = event.reason
            self.usages[event.index] = event.usage

    @property
    def usage(self) -> Usage:
        return add(usage for _, usage in sorted(self.usages.items()))


def dump(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
