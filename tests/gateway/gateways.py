"""A clock that only tests move, and gateways over scripted providers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random

from headrace.backends.fake import FakeBackend
from headrace.config import RouteConfig
from headrace.gateway.attempts import Clock
from headrace.gateway.gateway import Gateway
from headrace.types import Conversation, Event, GenerateRequest, Message, TextDelta


class ManualClock:
    """In seconds. Sleeping moves it at once."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


def route(*targets: object, **members: object) -> RouteConfig:
    """Without retries, unless said otherwise."""
    return RouteConfig.model_validate({"targets": targets, "retries": 0, **members})


def gateway(
    *backends: FakeBackend, clock: ManualClock | None = None, seed: int = 0, **routes: RouteConfig
) -> Gateway:
    """All of them are remote, except one that is called headrace."""
    clock = clock or ManualClock()
    time = Clock(clock.now, clock.sleep, Random(seed))
    remote = {backend.name for backend in backends} - {"headrace"}
    return Gateway(backends, remote=remote, routes=routes, clock=time)


def ask(model: str, timeout_s: float | None = None) -> GenerateRequest:
    return GenerateRequest(model, Conversation((Message("user", "hi"),)), timeout_s=timeout_s)


async def answer(gateway: Gateway, request: GenerateRequest) -> str:
    """The whole text."""
    generation = await gateway.start(request)
    try:
        return "".join([event.text async for event in generation if isinstance(event, TextDelta)])
    finally:
        await generation.aclose()


def is_idle(gateway: Gateway, backends: Sequence[FakeBackend]) -> bool:
    return not gateway.num_active and not any(backend.num_active for backend in backends)


class Fickle(FakeBackend):
    """Each request that reaches it fails in a random way at a random place, or not; it may be slow."""

    def __init__(self, name: str, random: Random, errors: Sequence[Exception]) -> None:
        super().__init__([], id="m", name=name)
        self.random, self.errors = random, errors

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        fate, error = self.random.random(), self.random.choice(self.errors)
        once = FakeBackend(
            [] if fate < 0.3 else ["x"] * 3,
            delay_s=self.random.choice([0, 0, 0.001, 0.03]),
            opening_s=self.random.choice([0, 0, 0.01]),
            refusal=error if fate < 0.2 else None,
            error=error if fate < 0.4 else None,
        )
        self.num_active += 1
        try:
            async with once.generate(request) as events:
                yield events
        finally:
            self.num_active -= 1
