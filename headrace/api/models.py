"""GET /v1/models, GET and DELETE /v1/models/{id}, and /v1/models/{id}/route. What is read is answered in
Anthropic's shape where the request has the header `anthropic-version`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response

from headrace import logs
from headrace.api.auth import Caller
from headrace.api.errors import RESPONSES, is_anthropic
from headrace.api.json_response import JSONResponse
from headrace.api.provider import provider_of
from headrace.api.routes import route
from headrace.errors import Forbidden
from headrace.gateway.gateway import Gateway
from headrace.wire import models as wire
from headrace.wire.anthropic import models as anthropics

router = APIRouter(tags=["models"])


@route(
    router,
    "GET",
    "/models",
    summary="Every model that is served",
    response_model=wire.ModelList,
    responses=RESPONSES,
)
async def list_models(http: Request, _: Caller) -> dict[str, Any] | Response:
    gateway: Gateway = http.app.state.gateway
    infos = gateway.models(provider_of(http))
    if is_anthropic(http.scope):
        return _told(anthropics.page(infos, http.query_params.multi_items()))
    return wire.model_list(infos)


# before the next: an id may have slashes
@route(
    router,
    "GET",
    "/models/{model_id:path}/route",
    summary="Where a request for a model would go now; nobody is asked",
    response_model=wire.RouteObject,
    responses=RESPONSES,
)
async def explain_route(http: Request, _: Caller, model_id: str) -> dict[str, Any]:
    gateway: Gateway = http.app.state.gateway
    return wire.route(asdict(gateway.explain(model_id, provider_of(http))))


@route(
    router,
    "GET",
    "/models/{model_id:path}",
    summary="One model",
    response_model=wire.ModelObject,
    responses=RESPONSES,
)
async def retrieve_model(http: Request, _: Caller, model_id: str) -> dict[str, Any] | Response:
    gateway: Gateway = http.app.state.gateway
    info = gateway.model(model_id, provider_of(http))
    return _told(anthropics.model(info)) if is_anthropic(http.scope) else wire.model(info)


@route(
    router,
    "DELETE",
    "/models/{model_id:path}",
    summary="Refused: `headrace rm` removes local models",
    response_model=wire.ModelObject,
    responses=RESPONSES,
)
async def delete_model(http: Request, _: Caller, model_id: str) -> Response:
    """Raises ModelNotFound, Forbidden."""
    gateway: Gateway = http.app.state.gateway
    gateway.model(model_id, provider_of(http))
    raise Forbidden(
        f"The model '{model_id[:200]}' cannot be deleted over the API: `headrace rm` removes local models.",
        param="model",
    )


def _told(body: dict[str, Any]) -> Response:
    return JSONResponse(body, headers={"request-id": logs.request_id()})
