"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from headrace.api.auth import Caller
from headrace.api.errors import RESPONSES
from headrace.wire import models as wire

router = APIRouter(tags=["models"])


@router.get(
    "/v1/models", summary="Every model that is served", response_model=wire.ModelList, responses=RESPONSES
)
async def list_models(http: Request, _: Caller) -> dict[str, Any]:
    return wire.model_list(http.app.state.gateway.models())


@router.get(
    "/v1/models/{model_id:path}", summary="One model", response_model=wire.ModelObject, responses=RESPONSES
)
async def retrieve_model(http: Request, _: Caller, model_id: str) -> dict[str, Any]:
    return wire.model(http.app.state.gateway.model(model_id))
