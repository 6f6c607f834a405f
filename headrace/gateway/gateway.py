"""The life of one request, from a validated question to its last event. Every refusal happens before the
first byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

from headrace.errors import ModelNotFound, Overloaded, TimedOut
from headrace.gateway.interrupt import Interruption
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


class Generation:
    """A started generation. Whoever holds it closes it; closing frees what it held, once. When it is
    interrupted, the holder stops reading, tells the caller the error, and closes.
    """

    def __init__(self, info: ModelInfo, events: AsyncIterator[Event], interruption: Interruption) -> None:
        self.info, self.events, self.exits = info, events, AsyncExitStack()
        self.interrupted = interruption.error
        self.interrupt = interruption.interrupt

    async def aclose(self) -> None:
        await self.exits.aclose()


class Gateway:
    """`request_timeout_s`: how long any request may take; 0: as long as it wants."""

    def __init__(self, backends: Sequence[Backend], *, request_timeout_s: float = 0) -> None:
        self.backends = tuple(backends)
        self.request_timeout_s = request_timeout_s
        self.is_draining = False
        self.num_active = 0  # requests admitted and not yet closed
        self._interruptions: set[Interruption] = set()  # one of each of those
        self._idle = asyncio.Event()

    @property
    def is_alive(self) -> bool:
        return all(backend.is_alive for backend in self.backends)

    def models(self) -> list[ModelInfo]:
        return [info for backend in self.backends for info in backend.models()]

    def model(self, id: str | None) -> ModelInfo:
        """None: the first. Raises ModelNotFound."""
        return self._route(id)[1]

    async def start(self, request: GenerateRequest) -> Generation:
        """admit → resolve → open. Raises ServerError; after it returns, the events can only end or fail."""
        async with AsyncExitStack() as exits:
            interruption = self._admit(exits, request.timeout_s)
            backend, info = self._route(request.model)
            opening = exits.enter_async_context(backend.generate(request))
            generation = Generation(info, await interruption.unless(opening), interruption)
            generation.exits = exits.pop_all()
            return generation

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Cancelling it frees what it held. Raises ServerError."""
        async with AsyncExitStack() as exits:
            interruption = self._admit(exits, request.timeout_s)
            backend, _ = self._route(request.model)
            return await interruption.unless(backend.embed(request))

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        """Raises ServerError, as the two below."""
        async with AsyncExitStack() as exits:
            self._admit(exits)
            return await self._route(request.model)[0].tokenize(request)

    async def detokenize(self, model: str, tokens: list[int]) -> str:
        async with AsyncExitStack() as exits:
            self._admit(exits)
            return await self._route(model)[0].detokenize(model, tokens)

    async def tokenizer_info(self, model: str) -> TokenizerInfo:
        async with AsyncExitStack() as exits:
            self._admit(exits)
            return await self._route(model)[0].tokenizer_info(model)

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

    def _route(self, model: str | None) -> tuple[Backend, ModelInfo]:
        for backend in self.backends:
            for info in backend.models():
                if model is None or info.id == model:
                    return backend, info
        served = ", ".join(info.id for info in self.models()) or "none"
        wanted = "no model is served" if model is None else f"the model {model[:200]!r} does not exist here"
        raise ModelNotFound(f"{wanted}; served: {served}", param="model")
