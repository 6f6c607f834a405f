"""What can be asked of a target: an answer, vectors, or the target's own bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from headrace.gateway.generation import Opened
from headrace.gateway.routing import Target
from headrace.gateway.wishes import Wishes
from headrace.noted import names_of
from headrace.relay_types import Relayed, Relaying, RelayRequest
from headrace.types import BackendKind, Embeddings, EmbedRequest, Event, GenerateRequest, Started

MIN_TIMEOUT_S = 0.001  # 0 would mean none

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
# the members of the caller's body that have no effect at a kind of backend; raises BadRequest for those that
# must not be lost
Judge = Callable[[BackendKind], Sequence[str]]


class Work(Protocol[T_co]):
    """One request, to be asked of a target. What has to be closed afterwards goes into the stack.

    `direct` is for a single target; `tried` for one of a route's, where an error leads to the next one.
    """

    async def direct(self, target: Target, exits: AsyncExitStack) -> T_co: ...

    async def tried(self, target: Target, exits: AsyncExitStack) -> T_co: ...


@dataclass(frozen=True, slots=True)
class Generate:
    """`passed_s`: how long ago the request came, in seconds."""

    request: GenerateRequest
    passed_s: Callable[[], float]
    wishes: Wishes

    async def direct(self, target: Target, exits: AsyncExitStack) -> Opened:
        return await self._opened(_named(self.request, target), target, exits)

    async def tried(self, target: Target, exits: AsyncExitStack) -> Opened:
        """The first content is awaited, because until then another target may answer instead."""
        request = _within(_named(self.request, target), self.passed_s())
        opened = await self._opened(request, target, exits)
        first: list[Event] = []
        async for event in opened.events:
            first.append(event)
            if not isinstance(event, Started):
                break
        return replace(opened, begun=tuple(first))

    async def _opened(self, request: GenerateRequest, target: Target, exits: AsyncExitStack) -> Opened:
        async def enter(asked: GenerateRequest) -> AsyncIterator[Event]:
            return await exits.enter_async_context(target.backend.generate(asked))

        events, left_out = await self.wishes.ask(target, request, enter)
        return Opened(events, noted=(*left_out, *names_of(events)))


@dataclass(frozen=True, slots=True)
class Embed:
    """`passed_s`: how long ago the request came, in seconds."""

    request: EmbedRequest
    passed_s: Callable[[], float]

    async def direct(self, target: Target, _: AsyncExitStack) -> Embeddings:
        request = _within(_named(self.request, target), self.passed_s())
        return await target.backend.embed(request)

    tried = direct


@dataclass(frozen=True, slots=True)
class PassOn:
    """`backends`: those that can pass a request on as it is, by name."""

    request: RelayRequest
    backends: Mapping[str, Relaying]

    async def direct(self, target: Target, exits: AsyncExitStack) -> Relayed:
        backend = self.backends[target.backend.name]
        return await exits.enter_async_context(backend.relay(self.request, target.info.id))

    async def tried(self, target: Target, exits: AsyncExitStack) -> Relayed:
        """The first content is awaited, as in `Generate.tried`."""
        backend = self.backends[target.backend.name]
        relayed = backend.relay(self.request, target.info.id, until_content=True)
        return await exits.enter_async_context(relayed)


Asked = TypeVar("Asked", GenerateRequest, EmbedRequest)


def _named(request: Asked, target: Target) -> Asked:
    """The request with the target's own name for the model."""
    return request if request.model == target.info.id else replace(request, model=target.info.id)


def _within(request: Asked, passed_s: float) -> Asked:
    """The request with what is left of its timeout."""
    if request.timeout_s is None:
        return request
    return replace(request, timeout_s=max(MIN_TIMEOUT_S, request.timeout_s - passed_s))
