"""/v1/admin: administrators manage API keys, see and stop running requests, drain replicas and read the log,
both without content. /v1/usage: what each key has used.
"""

from __future__ import annotations

from datetime import UTC, datetime
from time import perf_counter
from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from headrace import logs
from headrace.api.authentication import Admin, names
from headrace.api.errors import RESPONSES
from headrace.api.listing import NewestFirst, described, query_of
from headrace.api.request import Caller, Stored
from headrace.api.routes import V1, route
from headrace.backend_types import ReplicaState, ReplicaStats, Replicated
from headrace.errors import BadRequest, Forbidden, NotFound
from headrace.gateway.gateway import Gateway
from headrace.gateway.lifetime import Running
from headrace.metering.usage import UsageMeter
from headrace.store import StoredKey
from headrace.wire import keys as wire
from headrace.wire.limits import whole
from headrace.wire.pagination import ListObject, list_object, page_object

router = APIRouter(tags=["admin"], responses=RESPONSES)
KEY = "/admin/keys/{key_id}"
USAGE_PARAMETERS = [
    {"name": "start_time", "in": "query", "schema": {"type": "integer"},
     "description": "Seconds since 1970. Default: 30 days before the end."},
    {"name": "end_time", "in": "query", "schema": {"type": "integer"}, "description": "Default: now."},
    {"name": "api_key_id", "in": "query", "schema": {"type": "string"},
     "description": "Of one key; of others only for administrators."},
    {"name": "page", "in": "query", "schema": {"type": "string"},
     "description": "The `next_page` of the page before."},
]  # fmt: skip


@route(router, "POST", "/admin/keys", under=V1, summary="Create an API key, which is shown once")
async def create_key(_: Admin, store: Stored, body: wire.KeyBody) -> wire.NewKeyObject:
    if body.name is None:
        raise BadRequest("name is missing", param="name")
    return wire.new_key(*await store.keys.create(wire.changed(StoredKey("", "", "", "", 0), body)))


@route(
    router, "GET", "/admin/keys", under=V1, extra=described("desc"),
    summary="List API keys, newest first, revoked ones included",
)  # fmt: skip
async def list_keys(_: Admin, store: Stored, query: NewestFirst) -> ListObject[wire.KeyObject]:
    return page_object(await store.keys.page(**query), wire.key)


@route(router, "GET", KEY, under=V1, summary="Retrieve an API key, without its secret")
async def retrieve_key(_: Admin, store: Stored, key_id: str) -> wire.KeyObject:
    return wire.key(await store.keys.get(key_id))


@route(router, "POST", KEY, under=V1, summary="Change an API key's settings")
async def update_key(
    http: Request, _: Admin, store: Stored, key_id: str, body: wire.KeyBody
) -> wire.KeyObject:
    changed = await store.keys.update(key_id, lambda key: wire.changed(key, body))
    _forget(http)
    return wire.key(changed)


@route(router, "POST", KEY + "/rotate", under=V1, summary="Replace an API key's secret")
async def rotate_key(http: Request, _: Admin, store: Stored, key_id: str) -> wire.NewKeyObject:
    rotated = await store.keys.rotate(key_id)
    _forget(http)
    return wire.new_key(*rotated)


@route(router, "DELETE", KEY, under=V1, summary="Revoke an API key, for good")
async def revoke_key(http: Request, _: Admin, store: Stored, key_id: str) -> wire.KeyObject:
    revoked = await store.keys.revoke(key_id)
    _forget(http)
    return wire.key(revoked)


def _forget(http: Request) -> None:
    """Let the change count at once, in this process; in others it does within seconds."""
    http.app.state.stored_keys.forget()


@route(
    router, "GET", "/usage", under=V1, extra={"parameters": USAGE_PARAMETERS},
    summary="Requests, tokens and costs of each key, model and day",
)  # fmt: skip
async def get_usage(http: Request, response: Response, caller: Caller, store: Stored) -> wire.UsagePage:
    span = wire.usage_span(query_of(http, response, wire.USAGE_PARAMETERS))
    key = span.key if caller.is_admin else caller.id
    if span.key not in (None, key):
        problem = "the usage of other keys is for administrators"
        raise Forbidden(problem, param="api_key_id", code="admin_key_required")
    meter: UsageMeter | None = http.app.state.usage
    if meter is not None:
        await meter.flush()
    page = await store.usage.page(since=span.since, until=span.until, key=key)
    return wire.usage_page(page, names(http.app.state.config.server))


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
    replicas = [
        _replica(backend.name, stats)
        for backend in _replicated(http).values()
        for stats in backend.replicas()
    ]
    return list_object(replicas, has_more=False)


