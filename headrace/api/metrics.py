"""GET /metrics, for Prometheus."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from headrace.api.admin import administrator
from headrace.api.authentication import authenticate
from headrace.api.openapi import Responses
from headrace.metering.metrics import CONTENT_TYPE, Metrics

router = APIRouter(tags=["health"])


TEXT: Responses = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The metrics"}
}


@router.get(
    "/metrics", summary="Metrics in Prometheus's text format", response_class=Response, responses=TEXT
)
async def metrics(http: Request) -> Response:
    """With administrators' keys, one of them is needed; else any key, if callers need one at all."""
    await (administrator(http) if http.app.state.config.server.admin_keys else authenticate(http))
    found: Metrics = http.app.state.metrics
    return Response(await asyncio.to_thread(found.text), headers={"Content-Type": CONTENT_TYPE})
