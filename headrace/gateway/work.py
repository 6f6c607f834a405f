"""The kinds of work that a target can do: generate an answer, embed texts, or answer a relayed request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from headrace.gateway.generation import Opened
from headrace.gateway.routing import Target
from headrace.gateway.wishes import Wishes
from headrace.ignored import WithIgnored
from headrace.relay_types import Relayed, Relaying, RelayRequest
from headrace.types import Embeddings, EmbedRequest, Event, GenerateRequest, Started

MIN_TIMEOUT_S = 0.001  # 0 would mean no timeout

T_co = TypeVar("T_co", covariant=True)


class Work(Protocol[T_co]):
    """One request that can be sent to a target."""

    async def run(self, target: Target, exits: AsyncExitStack, *, has_fallback: bool) -> T_co:
        """Send the request and return the target's answer. Whatever has to be closed after the answer is
        pushed onto `exits`. With `has_fallback`, another target may answer instead until this returns, so the
        first content is awaited. Raises ServerError.
        """
        ...


@dataclass(frozen=True, slots=True)
class Generate:
    """Generation of an answer. `now`: the gateway's clock, in seconds; `arrived`: when the request came."""

    request: GenerateRequest
    wishes: Wishes
    now: Callable[[], float]
    arrived: float

    async def run(self, target: Target, exits: AsyncExitStack, *, has_fallback: bool) -> Opened:
        passed_s = self.now() - self.arrived if has_fallback else 0.0
        request = _for_target(self.request, target, passed_s)
        events, left_out = await self.wishes.open(target, request, exits)
        first: list[Event] = []
        if has_fallback:
            async for event in events:
                first.append(event)
                if not isinstance(event, Started):
                    break
        ignored = events.ignored if isinstance(events, WithIgnored) else ()
        return Opened(events, tuple(first), (*left_out, *ignored))


@dataclass(frozen=True, slots=True)
class Embed:
    """Embedding of texts. `now` and `arrived` are those of `Generate`."""

    request: EmbedRequest
    now: Callable[[], float]
    arrived: float

    async def run(self, target: Target, _: AsyncExitStack, *, has_fallback: bool) -> Embeddings:
        return await target.backend.embed(_for_target(self.request, target, self.now() - self.arrived))


@dataclass(frozen=True, slots=True)
class PassOn:
    """A request that is sent as its caller wrote it. `backends`: those that can do so, by name."""

    request: RelayRequest
    backends: Mapping[str, Relaying]

    async def run(self, target: Target, exits: AsyncExitStack, *, has_fallback: bool) -> Relayed:
        backend = self.backends[target.backend.name]
        relayed = backend.relay(self.request, target.info.id, until_content=has_fallback)
        return await exits.enter_async_context(relayed)


Request = TypeVar("Request", GenerateRequest, EmbedRequest)


def _for_target(request: Request, target: Target, passed_s: float) -> Request:
    """The request with the target's own name for the model, and with what is left of its timeout."""
    if request.model != target.info.id:
        request = replace(request, model=target.info.id)
    if passed_s and request.timeout_s is not None:
        request = replace(request, timeout_s=max(MIN_TIMEOUT_S, request.timeout_s - passed_s))
    return request