@route(router, "POST", "/admin/replicas/drain", under=V1, summary="Send a replica no new requests")
async def drain_replica(http: Request, _: Admin, body: ReplicaChange) -> ReplicaObject:
    """Send the replica no new requests. Those that it works on go on; `active` counts them."""
    return _change_drain(http, body, is_drained=True)


@route(router, "POST", "/admin/replicas/resume", under=V1, summary="Send a drained replica requests again")
async def resume_replica(http: Request, _: Admin, body: ReplicaChange) -> ReplicaObject:
    return _change_drain(http, body, is_drained=False)


def _change_drain(http: Request, body: ReplicaChange, *, is_drained: bool) -> ReplicaObject:
    backend = _replicated(http).get(body.provider)
    if backend is None:
        raise NotFound(f"no provider {body.provider[:100]!r} has replicas here", param="provider")
    if not backend.drain(body.replica, is_drained=is_drained):
        known = ", ".join(stats.name for stats in backend.replicas())
        raise NotFound(
            f"{backend.name} has no replica {body.replica[:100]!r}; it has {known}", param="replica"
        )
    return next(_replica(backend.name, one) for one in backend.replicas() if one.name == body.replica)


def _replicated(http: Request) -> dict[str, Replicated]:
    gateway: Gateway = http.app.state.gateway
    return {backend.name: backend for backend in gateway.backends if isinstance(backend, Replicated)}


def _replica(provider: str, stats: ReplicaStats) -> ReplicaObject:
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


class RunningRequest(TypedDict):
    id: Annotated[str, Field(description="The header X-Request-ID of its response, also in the log.")]
    object: Literal["request"]
    work: Annotated[str, Field(description="generate, embed, or the endpoint of a relayed request.")]
    model: str
    provider: str | None
    api_key_id: str | None
    api_key_name: str | None
    status: Annotated[
        Literal["waiting", "answering"], Field(description="Whether it has sent something of its answer.")
    ]
    seconds: Annotated[float, Field(description="Since it arrived.")]


class StoppedRequest(TypedDict):
    id: str
    object: Literal["request.stopped"]
    stopped: Literal[True]


class LogLine(TypedDict):
    id: Annotated[str, Field(description="A number that grows with each line, from the server's start.")]
    object: Literal["log.line"]
    time: Annotated[str, Field(description="UTC, as in RFC 3339.")]
    level: str
    logger: str
    request_id: str
    message: str


@route(router, "GET", "/admin/logs", under=V1, summary="List the last lines of the log, oldest first")
async def list_logs(_: Admin, after: str = "0") -> ListObject[LogLine]:
    """At most 500. `after`: the id of a line that is known."""
    number = whole(after, 18)
    if number is None:
        raise BadRequest.at("after", "the id of a line is a number")
    return list_object([_log_line(line) for line in logs.RECENT.after(number)], has_more=False)


def _log_line(line: logs.Line) -> LogLine:
    return {
        "id": str(line.id),
        "object": "log.line",
        "time": datetime.fromtimestamp(line.time, UTC).isoformat(timespec="milliseconds"),
        "level": line.level,
        "logger": line.logger,
        "request_id": line.request_id,
        "message": line.message,
    }


@route(router, "GET", "/admin/requests", under=V1, summary="List the requests that run, oldest first")
async def list_requests(http: Request, _: Admin) -> ListObject[RunningRequest]:
    gateway: Gateway = http.app.state.gateway
    running = gateway.active.requests.values()
    return list_object(
        [entry for one in running if (entry := _running_request(one)) is not None], has_more=False
    )


@route(router, "DELETE", "/admin/requests/{request_id}", under=V1, summary="Stop a request")
async def stop_request(http: Request, _: Admin, request_id: str) -> StoppedRequest:
    """End a running request. Its caller gets the error `request_stopped`, 503."""
    gateway: Gateway = http.app.state.gateway
    if not gateway.active.stop(request_id):
        raise NotFound(f"No request with id '{request_id[:100]}' runs.", param="request_id")
    return {"id": request_id, "object": "request.stopped", "stopped": True}


def _running_request(running: Running) -> RunningRequest | None:
    tally = running.tally
    if tally is None:
        return None
    return {
        "id": running.id,
        "object": "request",
        "work": tally.work,
        "model": tally.served or tally.model,
        "provider": tally.provider,
        "api_key_id": tally.owner,
        "api_key_name": tally.owner_name or None,
        "status": "waiting" if tally.began is None else "answering",
        "seconds": round(perf_counter() - tally.arrived, 3),
    }
