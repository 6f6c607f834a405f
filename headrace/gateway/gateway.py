"""The life of one request, from a validated question to its last event. Every refusal happens before the
first byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import TypeVar

from headrace.config import RouteConfig
from headrace.errors import NotFound, Overloaded, ServerError, TimedOut
from headrace.gateway.attempts import Attempts, Clock
from headrace.gateway.generation import Generation, Reached
from headrace.gateway.metering import AnswerMeter, LoggingMeter, Meter, Tally
from headrace.gateway.race import Interruption, Until
from headrace.gateway.routing import Explanation, Plan, Router, Target
from headrace.gateway.wishes import Wishes
from headrace.gateway.work import Embed, Generate, Judge, PassOn, Work
from headrace.relay_types import Relayed, Relaying, RelayRequest
from headrace.types import (
    Backend,
    BackendKind,
    Embeddings,
    EmbedRequest,
    GenerateRequest,
    ModelInfo,
    TokenizeRequest,
    TokenizerInfo,
    Usage,
)

INTERRUPT_S = 2.0  # how long interrupted requests have to tell their callers
ATTEMPTS = "X-Headrace-Attempts"  # response header, of errors too: how many targets were asked

T = TypeVar("T")


def _nothing(_: BackendKind) -> Sequence[str]:
    return ()


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
        world: Clock | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.backends = tuple(backends)
        self._relaying = {b.name: b for b in backends if isinstance(b, Relaying)}
        self._meter = meter or LoggingMeter()
        self.request_timeout_s = request_timeout_s
        self._world = world or Clock()
        self._wishes = Wishes(self._world.now)
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
        """Admit, plan, judge, open. Raises ServerError; after it returns, the events can only end or fail.
        `provider`: the only one that may be asked.
        """
        tally = Tally("generate", request.model)
        with self._metered_if_refused(tally):
            async with AsyncExitStack() as exits:
                interruption = self._admit(exits, request.timeout_s)
                plan = self._router.plan(request.model, provider)
                async with Until(interruption.error):
                    work = Generate(request, self._stopwatch(), self._wishes)
                    reached = await self._reach(plan, work, request.timeout_s, exits, judge)
                generation = Generation(reached, request, interruption, exits.pop_all())
        tally.reached(reached.provider, reached.attempts)
        generation.observe(AnswerMeter(tally, self._meter, request.n))
        return generation

    async def embed(
        self, request: EmbedRequest, provider: str | None = None, *, judge: Judge = _nothing
    ) -> Reached[Embeddings]:
        """Cancelling it frees what it held. Raises ServerError."""
        with self._metered(Tally("embed", request.model)) as tally:
            async with AsyncExitStack() as exits:
                interruption = self._admit(exits, request.timeout_s)
                plan = self._router.plan(request.model, provider)
                async with Until(interruption.error):
                    work = Embed(request, self._stopwatch())
                    reached = await self._reach(plan, work, request.timeout_s, exits, judge)
            tally.reached(reached.provider, reached.attempts)
            tally.began()
            tally.usage = Usage(reached.value.prompt_tokens, 0)
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
        tally = Tally(request.endpoint, request.model, is_streamed=request.is_streamed)
        with self._metered(tally), ExitStack() as exits:
            yield tally, self._admit(exits, request.timeout_s)

    @asynccontextmanager
    async def relay(self, request: RelayRequest, plan: Plan) -> AsyncIterator[Reached[Relayed]]:
        """The answer as its provider wrote it, once it has begun. Raises ServerError."""
        async with AsyncExitStack() as exits:
            work = PassOn(request, self._relaying)
            yield await self._reach(plan, work, request.timeout_s, exits, _nothing)

    def _relays(self, target: Target, request: RelayRequest) -> bool:
        backend = self._relaying.get(target.backend.name)
        return backend is not None and backend.relays(request, target.info.id)

    async def tokenize(self, request: TokenizeRequest, provider: str | None = None) -> list[int]:
        """Of a route: by its first target. Raises ServerError, as the three below."""
        with self._admitted(request.model, provider) as (target, interruption):
            async with Until(interruption.error):
                return await target.backend.tokenize(replace(request, model=target.info.id))

    async def detokenize(self, model: str, tokens: list[int], provider: str | None = None) -> str:
        with self._admitted(model, provider) as (target, interruption):
            async with Until(interruption.error):
                return await target.backend.detokenize(target.info.id, tokens)

    async def token_texts(self, model: str, tokens: list[int], provider: str | None = None) -> list[str]:
        with self._admitted(model, provider) as (target, interruption):
            async with Until(interruption.error):
                return await target.backend.token_texts(target.info.id, tokens)

    async def tokenizer_info(self, model: str, provider: str | None = None) -> TokenizerInfo:
        with self._admitted(model, provider) as (target, interruption):
            async with Until(interruption.error):
                return await target.backend.tokenizer_info(target.info.id)

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

    @contextmanager
    def _admitted(self, model: str, provider: str | None) -> Iterator[tuple[Target, Interruption]]:
        """A place, and the first target for a model. Raises Overloaded, ModelNotFound, ProviderNotFound."""
        with ExitStack() as exits:
            interruption = self._admit(exits)
            yield self._router.first(model, provider), interruption

    async def _reach(
        self, plan: Plan, work: Work[T], timeout_s: float | None, exits: AsyncExitStack, judge: Judge
    ) -> Reached[T]:
        """Ask the plan's single target, or a route's targets until one answers. `exits` takes what has to be
        closed after the answer.
        """
        judge = cache(judge)
        if plan.route is None:
            target = plan.targets[0]
            ignored = judge(target.backend.kind)
            value = await work.direct(target, exits)
            return Reached(value, target.info, target.backend.name, 1, ignored)
        limits = [limit for limit in (self.request_timeout_s, timeout_s) if limit]
        deadline = self._world.now() + min(limits) if limits else None
        attempts = Attempts(
            plan, plan.route, partial(_judged, work, judge), world=self._world, deadline=deadline
        )
        try:
            won = await attempts.run()
        except ServerError as exc:
            exc.headers = {**exc.headers, ATTEMPTS: str(attempts.count)}
            raise
        exits.push_async_callback(won.exits.aclose)
        backend = won.target.backend
        return Reached(won.value, won.target.info, backend.name, attempts.count, judge(backend.kind))

    @contextmanager
    def _metered(self, tally: Tally) -> Iterator[Tally]:
        """Report a request to the meter when the body ends, with the error it ends with."""
        with self._metered_if_refused(tally):
            yield tally
        tally.ended()
        self._meter.record(tally)

    @contextmanager
    def _metered_if_refused(self, tally: Tally) -> Iterator[None]:
        try:
            yield
        except BaseException as exc:
            tally.failed(exc)
            tally.ended()
            self._meter.record(tally)
            raise

    def _stopwatch(self) -> Callable[[], float]:
        """Seconds since now."""
        began = self._world.now()
        return lambda: self._world.now() - began

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


async def _judged(work: Work[T], judge: Judge, target: Target, exits: AsyncExitStack) -> T:
    judge(target.backend.kind)
    return await work.tried(target, exits)
