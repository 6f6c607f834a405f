"""The one language every dialect and every backend translates to and from: plain frozen values, no
behaviour.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

Role = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that an assistant message of the history made. `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    text: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """What the caller asked for; None leaves it to the model's recommendation, then to OpenAI's default."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One question: a conversation to answer, or a text to go on with."""

    model: str
    prompt: tuple[Message, ...] | str
    sampling: Sampling = field(default_factory=Sampling)
    n: int = 1


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, counted."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0  # of the prompt, found in the prefix cache


@dataclass(frozen=True, slots=True)
class TextDelta:
    index: int  # which of the n choices
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of one choice; each choice of an accepted request gets exactly one, or the events raise
    ServerError.
    """

    index: int
    reason: FinishReason
    usage: Usage  # prompt_tokens are those of the request, completion_tokens of this choice


Event = TextDelta | Finished


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a backend serves under one id."""

    id: str
    owned_by: str
    created: int
    max_model_len: int
    fingerprint: str  # changes when the same seed may give another output
    sampling: dict[str, float | int] = field(
        default_factory=dict
    )  # recommended, used when a request gives none


class Backend(Protocol):
    """One source of answers. Started once, closed once; `generate` may be entered many times at once."""

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...

    def models(self) -> list[ModelInfo]: ...

    @property
    def is_alive(self) -> bool:
        """Whether it can still answer. Cheap: a liveness probe asks."""
        ...

    def generate(self, request: GenerateRequest) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Start one generation. Entering may refuse (ServerError); leaving always frees what it held."""
        ...
