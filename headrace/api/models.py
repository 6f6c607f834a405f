"""GET /v1/models, GET and DELETE /v1/models/{id}, and GET /v1/models/{id}/route. Requests with the header
`anthropic-version` get lists and models in Anthropic's shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from headrace import logs
from headrace.api.authentication import administrator
from headrace.api.errors import RESPONSES, is_anthropic
from headrace.api.json_response import JSONResponse
from headrace.api.libraries import steering_of
from headrace.api.pool import delete, status
from headrace.api.request import Caller, destination
from headrace.api.routes import route
from headrace.errors import Forbidden
from headrace.gateway.routing import Candidate, check_model, full_name
from headrace.pool import Pool
from headrace.turns.presets import Presets
from headrace.wire import models as wire
from headrace.wire.anthropic import answer as anthropics
from headrace.wire.models import DeletedModel

router = APIRouter(tags=["models"], responses=RESPONSES)


@route(router, "GET", "/models", summary="List models")
async def list_models(
    http: Request,
    caller: Caller,
    detail: Annotated[
        bool, Query(description="With the state of each model that runs here, those not pulled included.")
    ] = False,
) -> wire.ModelList | Response:
    gateway, provider = destination(http)
    infos = [info for info in gateway.router.models(provider) if caller.may_use(full_name(info.id, provider))]
    infos += [
        info
        for info in steering_of(http).models(provider)
        if caller.may_use(full_name(info.id.rpartition("@")[0], provider))
    ]
    if is_anthropic(http.scope):
        return _response(anthropics.page(infos, http.query_params.multi_items()))
    pool: Pool | None = http.app.state.pool
    if not detail or pool is None or provider not in (None, pool.name):
        return wire.model_list(infos)
    usable = [entry for entry in pool.entries.values() if caller.may_use(entry.id)]
    return wire.detailed(infos, [status(entry, pool.now()) for entry in usable])


# registered before the next route, whose id may contain slashes
@route(
    router, "GET", "/models/{model_id:path}/route",
    summary="List the targets of a model's requests, without sending one",
)  # fmt: skip
async def explain_route(http: Request, caller: Caller, model_id: str) -> wire.RouteObject:
    gateway, provider = destination(http)
    check_model(caller, model_id, provider)
    explained = gateway.router.explain(model_id, provider)
    return {
        "object": "route",
        "model": explained.model,
        "route": explained.route,
        "candidates": [_candidate(candidate) for candidate in explained.candidates],
        "fallback_on": list(explained.fallback_on),
        "retries": explained.retries,
        "hedge_after_ms": explained.hedge_after_ms,
    }


def _candidate(candidate: Candidate) -> wire.CandidateObject:
    return {
        "provider": candidate.provider,
        "model": candidate.model,
        "weight": candidate.weight,
        "is_served": candidate.is_served,
        "breaker": candidate.breaker,
        "retry_after_s": candidate.retry_after_s,
    }


@route(router, "GET", "/models/{model_id:path}", summary="Retrieve a model")
async def retrieve_model(http: Request, caller: Caller, model_id: str) -> wire.ModelObject | Response:
    gateway, provider = destination(http)
    persona = steering_of(http).model(model_id, provider)
    check_model(caller, model_id if persona is None else model_id.rpartition("@")[0], provider)
    info = persona or gateway.router.model(model_id, provider)
    return _response(anthropics.model(info)) if is_anthropic(http.scope) else wire.model(info)


@route(
    router, "DELETE", "/models/{model_id:path}",
    summary="Delete a model's files, where models are loaded and unloaded while the server runs",
    answer=DeletedModel,
)  # fmt: skip
async def delete_model(http: Request, _: Caller, model_id: str) -> Response:
    """Delete a model from the cache. Raises ModelNotFound; Forbidden for a model that is not in the cache,
    and for a caller who may not delete.
    """
    gateway, provider = destination(http)
    gateway.router.model(model_id, provider)
    presets: Presets = http.app.state.presets
    if provider is None and model_id in presets.all:
        await administrator(http)
        await presets.delete(model_id)
        deleted: DeletedModel = {"id": model_id, "object": "model", "deleted": True}
        return JSONResponse(deleted)
    pool: Pool | None = http.app.state.pool
    if pool is not None and pool.find(model_id) is not None and provider in (None, pool.name):
        await administrator(http)
        return await delete(http.app.state.pulls, model_id)
    raise Forbidden(
        f"The model '{model_id[:200]}' cannot be deleted over the API: `headrace rm` removes local models.",
        param="model",
    )


def _response(body: Mapping[str, Any]) -> Response:
    return JSONResponse(body, headers={"request-id": logs.REQUEST_ID.get()})
