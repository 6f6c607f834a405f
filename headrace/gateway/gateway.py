"""The life of one request, from a validated question to its last event. Every refusal happens before the
first byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

from headrace.errors import ModelNotFound, Overloaded, ServerError
from headrace.types import Backend, Event, GenerateRequest, ModelInfo

INTERRUPT_S = 2.0  # how long interrupted callers have to be told


class Generation:
    """A started generation. Whoever holds it closes it; closing frees what it held, once."""

    def __init__(self, info: ModelInfo, events: AsyncIterator[Event]) -> None:
        self.info, self.events, self.exits = info, events, AsyncExitStack()
        self.interrupted: asyncio.Future[ServerError] = asyncio.get_running_loop().create_future()

    def interrupt(self, error: ServerError) -> None:
        """Ask whoever holds it to stop reading, tell the caller this error, and close."""
        if not self.interrupted.done():
            self.interrupted.set_result(error)

    async def aclose(self) -> None:
        await self.exits.aclose()


class Gateway:
    def __init__(self, backends: Sequence[Backend]) -> None:
        self.backends = tuple(backends)
        self.is_draining = False
        self.num_active = 0  # requests admitted and not yet closed
        self._generations: set[Generation] = set()
        self._idle = asyncio.Event()

    @property
    def is_alive(self) -> bool:
        return all(backend.is_alive for backend in self.backends)

    def models(self) -> list[ModelInfo]:
        return [info for backend in self.backends for info in backend.models()]

    def model(self, id: str) -> ModelInfo:
        """Raises ModelNotFound."""
        return self._route(id)[1]

    async def start(self, request: GenerateRequest) -> Generation:
        """admit → resolve → open. Raises ServerError; after it returns, the events can only end or fail."""
        async with AsyncExitStack() as exits:
            self._admit(exits)
            backend, info = self._route(request.model)
            events = await exits.enter_async_context(backend.generate(request))
            generation = Generation(info, events)
            self._generations.add(generation)
            exits.callback(self._generations.discard, generation)
            generation.exits = exits.pop_all()
            return generation

    async def drain(self, timeout_s: float) -> None:
        """Refuse new work, let what runs finish within `timeout_s`, then interrupt the rest."""
        self.is_draining = True
        if await self._wait_idle(timeout_s):
            return
        for generation in tuple(self._generations):
            generation.interrupt(Overloaded("the server is shutting down"))
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

    def _admit(self, exits: AsyncExitStack) -> None:
        if self.is_draining:
            raise Overloaded("the server is shutting down", retry_after_s=5)
        self.num_active += 1
        exits.callback(self._leave)

    def _leave(self) -> None:
        self.num_active -= 1
        if not self.num_active:
            self._idle.set()

    def _route(self, model: str) -> tuple[Backend, ModelInfo]:
        for backend in self.backends:
            for info in backend.models():
                if info.id == model:
                    return backend, info
        served = ", ".join(info.id for info in self.models()) or "none"
        raise ModelNotFound(f"the model {model[:200]!r} does not exist here; served: {served}", param="model")
