"""Replicas: several servers with the same models, as one backend."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence, Set
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TypeVar

from headrace import logs
from headrace.backend_types import Backend, ReplicaStats, WithIgnored
from headrace.backends.replicas import affinity
from headrace.backends.replicas.affinity import Moves
from headrace.backends.replicas.replica import Replica, Watch
from headrace.backends.replicas.resume import Resumption, way_of
from headrace.backends.replicas.supervision import Program, Supervision
from headrace.breaker import reasons
from headrace.encoder_types import Ranking, RerankRequest
from headrace.errors import ProviderError, ProviderUnreachable, ServerError
from headrace.features import Feature
from headrace.relay_types import Relayed, RelayRequest
from headrace.types import (
    Embeddings,
    EmbedRequest,
    Event,
    GenerateRequest,
    ModelCard,
    ModelInfo,
    Started,
    TokenizeRequest,
    TokenizerInfo,
)

log = logging.getLogger(__name__)

# a replica with one of these failures is left for the next one
LEAVES = frozenset({"connection", "408", "429", "5xx", "overloaded"})
MAX_BROKEN = (
    2  # replicas that may fail with one request, beside those that did not begin it: it may be its fault
)

T = TypeVar("T")
Open = Callable[[Replica, AsyncExitStack], Awaitable[T]]


class Replicas(Backend):
    """Sends each request to the replica that its affinity prefers, and to the next one if that fails before
    its first byte. After a first byte no other replica gets the request, so that none is answered twice.
    """

    def __init__(
        self,
        name: str,
        replicas: Sequence[Replica],
        programs: Mapping[Replica, Program] | None = None,
        *,
        resumes: bool = False,
    ) -> None:
        """`programs`: how replicas are started that are processes of ours; `resumes`: an answer that breaks
        off goes on at another replica.
        """
        super().__init__(name)
        self.resumes = resumes
        for replica in replicas:
            replica.backend.counts_tokens = resumes
        self.members, self._moves = tuple(replicas), Moves()
        self._watches = {replica: Watch(replica) for replica in replicas}
        self._supervisions = [
            Supervision(replica, self._watches[replica], program)
            for replica, program in (programs or {}).items()
        ]
        first = replicas[0].backend
        self.features, self.by_us, self.unsent = first.features, first.by_us, first.unsent

    async def start(self) -> None:
        for replica, watch in self._watches.items():
            await replica.backend.start()
            await watch.start()
        starts = [supervision.start() for supervision in self._supervisions]
        for result in await asyncio.gather(*starts, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def aclose(self) -> None:
        await asyncio.gather(*(supervision.aclose() for supervision in self._supervisions))
        for replica, watch in self._watches.items():
            await watch.aclose()
            await replica.backend.aclose()

    def replicas(self) -> Sequence[ReplicaStats]:
        return [replica.stats() for replica in self.members]

    def drain(self, name: str, *, is_drained: bool) -> bool:
        """Send a replica no new requests, or send them again. Returns False if there is no such replica."""
        named = [replica for replica in self.members if replica.name == name]
        for replica in named:
            replica.is_drained = is_drained
            log.info("%s: %s gets %s requests", self.name, name, "no new" if is_drained else "new")
        return bool(named)

    def features_of(self, model: str) -> Set[Feature]:
        return self._any.features_of(model)

    def models(self) -> list[ModelInfo]:
        """The models of the first replica whose list is known."""
        lists = (replica.backend.models() for replica in self.members)
        return next((models for models in lists if models), [])

    async def list_models(self) -> list[ModelInfo]:
        """Fetch the lists of all replicas; return the first. Raises ServerError, which names the replica."""
        lists = []
        for replica in self.members:
            try:
                lists.append(await replica.backend.list_models())
            except ServerError as exc:
                exc.message = f"{replica.name}: {exc.message}"
                raise
        return lists[0]

    def find(self, id: str) -> ModelInfo | None:
        listed = next((info for info in self.models() if info.id == id), None)
        return listed or self._any.find(id)

    def card(self, model: str) -> ModelCard:
        return self._any.card(model)

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        return await self._any.tokenize(request)

    async def detokenize(self, model: str, tokens: list[int]) -> str:
        return await self._any.detokenize(model, tokens)

    async def token_texts(self, model: str, tokens: list[int]) -> list[str]:
        return await self._any.token_texts(model, tokens)

    async def tokenizer_info(self, model: str) -> TokenizerInfo:
        return await self._any.tokenizer_info(model)

    @property
    def _any(self) -> Backend:
        return next((one.backend for one in self.members if one.is_reachable), self.members[0].backend)

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        key = affinity.of_generation(request)

        async def open(request: GenerateRequest) -> AsyncIterator[Event]:
            return await self._opened(key, partial(_opening, request), exits)

        async with AsyncExitStack() as exits:
            events = await open(request)
            way = way_of(request) if self.resumes else None
            if way is None:
                yield events
                return
            whole = Resumption(request, way, open).events(events)
            exits.push_async_callback(whole.aclose)
            yield WithIgnored(whole, events.ignored) if isinstance(events, WithIgnored) else whole

    def relays(self, request: RelayRequest, model: str) -> bool:
        """A stream that is passed on as it is cannot go on elsewhere."""
        is_resumed = self.resumes and request.is_streamed
        return not is_resumed and self.members[0].backend.relays(request, model)

    @asynccontextmanager
    async def relay(
        self, request: RelayRequest, model: str, *, until_content: bool = False
    ) -> AsyncIterator[Relayed]:
        async def open(replica: Replica, exits: AsyncExitStack) -> Relayed:
            answer = replica.backend.relay(request, model, until_content=True)
            return await exits.enter_async_context(answer)

        async with AsyncExitStack() as exits:
            yield await self._opened(affinity.of_relayed(request, model), open, exits)

    async def embed(self, request: EmbedRequest) -> Embeddings:
        async def open(replica: Replica, exits: AsyncExitStack) -> Embeddings:
            return await replica.backend.embed(request)

        async with AsyncExitStack() as exits:
            return await self._opened(affinity.of_texts(request), open, exits)

    async def rerank(self, request: RerankRequest) -> Ranking:
        async def open(replica: Replica, exits: AsyncExitStack) -> Ranking:
            return await replica.backend.rerank(request)

        async with AsyncExitStack() as exits:
            return await self._opened(affinity.digest(request.model, request.query), open, exits)

    async def _opened(self, key: bytes, open: Open[T], exits: AsyncExitStack) -> T:
        """The answer of the first replica that begins one. `exits` takes what has to be closed after it.
        Raises the last one's error if all fail.
        """
        error: ServerError | None = None
        num_broken = 0
        for replica in self._moves.ordered(self.members, key):
            permit = replica.breaker.take() if replica.is_available else None
            if permit is None:
                continue
            try:
                async with AsyncExitStack() as attempt:
                    attempt.enter_context(replica.busy())
                    value = await open(replica, attempt)
                    permit.succeeded()
                    exits.push_async_exit(attempt.pop_all())
            except ServerError as exc:
                why, is_broken = reasons(exc), _is_broken(exc)
                permit.failed() if is_broken else permit.abandoned()
                num_broken += is_broken
                if not why & LEAVES or num_broken >= MAX_BROKEN:
                    raise
                self._failed(replica, exc)
                error = exc
            except BaseException:
                permit.abandoned()
                raise
            else:
                self._moves.record(self.members, key, replica)
                _note(replica)
                return value
        raise error or self._unavailable()

    def _failed(self, replica: Replica, error: ServerError) -> None:
        replica.num_failures += 1
        self._watches[replica].hurry()
        log.warning(
            "%s: %s did not answer, the next replica is tried: %s", self.name, replica.name, error.message
        )

    def _unavailable(self) -> ProviderError:
        """The error when no replica gets requests."""
        waits = [one.breaker.retry_after_s for one in self.members if one.is_reachable and not one.is_drained]
        retry_s = max(1, math.ceil(min(waits, default=1)))
        return ProviderUnreachable(
            f"none of the {len(self.members)} replicas of {self.name} takes requests now",
            headers={"Retry-After": str(retry_s)},
        )


async def _opening(request: GenerateRequest, replica: Replica, exits: AsyncExitStack) -> AsyncIterator[Event]:
    """A replica's events, once the first one with content has arrived."""
    events = await exits.enter_async_context(replica.backend.generate(request))
    first: list[Event] = []
    async for event in events:
        first.append(event)
        if not isinstance(event, Started):
            break
    ignored = events.ignored if isinstance(events, WithIgnored) else ()
    whole = _chained(first, events)
    exits.push_async_callback(whole.aclose)
    return WithIgnored(whole, ignored) if ignored else whole


async def _chained(first: Sequence[Event], rest: AsyncIterator[Event]) -> AsyncGenerator[Event, None]:
    for event in first:
        yield event
    async for event in rest:
        yield event


def _is_broken(error: ServerError) -> bool:
    """Whether the replica failed while it worked on the request: it was there, and not busy."""
    why = reasons(error)
    return "408" in why or ("5xx" in why and "connection" not in why)


def _note(replica: Replica) -> None:
    """Name the replica that answers in the log line of the request."""
    facts = logs.FACTS.get()
    if facts is not None:
        facts["replica"] = replica.name
