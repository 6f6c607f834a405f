"""GET /v1/models, GET and DELETE /v1/models/{id}, and GET /v1/models/{id}/route. Requests with the header
`anthropic-version` get lists and models in Anthropic's shape.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response

from headrace import logs
from headrace.api.dependencies import Caller, destination
from headrace.api.errors import RESPONSES, is_anthropic
from headrace.api.json_response import JSONResponse
from headrace.api.routes import route
from headrace.errors import Forbidden
from headrace.wire import models as wire
from headrace.wire.anthropic import models as anthropics

router = APIRouter(tags=["models"])


@route(
    router,
    "GET",
    "/models",
    summary="List models",
    response_model=wire.ModelList,
    responses=RESPONSES,
)
async def list_models(http: Request, _: Caller) -> dict[str, Any] | Response:
    gateway, provider = destination(http)
    infos = gateway.models(provider)
    if is_anthropic(http.scope):
        return _response(anthropics.page(infos, http.query_params.multi_items()))
    return wire.model_list(infos)


# registered before the next route, whose id may contain slashes
@route(
    router,
    "GET",
    "/models/{model_id:path}/route",
    summary="List the targets of a model's requests, without sending one",
    response_model=wire.RouteObject,
    responses=RESPONSES,
)
async def explain_route(http: Request, _: Caller, model_id: str) -> dict[str, Any]:
    gateway, provider = destination(http)
    return wire.route(asdict(gateway.explain(model_id, provider)))


@route(
    router,
    "GET",
    "/models/{model_id:path}",
    summary="Retrieve a model",
    response_model=wire.ModelObject,
    responses=RESPONSES,
)
async def retrieve_model(http: Request, _: Caller, model_id: str) -> dict[str, Any] | Response:
    gateway, provider = destination(http)
    info = gateway.model(model_id, provider)
    return _response(anthropics.model(info)) if is_anthropic(http.scope) else wire.model(info)


@route(
    router,
    "DELETE",
    "/models/{model_id:path}",
    summary="Refused: `headrace rm` removes local models",
    response_model=wire.ModelObject,
    responses=RESPONSES,
)
async def delete_model(http: Request, _: Caller, model_id: str) -> Response:
    """Refuse the deletion. Raises Forbidden, or ModelNotFound."""
    gateway, provider = destination(http)
    gateway.model(model_id, provider)
    raise Forbidden(
        f"The model '{model_id[:200]}' cannot be deleted over the API: `headrace rm` removes local models.",
        param="model",
    )


def _response(body: dict[str, Any]) -> Response:
    return JSONResponse(body, headers={"request-id": logs.request_id()})
