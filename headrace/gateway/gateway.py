"""The life of one request, from a validated question to its last event. Every refusal happens before the
first byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass, replace
from functools import cache
from typing import Generic, TypeVar

from headrace.config import RouteConfig
from headrace.errors import NotFound, Overloaded, ServerError, TimedOut
from headrace.gateway.attempts import Attempts, World
from headrace.gateway.begun import begun
from headrace.gateway.interrupt import Interruption
from headrace.gateway.metering import Counted, LoggingMeter, Meter, Tally
from headrace.gateway.routing import Explanation, Plan, Router, Target
from headrace.relaying import Relayed, Relaying, RelayRequest
from headrace.types import (
    Backend,
    BackendKind,
    Embeddings,
    EmbedRequest,
    Event,
    GenerateRequest,
    ModelInfo,
    TokenizeRequest,
    TokenizerInfo,
    Usage,
)

INTERRUPT_S = 2.0  # how long interrupted callers have to be told
ATTEMPTS = "X-Headrace-Attempts"  # response header, of errors too: how many targets were asked
MIN_TIMEOUT_S = 0.001  # 0 would mean none

T = TypeVar("T")
# what of the caller's body a kind of backend makes nothing of; raises BadRequest for what it must not lose
Judge = Callable[[BackendKind], Sequence[str]]


def _nothing(_: BackendKind) -> Sequence[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Reached(Generic[T]):
    """What came of asking. `info`: the model that answers; `attempts`: how many were begun for it;
    `ignored`: what the judge told of who answers.
    """

    value: T
    info: ModelInfo
    provider: str
    attempts: int
    ignored: Sequence[str] = ()


class Generation:
    """A started generation. Whoever holds it closes it; closing frees what it held, once. When it is
    interrupted, the holder stops reading, tells the caller the error, and closes.
    """

    def __init__(self, reached: Reached[AsyncIterator[Event]], interruption: Interruption) -> None:
        self.info, self.events, self.exits = reached.info, reached.value, AsyncExitStack()
        self.provider, self.attempts, self.ignored = reached.provider, reached.attempts, reached.ignored
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
        meter: Meter | None = None,
    ) -> None:
        self.backends = tuple(backends)
        self._relaying = {b.name: b for b in backends if isinstance(b, Relaying)}
        self._meter = meter or LoggingMeter()
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

    async def start(
        self, request: GenerateRequest, provider: str | None = None, *, judge: Judge = _nothing
    ) -> Generation:
        """admit → resolve → judge → open. Raises ServerError; after it returns, the events can only end or
        fail. `provider`: the only one that may be asked.
        """
        began = self._world.now()

        async def open_at(target: Target, exits: AsyncExitStack) -> AsyncIterator[Event]:
            asked = _for_target(request, target)
            return await exits.enter_async_context(target.backend.generate(asked))

        async def begin_at(target: Target, exits: AsyncExitStack) -> AsyncIterator[Event]:
            asked = _for_target(request, target, passed_s=self._world.now() - began)
            return await begun(await exits.enter_async_context(target.backend.generate(asked)))

        async with AsyncExitStack() as exits:
            tally = self._tally(exits, "generate", request.model)
            interruption = self._admit(exits, request.timeout_s)
            plan = self._router.plan(request.model, provider)
            reaching = self._reach(plan, request.timeout_s, exits, judge, direct=open_at, tried=begin_at)
            reached = await interruption.unless(reaching)
            tally.reached(reached.provider, reached.attempts)
            counted = Counted(reached.value, tally, n=request.n, num_choices=request.num_choices)
            exits.callback(counted.close, interruption.error)
            generation = Generation(replace(reached, value=counted), interruption)
            generation.exits = exits.pop_all()
            return generation

    async def embed(
        self, request: EmbedRequest, provider: str | None = None, *, judge: Judge = _nothing
    ) -> Reached[Embeddings]:
        """Cancelling it frees what it held. Raises ServerError."""
        began = self._world.now()

        async def embed_at(target: Target, _: AsyncExitStack) -> Embeddings:
            asked = _for_target(request, target, passed_s=self._world.now() - began)
            return await target.backend.embed(asked)

        async with AsyncExitStack() as exits:
            tally = self._tally(exits, "embed", request.model)
            interruption = self._admit(exits, request.timeout_s)
            plan = self._router.plan(request.model, provider)
            reaching = self._reach(plan, request.timeout_s, exits, judge, direct=embed_at, tried=embed_at)
            reached = await interruption.unless(reaching)
            tally.reached(reached.provider, reached.attempts)
            tally.began()
            tally.counted = Usage(reached.value.prompt_tokens, 0)
            return reached

    @property
    def has_relays(self) -> bool:
        return bool(self._relaying)

    def relayable(self, request: RelayRequest, provider: str | None = None) -> Plan | None:
        """Where it may go as its caller wrote it; None: it has to be translated, or the model is unknown."""
        try:
            plan = self._router.plan(request.model, provider)
        except NotFound:
            return None
        return plan if all(self._relays(target, request) for target in plan.targets) else None

    @contextmanager
    def passage(self, request: RelayRequest) -> Iterator[tuple[Tally, Interruption]]:
        """A place for a request that is passed on, until its last byte; then it is metered. Raises
        Overloaded.
        """
        with ExitStack() as exits:
            tally = self._tally(exits, request.endpoint, request.model, is_streamed=request.is_streamed)
            yield tally, self._admit(exits, request.timeout_s)

    @asynccontextmanager
    async def relay(self, request: RelayRequest, plan: Plan) -> AsyncIterator[Reached[Relayed]]:
        """The answer as its provider wrote it, once it has begun. Raises ServerError."""

        async def relay_at(target: Target, exits: AsyncExitStack) -> Relayed:
            return await exits.enter_async_context(self._relay_at(request, target))

        if plan.route is None:  # the usual case, and so without a detour
            target = plan.targets[0]
            async with self._relay_at(request, target) as relayed:
                yield Reached(relayed, target.info, target.backend.name, 1)
            return
        async with AsyncExitStack() as exits:
            yield await self._reach(plan, request.timeout_s, exits, _nothing, direct=relay_at, tried=relay_at)

    def _relay_at(self, request: RelayRequest, target: Target) -> AbstractAsyncContextManager[Relayed]:
        return self._relaying[target.backend.name].relay(request, target.info.id)

    def _relays(self, target: Target, request: RelayRequest) -> bool:
        backend = self._relaying.get(target.backend.name)
        return backend is not None and backend.relays(request, target.info.id)

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
        plan: Plan,
        timeout_s: float | None,
        exits: AsyncExitStack,
        judge: Judge,
        *,
        direct: Callable[[Target, AsyncExitStack], Awaitable[T]],
        tried: Callable[[Target, AsyncExitStack], Awaitable[T]],
    ) -> Reached[T]:
        """By `direct` where there is no choice; along a route by `tried`. What it holds is in `exits`."""
        judge = cache(judge)
        if plan.route is None:
            target = plan.targets[0]
            ignored = judge(target.backend.kind)
            value = await direct(target, exits)
            return Reached(value, target.info, target.backend.name, 1, ignored)

        async def judged(target: Target, exits: AsyncExitStack) -> T:
            judge(target.backend.kind)
            return await tried(target, exits)

        limits = [limit for limit in (self.request_timeout_s, timeout_s) if limit]
        deadline = self._world.now() + min(limits) if limits else None
        attempts = Attempts(plan, plan.route, judged, world=self._world, deadline=deadline)
        try:
            won = await attempts.run()
        except ServerError as exc:
            exc.headers = {**exc.headers, ATTEMPTS: str(attempts.count)}
            raise
        exits.push_async_callback(won.exits.aclose)
        backend = won.target.backend
        return Reached(won.value, won.target.info, backend.name, attempts.count, judge(backend.kind))

    def _tally(
        self, exits: AsyncExitStack | ExitStack, work: str, model: str, *, is_streamed: bool | None = None
    ) -> Tally:
        """Is told to the meter when `exits` close, with what they close for."""
        tally = Tally(work, model, is_streamed=is_streamed)

        def end(_: object, exc: BaseException | None, __: object) -> None:
            if exc is not None:
                tally.failed(exc)
            tally.ended()
            self._meter.record(tally)

        exits.push(end)
        return tally

    def _admit(self, exits: AsyncExitStack | ExitStack, timeout_s: float | None = None) -> Interruption:
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

    def _limit(
        self, interruption: Interruption, exits: AsyncExitStack | ExitStack, timeout_s: float | None
    ) -> None:
        """Interrupts it when the request's own timeout or the server's, whichever is shorter, has passed."""
        limits = [
            (limit, param)
            for limit, param in ((self.request_timeout_s, None), (timeout_s, "timeout"))
            if limit
        ]
        if limits:
            limit, param = min(limits, key=lambda pair: pair[0])
            loop = asyncio.get_running_loop()
            exits.callback(loop.call_later(limit, _time_out, interruption, limit, param).cancel)

    def _leave(self) -> None:
        self.num_active -= 1
        if not self.num_active:
            self._idle.set()


def _time_out(interruption: Interruption, limit_s: float, param: str | None) -> None:
    interruption.interrupt(TimedOut(f"the request took longer than {limit_s:g} s", param=param))


Asked = TypeVar("Asked", GenerateRequest, EmbedRequest)


def _for_target(request: Asked, target: Target, passed_s: float = 0.0) -> Asked:
    """With the name that the target itself has for the model, and with what is left of its timeout."""
    if request.timeout_s is not None and passed_s:
        request = replace(request, timeout_s=max(MIN_TIMEOUT_S, request.timeout_s - passed_s))
    return request if request.model == target.info.id else replace(request, model=target.info.id)
