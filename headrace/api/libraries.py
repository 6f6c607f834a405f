"""What handlers need of the SAEs and vectors of a served model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from fastapi import Request

from headrace.api.request import in_time
from headrace.errors import NotFound, SteeringRefused
from headrace.pool import Pool
from headrace.steering.types import Library
from headrace.turns.steering import Steering

T = TypeVar("T")


def steering_of(http: Request) -> Steering:
    steering: Steering = http.app.state.steering
    return steering


async def library_of(http: Request, model: str | None = None) -> Library:
    """The library of a model, which is loaded first if need be; of the first that can be steered, if none is
    named. Raises ModelNotFound, SteeringRefused, and what loading raises.
    """
    gateway, steering = http.app.state.gateway, steering_of(http)
    name = model if model is not None else http.query_params.get("model")
    if name is None and (loaded := libraries(http)):
        return loaded[0]
    if name is not None:
        gateway.router.first(name)
    every = [info.id for backend in gateway.backends for info in backend.models()]
    able = next((id for id in ([name] if name is not None else every) if steering.can_steer(id)), None)
    found = None if able is None else await _loaded(http, able)
    if found is None:
        named = "no model here" if name is None else f"the model {name[:100]!r}"
        raise SteeringRefused(
            f"{named} can be steered" if name is None else f"{named} cannot be steered",
            code="steering_unsupported",
            param="model",
        )
    return found


async def _loaded(http: Request, model: str) -> Library | None:
    target = http.app.state.gateway.router.first(model)
    found: Library | None = target.backend.library(target.info.id)
    if found is None and isinstance(target.backend, Pool):
        async with in_time(http):
            await target.backend.load(target.info.id)
        found = target.backend.library(target.info.id)
    return found


def libraries(http: Request) -> list[Library]:
    """The libraries of all models in memory that can be steered."""
    backends = http.app.state.gateway.backends
    found = [backend.library(info.id) for backend in backends for info in backend.models()]
    return [library for library in found if library is not None]


def existing(ids: list[str], id: str, kind: str) -> None:
    """Raises NotFound unless there is one of this id."""
    if id not in ids:
        raise NotFound(
            f"There is no {kind} {id[:64]!r} here; there are: {', '.join(ids[:20]) or 'none'}.", param="id"
        )


async def in_thread(work: Callable[[], T]) -> T:
    """Run work of a library that reads files or compiles, which takes seconds."""
    return await asyncio.to_thread(work)
