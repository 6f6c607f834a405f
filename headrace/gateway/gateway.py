"""The life of one request, from a validated question to its last event. Every refusal happens before the
first byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from headrace.config import RouteConfig
from headrace.errors import Overloaded, ServerError, TimedOut
from headrace.gateway.attempts import Attempts, World
from headrace.gateway.begun import begun
from headrace.gateway.interrupt import Interruption
from headrace.gateway.routing import Explanation, Router, Target
from headrace.types import (
    Backend,
    Embeddings,
    EmbedRequest,
    Event,
    GenerateRequest,
    ModelInfo,
    TokenizeRequest,
    TokenizerInfo,
)

INTERRUPT_S = 2.0  # how long interrupted callers have to be told
ATTEMPTS = "X-Headrace-Attempts"  # response header, of errors too: how many targets were asked
MIN_TIMEOUT_S = 0.001  # 0 would mean none

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reached(Generic[T]):
    """What came of asking. `info`: the model that answers; `attempts`: how many were begun for it."""

    value: T
    info: ModelInfo
    provider: str
    attempts: int


class Generation:
    """A started generation. Whoever holds it closes it; closing frees what it held, once. When it is
    interrupted, the holder stops reading, tells the caller the error, and closes.
    """

    def __init__(self, reached: Reached[AsyncIterator[Event]], interruption: Interruption) -> None:
        self.info, self.events, self.exits = reached.info, reached.value, AsyncExitStack()
        self.provider, self.attempts = reached.provider, reached.attempts
        self.interrupted = interruption.error
        self.interrupt, self.unless = interruption.interrupt, interruption.unless

    async def aclose(self) -> None:
        await self.exits.aclose()


class Gateway:
    """`request_timeout_s`: how long any request may take; 0: as long as it wants. `remote`: the names of the
    backends that are providers elsewhere; `bare`: those whose models are listed without their name before.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        request_timeout_s: float = 0,
        remote: Collection[str] = (),
        bare: Collection[str] = (),
        routes: Mapping[str, RouteConfig] | None = None,
        world: World | None = None,
    ) -> None:
        self.backends = tuple(backends)
        self.request_timeout_s = request_timeout_s
        self._world = world or World()
        self._router = Router(
            self.backends,
            remote=remote,
            bare=bare,
            routes=routes or {},
            random=self._world.random,
            now=self._world.now,
        )
        self.is_draining = False
        self.num_active = 0  # requests admitted and not yet closed
        self._interruptions: set[Interruption] = set()  # one of each of those
        self._idle = asyncio.Event()

    @property
    def is_alive(self) -> bool:
        return all(backend.is_alive for backend in self.backends)

    def check_routes(self) -> None:
        """Once the backends have started. Raises ConfigError."""
        self._router.check()

    def models(self, provider: str | None = None) -> list[ModelInfo]:
        """Of one provider by its own ids, or of all by ids that lead there. Raises ProviderNotFound."""
        return self._router.models(provider)

    def model(self, id: str | None, provider: str | None = None) -> ModelInfo:
        """None: the first. Raises ModelNotFound, ProviderNotFound."""
        return self._router.model(id, provider)

    def explain(self, id: str, provider: str | None = None) -> Explanation:
        """Where a request would go now. Asks nobody. Raises ModelNotFound, ProviderNotFound."""
        return self._router.explain(id, provider)

    async def start(self, request: GenerateRequest, provider: str | None = None) -> Generation:
        """admit → resolve → open. Raises ServerError; after it returns, the events can only end or fail.
        `provider`: the only one that may be asked.
        """
        began = self._world.now()

        async def open_at(target: Target, exits: AsyncExitStack) -> AsyncIterator[Event]:
            asked = _for_target(request, target)
            return await exits.enter_async_context(target.backend.generate(asked))

        async def begin_at(target: Target, exits: AsyncExitStack) -> AsyncIterator[Event]:
            asked = _for_target(request, target, passed_s=self._world.now() - began)
            return await begun(await exits.enter_async_context(target.backend.generate(asked)))

        async with AsyncExitStack() as exits:
            interruption = self._admit(exits, request.timeout_s)
            reaching = self._reach(request, provider, exits, direct=open_at, tried=begin_at)
            generation = Generation(await interruption.unless(reaching), interruption)
            generation.exits = exits.pop_all()
            return generation

    async def embed(self, request: EmbedRequest, provider: str | None = None) -> Reached[Embeddings]:
        """Cancelling it frees what it held. Raises ServerError."""
        began = self._world.now()

        async def embed_at(target: Target, _: AsyncExitStack) -> Embeddings:
            asked = _for_target(request, target, passed_s=self._world.now() - began)
            return await target.backend.embed(asked)

        async with AsyncExitStack() as exits:
            interruption = self._admit(exits, request.timeout_s)
            reaching = self._reach(request, provider, exits, direct=embed_at, tried=embed_at)
            return await interruption.unless(reaching)

    async def tokenize(self, request: TokenizeRequest, provider: str | None = None) -> list[int]:
        """Of a route: by its first target. Raises ServerError, as the two below."""
        async with AsyncExitStack() as exits:
            interruption = self._admit(exits)
            target = self._router.first(request.model, provider)
            return await interruption.unless(target.backend.tokenize(replace(request, model=target.info.id)))

    async def detokenize(self, model: str, tokens: list[int], provider: str | None = None) -> str:
        async with AsyncExitStack() as exits:
            interruption = self._admit(exits)
            target = self._router.first(model, provider)
            return await interruption.unless(target.backend.detokenize(target.info.id, tokens))

    async def tokenizer_info(self, model: str, provider: str | None = None) -> TokenizerInfo:
        async with AsyncExitStack() as exits:
            interruption = self._admit(exits)
            target = self._router.first(model, provider)
            return await interruption.unless(target.backend.tokenizer_info(target.info.id))

    async def drain(self, timeout_s: float) -> None:
        """Refuse new work, let what runs finish within `timeout_s`, then interrupt the rest."""
        self.is_draining = True
        if await self._wait_idle(timeout_s):
            return
        for interruption in tuple(self._interruptions):
            interruption.interrupt(Overloaded("the server is shutting down"))
        await self._wait_idle(INTERRUPT_S)

    async def _wait_idle(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                while self.num_active:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def _reach(
        self,
        request: GenerateRequest | EmbedRequest,
        provider: str | None,
        exits: AsyncExitStack,
        *,
        direct: Callable[[Target, AsyncExitStack], Awaitable[T]],
        tried: Callable[[Target, AsyncExitStack], Awaitable[T]],
    ) -> Reached[T]:
        """By `direct` where there is no choice; along a route by `tried`. What it holds is in `exits`."""
        plan = self._router.plan(request.model, provider)
        if plan.route is None:
            target = plan.targets[0]
            value = await direct(target, exits)
            return Reached(value, target.info, target.backend.name, 1)
        limits = [limit for limit in (self.request_timeout_s, request.timeout_s) if limit]
        deadline = self._world.now() + min(limits) if limits else None
        attempts = Attempts(plan, plan.route, tried, world=self._world, deadline=deadline)
        try:
            won = await attempts.run()
        except ServerError as exc:
            exc.headers = {**exc.headers, ATTEMPTS: str(attempts.count)}
            raise
        exits.push_async_callback(won.exits.aclose)
        return Reached(won.value, won.target.info, won.target.backend.name, attempts.count)

    def _admit(self, exits: AsyncExitStack, timeout_s: float | None = None) -> Interruption:
        """Takes a place until `exits` close. Raises Overloaded."""
        if self.is_draining:
            raise Overloaded("the server is shutting down", retry_after_s=5)
        self.num_active += 1
        exits.callback(self._leave)
        interruption = Interruption()
        self._interruptions.add(interruption)
        exits.callback(self._interruptions.discard, interruption)
        self._limit(interruption, exits, timeout_s)
        return interruption

    def _limit(self, interruption: Interruption, exits: AsyncExitStack, timeout_s: float | None) -> None:
        """Interrupts it when the request's own timeout or the server's, whichever is shorter, has passed."""
        limits = [
            (limit, param)
            for limit, param in ((self.request_timeout_s, None), (timeout_s, "timeout"))
            if limit
        ]
        if limits:
            limit, param = min(limits, key=lambda pair: pair[0])
            error = TimedOut(f"the request took longer than {limit:g} s", param=param)
            exits.callback(asyncio.get_running_loop().call_later(limit, interruption.interrupt, error).cancel)

    def _leave(self) -> None:
        self.num_active -= 1
        if not self.num_active:
            self._idle.set()


Asked = TypeVar("Asked", GenerateRequest, EmbedRequest)


def _for_target(request: Asked, target: Target, passed_s: float = 0.0) -> Asked:
    """With the name that the target itself has for the model, and with what is left of its timeout."""
    if request.timeout_s is not None and passed_s:
        request = replace(request, timeout_s=max(MIN_TIMEOUT_S, request.timeout_s - passed_s))
    return request if request.model == target.info.id else replace(request, model=target.info.id)
