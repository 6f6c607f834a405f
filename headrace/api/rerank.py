"""POST /v1/rerank, and /rerank and /v2/rerank, where clients of Jina's and Cohere's APIs look for it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from headrace.api.answers import target_headers
from headrace.api.errors import RESPONSES
from headrace.api.request import SIZE, Caller, check_unsteered, destination, is_strict, prepared
from headrace.api.routes import V1_AND_PROVIDERS, route
from headrace.gateway.lifetime import Until
from headrace.offload import aside
from headrace.wire import rerank as wire
from headrace.wire.parameters import uses_of, with_named
from headrace.wire.tables import RERANK

router = APIRouter(tags=["rerank"], responses=RESPONSES)

METHOD = "X-Headrace-Rerank"  # response header: how the documents were scored


@route(
    router,
    "POST",
    "/rerank",
    answer=wire.RerankList,
    summary="Order documents by how well they answer a query",
    under=(*V1_AND_PROVIDERS, "", "/v2"),
)
async def rerank(http: Request, caller: Caller, body: wire.RerankBody) -> Response:
    check_unsteered(http, body)
    uses = await prepared(http, partial(uses_of, body, RERANK, strict=is_strict(http)))
    request = replace(await prepared(http, partial(wire.to_request, body)), owner=caller.id)
    gateway, provider = destination(http)
    async with Until(receive=http.receive):
        result = await gateway.rerank(request, provider, uses=uses)
        write = partial(wire.answer, body, result.info.id, result.value)
        content = await aside(http.scope[SIZE], write)
    headers = with_named(target_headers(result.provider, result.attempts), result.ignored)
    headers[METHOD] = result.value.method
    return Response(content, media_type="application/json", headers=headers)
