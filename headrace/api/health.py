"""Liveness and readiness. They never run a model, and need no key."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from typing_extensions import TypedDict

from headrace.api.json_response import JSONResponse
from headrace.api.openapi import responses_of
from headrace.api.routes import ROOT, route

router = APIRouter(tags=["health"])


class Health(TypedDict):
    status: Literal["ok", "failed", "draining"]


FAILED = responses_of(Health, {503: "An engine has died: restart the server."})
NOT_READY = responses_of(Health, {503: "An engine has died, or the server is shutting down."})


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
    return _response({"status": "draining"}) if http.app.state.gateway.is_draining else await health(http)


def _response(health: Health) -> Response:
    return JSONResponse(health, status_code=200 if health["status"] == "ok" else 503)
