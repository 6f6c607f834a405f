"""Liveness and readiness. They never run a model, and need no key."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: Literal["ok", "failed", "draining"]


FAILED: dict[int | str, dict[str, Any]] = {
    503: {"model": Health, "description": "An engine has died: restart the server."}
}
NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"model": Health, "description": "An engine has died, or the server is shutting down."}
}


@router.head("/health", include_in_schema=False)
@router.head("/healthz", include_in_schema=False)
@router.head("/ping", include_in_schema=False)
@router.get("/health", summary="Liveness", responses=FAILED)
@router.get("/healthz", summary="Liveness", responses=FAILED)
@router.get("/ping", summary="Liveness", responses=FAILED)
async def health(http: Request, response: Response) -> Health:
    if http.app.state.gateway.is_alive:
        return Health(status="ok")
    response.status_code = 503
    return Health(status="failed")


@router.head("/ready", include_in_schema=False)
@router.get("/ready", summary="Readiness: whether the server takes new requests", responses=NOT_READY)
async def ready(http: Request, response: Response) -> Health:
    if http.app.state.gateway.is_draining:
        response.status_code = 503
        return Health(status="draining")
    return await health(http, response)
