"""The kinds of work that a target can do: generate an answer, embed texts, score documents, or answer a
relayed request.

Optional members of a request ("wishes") may be left out: when a target refuses one by name, the request is
sent again without it, and the caller gets its name in X-Headrace-Ignored.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from headrace.backend_types import WithIgnored
from headrace.encoder_types import Ranking, RerankRequest
from headrace.errors import BadRequest, ProviderRefused, ServerError
from headrace.gateway.generation import Opened
from headrace.gateway.routing import Target
from headrace.relay_types import Relayed, Relaying, RelayRequest
from headrace.types import Conversation, Embeddings, EmbedRequest, Event, GenerateRequest, Started

MEMORY_S = 300.0  # for how long a member that a target refused is not sent to it
MAX_REMEMBERED = 1000  # refusals
REASONING = "messages.reasoning_content"
# an optional member → what a target's name of it has in it, such as "reasoning.effort" or "thinkingConfig"
NAMED = {
    REASONING: re.compile("^messages.*reasoning|reasoning_content"),
    "reasoning_effort": re.compile("reasoning|think", re.IGNORECASE),
    "verbosity": re.compile("verbosity"),
}
MIN_TIMEOUT_S = 0.001  # 0 would mean no timeout

Wish = tuple[str, str, str, str | None]  # backend, model, member, its value if others may be accepted

T_co = TypeVar("T_co", covariant=True)


class Work(Protocol[T_co]):
    """One request that can be sent to a target."""

    async def run(self, target: Target, exits: AsyncExitStack, *, has_fallback: bool) -> T_co:
        """Send the request and return the target's answer. Whatever has to be closed after the answer is
        pushed onto `exits`. With `has_fallback`, another target may answer instead until this returns, so the
        first content is awaited. Raises ServerError.
        """
        ...


class Wishes:
    """Remembers which target refused which optional member. `now`: seconds, monotonic."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._refused: dict[Wish, float] = {}  # → when

    async def open(
        self, target: Target, request: GenerateRequest, exits: AsyncExitStack
    ) -> tuple[AsyncIterator[Event], tuple[str, ...]]:
        """Start a generation at the target; `exits` takes its context. Returns the events, and the names of
        the optional members that were left out. Raises ServerError.
        """
        left_out: list[str] = []
        refused: list[Wish] = []
        for name in wishes_of(request) if self._refused else ():
            if self._was_refused(_wish(target, request, name)):
                request = _without(request, name)
                left_out.append(name)
        while True:
            try:
                events = await exits.enter_async_context(target.backend.generate(request))
            except (BadRequest, ProviderRefused) as exc:
                if (wish := _refused_wish(request, exc)) is None:
                    raise
                refused.append(_wish(target, request, wish))
                request = _without(request, wish)
                left_out.append(wish)
            else:
                self._remember(refused)
                return events, tuple(left_out)

    def _was_refused(self, wish: Wish) -> bool:
        at = self._refused.get(wish)
        return at is not None and self._now() - at < MEMORY_S

    def _remember(self, wishes: list[Wish]) -> None:
        """Remember what a target refused of a request that it answered without that."""
        if len(self._refused) >= MAX_REMEMBERED:
            self._refused.clear()
        self._refused |= dict.fromkeys(wishes, self._now())


@dataclass(frozen=True, slots=True)
class Generate:
    """Generation of an answer. `now`: the gateway's clock, in seconds; `arrived`: when the request came."""

    request: GenerateRequest
    wishes: Wishes
    now: Callable[[], float]
    arrived: float

    async def run(self, target: Target, exits: AsyncExitStack, *, has_fallback: bool) -> Opened:
        passed_s = self.now() - self.arrived if has_fallback else 0.0
        request = self.request
        if passed_s or request.model != target.info.id:
            request = _for_target(request, target, passed_s)
        events, left_out = await self.wishes.open(target, request, exits)
        first: list[Event] = []
        if has_fallback:
            async for event in events:
                first.append(event)
                if not isinstance(event, Started):
                    break
        if not isinstance(events, WithIgnored):
            return Opened(events, tuple(first), left_out)
        return Opened(events, tuple(first), (*left_out, *events.ignored), events.fingerprint)


