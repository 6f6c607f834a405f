"""/v1/admin/replicas: list the replicas of providers, and keep new requests from one while it is repaired."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from headrace.api.authentication import Admin
from headrace.api.errors import RESPONSES
from headrace.api.routes import V1, route
from headrace.errors import NotFound
from headrace.gateway.gateway import Gateway
from headrace.measured import ReplicaState, ReplicaStats, Replicated
from headrace.wire.pagination import ListObject, list_object

router = APIRouter(tags=["admin"], responses=RESPONSES)


class ReplicaObject(TypedDict):
    id: Annotated[str, Field(description="Its address, or the name of a process of ours.")]
    object: Literal["replica"]
    provider: str
    state: ReplicaState
    active: Annotated[int, Field(description="Requests of this server that it works on.")]
    requests: Annotated[int, Field(description="That it was sent since the start.")]
    failures: Annotated[int, Field(description="Of those, how many another replica got instead.")]
    waiting: Annotated[int | None, Field(description="Requests that wait there, by its own metrics.")]
    kv_usage: Annotated[float | None, Field(description="Share of its KV cache in use, by its own metrics.")]
    trouble: Annotated[str | None, Field(description="Why it is not reachable.")]


class ReplicaChange(BaseModel):
    """The name of the replica to drain."""

    model_config = ConfigDict(extra="forbid")

    provider: str
    replica: str


@route(router, "GET", "/admin/replicas", under=V1, summary="List the replicas of all providers")
async def list_replicas(http: Request, _: Admin) -> ListObject[ReplicaObject]:
    found = [
        _object(backend.name, stats) for backend in _replicated(http).values() for stats in backend.replicas()
    ]
    return list_object(found, has_more=False)


@route(router, "POST", "/admin/replicas/drain", under=V1, summary="Send a replica no new requests")
async def drain_replica(http: Request, _: Admin, body: ReplicaChange) -> ReplicaObject:
    """What it works on goes on; `active` counts it."""
    return _change(http, body, is_drained=True)


@route(router, "POST", "/admin/replicas/resume", under=V1, summary="Send a drained replica requests again")
async def resume_replica(http: Request, _: Admin, body: ReplicaChange) -> ReplicaObject:
    return _change(http, body, is_drained=False)


def _change(http: Request, body: ReplicaChange, *, is_drained: bool) -> ReplicaObject:
    backend = _replicated(http).get(body.provider)
    if backend is None:
        raise NotFound(f"no provider {body.provider[:100]!r} has replicas here", param="provider")
    if not backend.drain(body.replica, is_drained=is_drained):
        known = ", ".join(stats.name for stats in backend.replicas())
        raise NotFound(
            f"{backend.name} has no replica {body.replica[:100]!r}; it has {known}", param="replica"
        )
    return next(_object(backend.name, one) for one in backend.replicas() if one.name == body.replica)


def _replicated(http: Request) -> dict[str, Replicated]:
    gateway: Gateway = http.app.state.gateway
    return {backend.name: backend for backend in gateway.backends if isinstance(backend, Replicated)}


def _object(provider: str, stats: ReplicaStats) -> ReplicaObject:
    return {
        "id": stats.name,
        "object": "replica",
        "provider": provider,
        "state": stats.state,
        "active": stats.num_active,
        "requests": stats.num_requests,
        "failures": stats.num_failures,
        "waiting": stats.num_waiting,
        "kv_usage": stats.kv_usage,
        "trouble": stats.trouble or None,
    }
