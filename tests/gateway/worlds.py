"""A clock that only tests move, and gateways over scripted providers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

from headrace.backends.fake import FakeBackend
from headrace.config import RouteConfig
from headrace.gateway.attempts import World
from headrace.gateway.gateway import Gateway
from headrace.types import Conversation, GenerateRequest, Message, TextDelta


class Clock:
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
    *backends: FakeBackend, clock: Clock | None = None, seed: int = 0, **routes: RouteConfig
) -> Gateway:
    """All of them are remote, except one that is called headrace."""
    clock = clock or Clock()
    world = World(clock.now, clock.sleep, Random(seed))
    remote = {backend.name for backend in backends} - {"headrace"}
    return Gateway(backends, remote=remote, routes=routes, world=world)


def ask(model: str, timeout_s: float | None = None) -> GenerateRequest:
    return GenerateRequest(model, Conversation((Message("user", "hi"),)), timeout_s=timeout_s)


async def answer(gateway: Gateway, request: GenerateRequest) -> str:
    """The whole text."""
    generation = await gateway.start(request)
    try:
        return "".join([event.text async for event in generation.events if isinstance(event, TextDelta)])
    finally:
        await generation.aclose()


def is_idle(gateway: Gateway, backends: Sequence[FakeBackend]) -> bool:
    return not gateway.num_active and not any(backend.num_active for backend in backends)
