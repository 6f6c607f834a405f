"""Models while the server runs: pull, load, unload, lock and lease under /v1/models, and their events.

Changes need an administrator's key, or, on a server without keys, a caller on this machine.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from headrace.api.answers import LiveStream
from headrace.api.authentication import Admin
from headrace.api.errors import RESPONSES as ERRORS
from headrace.api.json_response import JSONResponse
from headrace.api.openapi import EVENT_STREAM, response_of
from headrace.api.request import Caller
from headrace.api.routes import V1, route
from headrace.errors import Forbidden, ModelNotFound, ModelUnavailable
from headrace.gateway.lifetime import Until
from headrace.gateway.routing import check_model
from headrace.pool import Entry, Pool
from headrace.pool.entry import Hold
from headrace.pool.pulls import SCHEMES, Pulls
from headrace.wire import models as wire
from headrace.wire.generation import dump

RESPONSES = {**ERRORS, 409: {"description": "It is locked (`model_locked`) or leased (`model_leased`)."}}
router = APIRouter(tags=["models"], responses=RESPONSES)
WATCHED_S = 1.0  # how often a stream of events looks whether the server shuts down


async def the_pool(http: Request) -> Pool:
    """The server's pool. Raises Forbidden if its models are fixed."""
    pool: Pool | None = http.app.state.pool
    if pool is None:
        raise Forbidden("this server has no models of its own to load", param="model")
    return pool


async def the_pulls(http: Request) -> Pulls:
    """The part of the server that pulls models. Raises Forbidden if the server's models are fixed."""
    await the_pool(http)
    pulls: Pulls = http.app.state.pulls
    return pulls


OwnPool = Annotated[Pool, Depends(the_pool)]
OwnPulls = Annotated[Pulls, Depends(the_pulls)]


def status(entry: Entry, now: float) -> wire.ModelStatus:
    """`now`: the time on the pool's clock."""
    hold = entry.hold if entry.hold is not None and not entry.hold.is_over(now) else None
    left_s = entry.expires_at - now if entry.state == "loaded" else math.inf
    progress = entry.progress
    return {
        "id": entry.id,
        "object": "model.status",
        "reference": _public(entry.reference),
        "state": entry.state,
        "memory_bytes": None if entry.known is None else entry.memory_bytes,
        "running": entry.num_users,
        "waiting": entry.num_waiting,
        "pinned": entry.is_pinned,
        "hold": None if hold is None else _hold(hold, now),
        "expires_in_s": None if math.isinf(left_s) else round(max(0.0, left_s), 1),
        "load_s": None if entry.load_s is None else round(entry.load_s, 3),
        "progress": None
        if entry.state != "downloading"
        else {"label": progress.label, "done": progress.done, "total": progress.total},
        "error": entry.error,
        "retry_after_s": round(max(0.0, entry.retry_at - now), 1) if entry.state == "failed" else None,
    }


def _public(reference: str) -> str:
    """A reference without the folders of this machine."""
    is_remote = reference.startswith(SCHEMES) or "/" not in reference
    return reference if is_remote else Path(reference).name


def _hold(hold: Hold, now: float) -> wire.HoldObject:
    left_s = None if hold.until is None else round(hold.until - now, 1)
    return {"holder": hold.holder, "reason": hold.reason, "expires_in_s": left_s}


@route(router, "POST", "/models/pull", under=V1, summary="Fetch a model")
async def pull(
    http: Request, _: Admin, pulls: OwnPulls, pool: OwnPool, body: wire.PullModelBody
) -> wire.ModelStatus:
    entry = pulls.start(body.model)
    if body.wait:
        async with Until(receive=http.receive):
            await pulls.finished(entry)
        if entry.state == "failed":
            raise ModelUnavailable(f"{entry.id} cannot be pulled: {entry.error}")
    return status(entry, pool.now())


@route(router, "POST", "/models/load", under=V1, summary="Load a model")
async def load(http: Request, _: Admin, pool: OwnPool, body: wire.LoadBody) -> wire.ModelStatus:
    if body.keep_alive_s is not None:
        pool.keep(body.model, body.keep_alive_s)
    async with Until(receive=http.receive):
        entry = await pool.load(body.model)
    return status(entry, pool.now())


@route(router, "POST", "/models/unload", under=V1, summary="Unload a model")
async def unload(http: Request, _: Admin, pool: OwnPool, body: wire.UnloadBody) -> wire.ModelStatus:
    async with Until(receive=http.receive):
        entry = await pool.unload(body.model, body.holder)
    return status(entry, pool.now())


@route(router, "POST", "/models/lock", under=V1, summary="Keep a model until it is released")
async def lock(_: Admin, pool: OwnPool, body: wire.LockBody) -> wire.ModelStatus:
    return status(pool.hold(body.model, Hold(body.holder, body.reason or "")), pool.now())


@route(router, "POST", "/models/lease", under=V1, summary="Keep a model for some time")
async def lease(_: Admin, pool: OwnPool, body: wire.LeaseBody) -> wire.ModelStatus:
    hold = Hold(body.holder, body.reason or "", pool.now() + body.ttl)
    return status(pool.hold(body.model, hold), pool.now())


@route(router, "POST", "/models/release", under=V1, summary="End a lock or a lease")
async def release(_: Admin, pool: OwnPool, body: wire.ReleaseBody) -> wire.ModelStatus:
    return status(pool.release(body.model, body.holder), pool.now())


@route(
    router, "GET", "/models/{model_id:path}/events", under=V1, summary="Follow the states of a model",
    answer=wire.ModelStatus,
    responses={200: response_of(wire.ModelStatus, "`data: {model.status}` events.", EVENT_STREAM)},
)  # fmt: skip
async def events(http: Request, caller: Caller, pool: OwnPool, model_id: str) -> Response:
    check_model(caller, model_id, None)
    if model_id not in pool.entries:
        raise ModelNotFound(f"the model {model_id[:200]!r} is not known here", param="model")
    return LiveStream(_followed(http, pool, model_id), {})


async def _followed(http: Request, pool: Pool, id: str) -> AsyncIterator[list[str]]:
    """The model's status now, and whenever it changes, until the model is deleted or the server stops."""
    last: wire.ModelStatus | None = None
    while (entry := pool.entries.get(id)) is not None and not http.app.state.gateway.is_draining:
        seen = pool.changes.count
        now = status(entry, pool.now())
        if last is None or _is_other(last, now):
            last = now
            yield [dump(now)]
        if seen == pool.changes.count:
            await pool.changes.next(WATCHED_S)


def _is_other(before: wire.ModelStatus, after: wire.ModelStatus) -> bool:
    """Whether more than the time has changed."""
    passing = {"expires_in_s", "retry_after_s", "hold"}
    return any(before[name] != after[name] for name in before.keys() - passing) or (  # type: ignore[literal-required]
        (before["hold"] is None) != (after["hold"] is None)
    )


async def delete(pulls: Pulls, id: str) -> Response:
    """Delete a model's files. The route is in models.py, beside the other ones of a model."""
    await pulls.delete(id)
    deleted: wire.DeletedModel = {"id": id, "object": "model", "deleted": True}
    return JSONResponse(deleted)