@dataclass(frozen=True, slots=True)
class Embed:
    """Embedding of texts. `now` and `arrived` are those of `Generate`."""

    request: EmbedRequest
    now: Callable[[], float]
    arrived: float

    async def run(self, target: Target, _: AsyncExitStack, *, has_fallback: bool) -> Embeddings:
        return await target.backend.embed(_for_target(self.request, target, self.now() - self.arrived))


@dataclass(frozen=True, slots=True)
class Rerank:
    """Scoring of documents. `now` and `arrived` are those of `Generate`."""

    request: RerankRequest
    now: Callable[[], float]
    arrived: float

    async def run(self, target: Target, _: AsyncExitStack, *, has_fallback: bool) -> Ranking:
        return await target.backend.rerank(_for_target(self.request, target, self.now() - self.arrived))


@dataclass(frozen=True, slots=True)
class PassOn:
    """A request that is sent as its caller wrote it. `backends`: those that can do so, by name."""

    request: RelayRequest
    backends: Mapping[str, Relaying]

    async def run(self, target: Target, exits: AsyncExitStack, *, has_fallback: bool) -> Relayed:
        return await exits.enter_async_context(self.at(target, until_content=has_fallback))

    def at(self, target: Target, *, until_content: bool = False) -> AbstractAsyncContextManager[Relayed]:
        backend = self.backends[target.backend.name]
        return backend.relay(self.request, target.info.id, until_content=until_content)


Request = TypeVar("Request", GenerateRequest, EmbedRequest, RerankRequest)


def _for_target(request: Request, target: Target, passed_s: float) -> Request:
    """The request with the target's own name for the model, and with what is left of its timeout."""
    if request.model != target.info.id:
        request = replace(request, model=target.info.id)
    if passed_s and request.timeout_s is not None:
        request = replace(request, timeout_s=max(MIN_TIMEOUT_S, request.timeout_s - passed_s))
    return request


def wishes_of(request: GenerateRequest) -> tuple[str, ...]:
    """The optional members that the request has a value for."""
    prompt = request.prompt
    if not isinstance(prompt, Conversation) or not prompt.wishes:
        return ()
    is_set = {
        **dict.fromkeys(request.advice, True),
        "reasoning_effort": prompt.reasoning_effort is not None,
        "verbosity": prompt.verbosity is not None,
        REASONING: any(message.reasoning is not None for message in prompt.messages),
    }
    return tuple(name for name in prompt.wishes if is_set.get(name))


def without_wishes(request: GenerateRequest) -> GenerateRequest:
    """The request, none of whose members may be left out."""
    if not isinstance(request.prompt, Conversation):
        return request
    return replace(request, prompt=replace(request.prompt, wishes=frozenset()))


def _wish(target: Target, request: GenerateRequest, name: str) -> Wish:
    prompt = request.prompt
    assert isinstance(prompt, Conversation)
    values = {"reasoning_effort": prompt.reasoning_effort, "verbosity": prompt.verbosity}
    return target.backend.name, target.info.id, name, values.get(name)


def _refused_wish(request: GenerateRequest, error: ServerError) -> str | None:
    """The optional member that the error's `param` names; None if it names another member, or none."""
    param = (error.param or "").removeprefix("body.")
    name = next((name for name, pattern in NAMED.items() if pattern.search(param)), param)
    return name if name in wishes_of(request) else None


def _without(request: GenerateRequest, name: str) -> GenerateRequest:
    """A copy of the request without the optional member."""
    prompt = request.prompt
    assert isinstance(prompt, Conversation)
    if name in request.advice:
        rest = {member: value for member, value in request.advice.items() if member != name}
        return replace(request, advice=rest)
    if name == "verbosity":
        return replace(request, prompt=replace(prompt, verbosity=None))
    if name == REASONING:
        messages = tuple(replace(message, reasoning=None) for message in prompt.messages)
        return replace(request, prompt=replace(prompt, messages=messages))
    return replace(request, prompt=replace(prompt, reasoning_effort=None, thinking_budget=None))
