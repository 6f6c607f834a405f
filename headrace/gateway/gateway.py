"""The life of one request, from the validated request to its last event. Every refusal happens before the
first byte.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import TypeVar

from headrace.backend_types import Backend
from headrace.callers import ANONYMOUS, CALLER
from headrace.config import RouteConfig
from headrace.encoder_types import Ranking, RerankRequest
from headrace.errors import BadRequest, NotFound, ServerError
from headrace.features import NO_USES, Uses
from headrace.gateway.attempts import Attempts, Clock
from headrace.gateway.generation import AnswerMeter, Generation, TargetResult
from headrace.gateway.lifetime import (
    Active,
    Admission,
    End,
    LoggingMeter,
    Meter,
    Metered,
    Receive,
    Tally,
    Until,
)
from headrace.gateway.limits import (
    Charge,
    Charging,
    Settling,
    answer_limit,
    hides_usage,
    is_limitable,
    is_patient,
)
from headrace.gateway.monitor import Monitor
from headrace.gateway.routing import Plan, Router, Target, check_model
from headrace.gateway.work import Embed, Generate, PassOn, Rerank, Wishes, Work, without_wishes
from headrace.relay_types import Relayed, Relaying, RelayRequest
from headrace.types import (
    Conversation,
    Embeddings,
    EmbedRequest,
    GenerateRequest,
    TokenizeRequest,
    TokenizerInfo,
    Usage,
)

ATTEMPTS = "X-Headrace-Attempts"  # response header, of errors too: how many targets got the request

T = TypeVar("T")
Whole = TypeVar("Whole", Embeddings, Ranking)
Settle = Callable[[], Awaitable[None]]
SendRelayed = Callable[[Relayed, Tally, Settle], Awaitable[None]]


class Gateway:
    """Routes requests to backends, and limits, meters and drains them.

    `request_timeout_s`: the time limit of every request; 0: none. `remote`: the names of the backends that
    are remote providers; `bare`: those whose models are listed without `PROVIDER:` in front of their ids.
    `charging`: reserves what callers with limits may use; None: no key has limits.
    `clock` and `meter` are replaced by tests.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        request_timeout_s: float = 0,
        remote: Collection[str] = (),
        bare: Collection[str] = (),
        routes: Mapping[str, RouteConfig] | None = None,
        substitutes: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        meter: Meter | None = None,
        charging: Charging | None = None,
    ) -> None:
        self.backends = tuple(backends)
        self._relaying = {b.name: b for b in backends if isinstance(b, Relaying)}
        self._meter, self._charging = meter or LoggingMeter(), charging
        self._clock = clock or Clock()
        self._wishes = Wishes(self._clock.now)
        self.router = Router(
            self.backends,
            remote=remote,
            bare=bare,
            routes=routes or {},
            substitutes=substitutes or {},
            random=self._clock.random,
            now=self._clock.now,
        )
        self.active = Active(request_timeout_s)
        self.monitor = Monitor()

    @property
    def num_active(self) -> int:
        """The number of requests that are admitted and not yet closed."""
        return len(self.active.requests)

    @property
    def is_draining(self) -> bool:
        """Whether new requests are refused, because the server shuts down."""
        return self.active.is_draining

    @property
    def is_alive(self) -> bool:
        return all(backend.is_alive for backend in self.backends)

    def left_out(self, uses: Uses, model: str, provider: str | None = None) -> list[str]:
        """The members that have no effect where a request to a model goes first. Raises ModelNotFound,
        ProviderNotFound, BadRequest.
        """
        return _left_out(uses, self.router.first(model, provider))

    async def start(
        self, request: GenerateRequest, provider: str | None = None, *, uses: Uses = NO_USES
    ) -> Generation:
        """Admit, plan, check, open. Raises ServerError; after it returns, the events can only end or fail.
        With `provider`, only that provider's models are considered.
        """
        tally, caller = Tally("generate", request.model, request.owner), CALLER.get()
        charge: Charge | None = None
        try:
            async with AsyncExitStack() as exits:
                end = exits.enter_context(Admission(self.active, request.timeout_s, tally))
                plan = self.router.plan(request.model, provider, caller)
                if any(target.info.kind != "generative" for target in plan.targets):
                    raise _generates_nothing(plan)
                # a priority only makes a request wait for others, unless the key may hurry
                priority = request.priority if caller.may_hurry else max(0, request.priority)
                request = replace(request, flow=caller.flow, priority=priority)
                if plan.preset is not None:
                    request = plan.preset.applied(request)
                if uses.is_strict:
                    request = without_wishes(request)
                async with Until(end):
                    if self._charging is not None and caller.limits.exist:
                        charge, request = await self._charging.generate(caller, request, plan.targets[0])
                    work = Generate(request, self._wishes, self._clock.now, self._clock.now())
                    result = await self._reach(plan, work, request.timeout_s, exits, uses)
                _answered_by(tally, result)
                tally.num_choices, tally.max_tokens = request.n, request.sampling.max_tokens
                meter = AnswerMeter(tally, self._meter, request.n, charge)
                observers = (meter, self.monitor.observer(request)) if request.probes else (meter,)
                return Generation(result, request, end, exits.pop_all(), *observers)
        except BaseException as exc:
            tally.end(exc)
            self._meter.record(tally)
            if charge is not None:
                await charge.settle(tally)
            raise

    async def embed(
        self, request: EmbedRequest, provider: str | None = None, *, uses: Uses = NO_USES
    ) -> TargetResult[Embeddings]:
        """Embed texts. Cancelling the call frees its resources. Raises ServerError."""
        caller, tally = CALLER.get(), Tally("embed", request.model, request.owner)
        charge = None if self._charging is None else partial(self._charging.embed, caller, request)

        def work(plan: Plan) -> Embed:
            _check_tokens(plan, request)
            return Embed(replace(request, flow=caller.flow), self._clock.now, self._clock.now())

        return await self._run_whole(tally, provider, request.timeout_s, work, charge, uses)

    async def rerank(
        self, request: RerankRequest, provider: str | None = None, *, uses: Uses = NO_USES
    ) -> TargetResult[Ranking]:
        """Score documents. Cancelling the call frees its resources. Raises ServerError."""
        caller, tally = CALLER.get(), Tally("rerank", request.model, request.owner)
        charge = None if self._charging is None else partial(self._charging.rerank, caller, request)

        def work(_: Plan) -> Rerank:
            return Rerank(replace(request, flow=caller.flow), self._clock.now, self._clock.now())

        return await self._run_whole(tally, provider, request.timeout_s, work, charge, uses)

    async def _run_whole(
        self,
        tally: Tally,
        provider: str | None,
        timeout_s: float | None,
        work: Callable[[Plan], Work[Whole]],
        charge: Callable[[Target], Awaitable[Charge]] | None,
        uses: Uses,
    ) -> TargetResult[Whole]:
        """Admit, plan, check and run work that is answered at once. `work` returns it for a plan; `charge`
        reserves what it may use, if the caller has limits. Raises ServerError.
        """
        with Metered(self._meter, tally):
            async with Settling(tally) as settling, AsyncExitStack() as exits:
                caller = CALLER.get()
                end = exits.enter_context(Admission(self.active, timeout_s, tally))
                plan = self.router.plan(tally.model, provider, caller)
                sent = work(plan)
                async with Until(end):
                    if charge is not None and caller.limits.exist:
                        settling.charge = await charge(plan.targets[0])
                    result = await self._reach(plan, sent, timeout_s, exits, uses)
                _complete(tally, result)
                return result

    def relayable(self, request: RelayRequest, provider: str | None = None) -> Plan | None:
        """The targets that a request may be passed on to as its caller wrote it. Returns None if one of them
        needs a translation, or the model is unknown.
        """
        caller = CALLER.get()
        try:
            plan = self.router.plan(request.model, provider, caller)
        except NotFound:
            return None
        if plan.preset is not None:
            return None  # it adds to the request
        if not caller.may_hurry and not is_patient(request):
            return None  # `start` limits its priority
        if caller.limits.count_tokens and answer_limit(request) is None:
            longest = plan.targets[0].info.max_model_len
            if not is_limitable(request, longest):
                return None  # the answer has to be limited to what the key has left
        for target in plan.targets:
            backend = self._relaying.get(target.backend.name)
            if backend is None or not backend.relays(request, target.info.id):
                return None
        return plan

    async def relay(
        self, request: RelayRequest, plan: Plan, send: SendRelayed, *ends: End, receive: Receive | None
    ) -> None:
        """Pass a request on. `send` sends the provider's answer once it has begun, completes the tally, and
        settles what was reserved before the answer's end is sent. Both end early by one of `ends`,
        the time limit of the request, or the hang-up that `receive` reports. Raises ServerError.
        """
        tally = Tally(request.endpoint, request.model, request.owner, request.is_streamed)
        caller = CALLER.get()
        # usage is counted for each key; without keys a stream is passed on as it was requested
        request.adds_usage = caller.id != ANONYMOUS.id and hides_usage(request)
        with Metered(self._meter, tally), Admission(self.active, request.timeout_s, tally) as end:
            async with Settling(tally) as settling, Until(end, *ends, receive=receive):
                target = plan.targets[0]
                if self._charging is not None and caller.limits.exist:
                    settling.charge = await self._charging.relay(caller, request, target)
                work = PassOn(request, self._relaying)
                if plan.route is None:  # nearly all requests: without the cost of a stack of exits
                    async with work.at(target) as relayed:
                        tally.provider, tally.served, tally.attempts = target.backend.name, target.info.id, 1
                        await send(relayed, tally, settling.settle)
                    return
                async with AsyncExitStack() as exits:
                    result = await self._reach(plan, work, request.timeout_s, exits, NO_USES)
                    _answered_by(tally, result)
                    await send(result.value, tally, settling.settle)

    async def tokenize(self, request: TokenizeRequest, provider: str | None = None) -> list[int]:
        """The token ids of a prompt, for a route those of its first target. Raises ServerError, as do the
        three methods below.
        """
        async with self._at_first(request.model, provider) as target:
            preset = self.router.presets.get(request.model) if provider is None else None
            if preset is not None and isinstance(request.prompt, Conversation):
                request = replace(request, prompt=preset.opened(request.prompt))
            return await target.backend.tokenize(replace(request, model=target.info.id))

    async def detokenize(self, model: str, tokens: list[int], provider: str | None = None) -> str:
        async with self._at_first(model, provider) as target:
            return await target.backend.detokenize(target.info.id, tokens)

    async def token_texts(self, model: str, tokens: list[int], provider: str | None = None) -> list[str]:
        async with self._at_first(model, provider) as target:
            return await target.backend.token_texts(target.info.id, tokens)

    async def tokenizer_info(self, model: str, provider: str | None = None) -> TokenizerInfo:
        async with self._at_first(model, provider) as target:
            return await target.backend.tokenizer_info(target.info.id)

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests, wait `timeout_s` for those that run, then interrupt the rest."""
        await self.active.drain(timeout_s)

    @asynccontextmanager
    async def _at_first(self, model: str, provider: str | None) -> AsyncIterator[Target]:
        """Admit a request for the first target of a model. Raises Overloaded, ModelNotFound,
        ProviderNotFound, and the error that ends the body early.
        """
        with Admission(self.active) as end:
            async with Until(end):
                check_model(CALLER.get(), model, provider)
                yield self.router.first(model, provider)

    async def _reach(
        self, plan: Plan, work: Work[T], timeout_s: float | None, exits: AsyncExitStack, uses: Uses
    ) -> TargetResult[T]:
        """Run the work at the plan's single target, or at a route's targets until one answers. `exits` takes
        what has to be closed after the answer.
        """
        if plan.route is None:
            target = plan.targets[0]
            ignored = _left_out(uses, target)
            value = await work.run(target, exits, has_fallback=False)
            return TargetResult(value, target.info, target.backend.name, 1, ignored)
        limits = [limit for limit in (self.active.timeout_s, timeout_s) if limit]
        deadline = self._clock.now() + min(limits) if limits else None
        run = partial(_check_and_run, work, uses)
        attempts = Attempts(plan, plan.route, run, clock=self._clock, deadline=deadline)
        try:
            winner = await attempts.run()
        except ServerError as exc:
            exc.headers = {**exc.headers, ATTEMPTS: str(attempts.count)}
            raise
        exits.push_async_callback(winner.exits.aclose)
        target = winner.target
        ignored = _left_out(uses, target)
        return TargetResult(winner.value, target.info, target.backend.name, attempts.count, ignored)


def _generates_nothing(plan: Plan) -> BadRequest:
    """The error for a plan with a target that is no model that generates text."""
    model = next(target.info for target in plan.targets if target.info.kind != "generative")
    endpoint = "/v1/rerank" if model.kind == "reranker" else "/v1/embeddings"
    return BadRequest(f"{model.id} is no model that generates text; it serves {endpoint}", param="model")


def _check_tokens(plan: Plan, request: EmbedRequest) -> None:
    """Raise BadRequest if token ids of one embedding model would be read as those of another."""
    if plan.is_substitute and not all(isinstance(text, str) for text in request.inputs):
        answering = plan.targets[0].info.id
        raise BadRequest.at(
            "input",
            f"{request.model} is answered by {answering} here, which has other token ids: send text "
            "(LangChain: check_embedding_ctx_length=False)",
        )


def _answered_by(tally: Tally, result: TargetResult[T]) -> None:
    tally.provider, tally.served, tally.attempts = result.provider, result.info.id, result.attempts


def _left_out(uses: Uses, target: Target) -> list[str]:
    """The members that have no effect at a target. Raises BadRequest for those that must not be lost."""
    carried = target.backend.features_of(target.info.id)
    if all(use.feature in carried for use in uses.members):  # nearly all requests
        return []
    return uses.left_out(carried, target.backend.unsent)


async def _check_and_run(work: Work[T], uses: Uses, target: Target, exits: AsyncExitStack) -> T:
    _left_out(uses, target)
    return await work.run(target, exits, has_fallback=True)


def _complete(tally: Tally, result: TargetResult[Whole]) -> None:
    """Record who answered, and what the answer cost."""
    _answered_by(tally, result)
    tally.began = perf_counter()
    prompt_tokens = result.value.prompt_tokens  # None: the provider reported no usage
    tally.usage = None if prompt_tokens is None else Usage(prompt_tokens, 0)
