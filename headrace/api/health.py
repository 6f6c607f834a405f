"""Liveness and readiness, which never run a model and need no key; and GET /metrics, for Prometheus."""

from __future__ import annotations

import asyncio
from typing import Literal, NotRequired

from fastapi import APIRouter, Request, Response
from typing_extensions import TypedDict

from headrace.api.authentication import administrator, authenticate
from headrace.api.json_response import JSONResponse
from headrace.api.openapi import Responses, responses_of
from headrace.api.routes import ROOT, route
from headrace.backend_types import Replicated
from headrace.gateway.gateway import Gateway
from headrace.metering.metrics import CONTENT_TYPE, Metrics

router = APIRouter(tags=["health"])


class Health(TypedDict):
    status: Literal["ok", "failed", "draining", "starting"]
    starting: NotRequired[list[str]]  # providers whose processes have never been ready


FAILED = responses_of(Health, {503: "An engine hangs, or has died and could not be loaded again."})
NOT_READY = responses_of(
    Health, {503: "An engine hangs or has died, or the server is starting or shutting down."}
)

TEXT: Responses = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The metrics"}
}


@router.head("/health", include_in_schema=False)
@router.head("/healthz", include_in_schema=False)
@router.head("/ping", include_in_schema=False)
@route(router, "GET", "/health", under=ROOT, answer=Health, summary="Liveness", responses=FAILED)
@route(router, "GET", "/healthz", under=ROOT, answer=Health, summary="Liveness", responses=FAILED)
@route(router, "GET", "/ping", under=ROOT, answer=Health, summary="Liveness", responses=FAILED)
async def health(http: Request) -> Response:
    return _response({"status": "ok" if http.app.state.gateway.is_alive else "failed"})


@router.head("/ready", include_in_schema=False)
@route(
    router, "GET", "/ready", under=ROOT, answer=Health, responses=NOT_READY,
    summary="Readiness: whether the server takes new requests",
)  # fmt: skip
async def ready(http: Request) -> Response:
    gateway: Gateway = http.app.state.gateway
    if gateway.is_draining:
        return _response({"status": "draining"})
    replicated = [backend for backend in gateway.backends if isinstance(backend, Replicated)]
    starting = [one.name for one in replicated if not any(stats.was_ready for stats in one.replicas())]
    return _response({"status": "starting", "starting": starting}) if starting else await health(http)


def _response(health: Health) -> Response:
    return JSONResponse(health, status_code=200 if health["status"] == "ok" else 503)


@router.get(
    "/metrics", summary="Metrics in Prometheus's text format", response_class=Response, responses=TEXT
)
async def metrics(http: Request) -> Response:
    """Write the metrics for Prometheus. Where there are administrators' keys the caller needs one of them,
    else any key if callers need keys at all.
    """
    await (administrator(http) if http.app.state.config.server.admin_keys else authenticate(http))
    collected: Metrics = http.app.state.metrics
    return Response(await asyncio.to_thread(collected.text), headers={"Content-Type": CONTENT_TYPE})
