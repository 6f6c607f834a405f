"""Values of the relay: a request that is passed on to a provider of the same dialect, and its answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from headrace.types import Usage
from headrace.verbatim import Verbatim

Dialect = Literal["openai", "anthropic"]


# The first two are not frozen: they are created for each request, and that takes three times as long for a
# frozen object.


@dataclass(slots=True)
class RelayRequest:
    """A request as the caller wrote it, for a provider of the same dialect. `endpoint`: the path below the
    provider's address, e.g. /chat/completions; `headers`: those of the dialect.
    """

    dialect: Dialect
    endpoint: str
    body: Verbatim
    model: str
    is_streamed: bool
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    owner: str | None = None  # the principal's id
    max_tokens: int | None = None  # of each answer, where the body does not limit them; None: nothing does
    adds_usage: bool = False  # the provider sends the usage of a stream, and the caller does not get it


def num_prompts(members: Mapping[str, Any]) -> int:
    """The number of prompts in a body, each of which has `n` answers. A list of numbers is one, as tokens."""
    prompt = members.get("prompt")
    return len(prompt) if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list) else 1


@dataclass(slots=True)
class Relayed:
    """A provider's answer in its own bytes: the whole body, or a stream of pieces that are whole events, the
    first of which has arrived. `headers`: those that are passed on. `usage` returns the usage in the part of
    the answer that has been read; None: there is none yet. `is_over` returns whether the last event of a
    stream is among what has been read. `ignored`: paths, without indices, of request
    members that were left out or changed.
    """

    headers: tuple[tuple[bytes, bytes], ...]
    answer: bytes | AsyncIterator[bytes]
    usage: Callable[[], Usage | None]
    is_over: Callable[[], bool]
    ignored: tuple[str, ...] = ()


@runtime_checkable
class Relaying(Protocol):
    """A backend that can also pass on requests in its own dialect unchanged."""

    def relays(self, request: RelayRequest, model: str) -> bool:
        """Whether the request can be passed on with only its model or a limit changed. Cheap."""
        ...

    def relay(
        self, request: RelayRequest, model: str, *, until_content: bool = False
    ) -> AbstractAsyncContextManager[Relayed]:
        """Send the request for `model`, the provider's name of it. Entering raises ServerError, also for an
        answer that is an error; leaving closes the connection. `until_content`: entering waits for the
        stream's first content, so that until then the caller can fall back on another provider.
        """
        ...
