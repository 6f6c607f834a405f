"""GET /v1/models, /v1/models/{id} and /v1/models/{id}/route."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from headrace.api.auth import Caller
from headrace.api.errors import RESPONSES
from headrace.api.provider import provider_of
from headrace.gateway.gateway import Gateway
from headrace.wire import models as wire

router = APIRouter(tags=["models"])


@router.get("/{provider}/v1/models", response_model=wire.ModelList, include_in_schema=False)
@router.get(
    "/v1/models", summary="Every model that is served", response_model=wire.ModelList, responses=RESPONSES
)
async def list_models(http: Request, _: Caller) -> dict[str, Any]:
    gateway: Gateway = http.app.state.gateway
    return wire.model_list(gateway.models(provider_of(http)))


# before the next: an id may have slashes
@router.get(
    "/{provider}/v1/models/{model_id:path}/route", response_model=wire.RouteObject, include_in_schema=False
)
@router.get(
    "/v1/models/{model_id:path}/route",
    summary="Where a request for a model would go now; nobody is asked",
    response_model=wire.RouteObject,
    responses=RESPONSES,
)
async def explain_route(http: Request, _: Caller, model_id: str) -> dict[str, Any]:
    gateway: Gateway = http.app.state.gateway
    return wire.route(asdict(gateway.explain(model_id, provider_of(http))))


@router.get("/{provider}/v1/models/{model_id:path}", response_model=wire.ModelObject, include_in_schema=False)
@router.get(
    "/v1/models/{model_id:path}", summary="One model", response_model=wire.ModelObject, responses=RESPONSES
)
async def retrieve_model(http: Request, _: Caller, model_id: str) -> dict[str, Any]:
    gateway: Gateway = http.app.state.gateway
    return wire.model(gateway.model(model_id, provider_of(http)))
