"""POST /v1/embeddings, and POST /rerank, which clients of Jina's and Cohere's APIs look for elsewhere."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from headrace.api.answers import target_headers
from headrace.api.errors import RESPONSES
from headrace.api.request import SIZE, Caller, check_unsteered, destination, is_strict, prepared
from headrace.api.routes import V1_AND_PROVIDERS, route
from headrace.gateway.generation import TargetResult
from headrace.gateway.lifetime import Until
from headrace.offload import aside
from headrace.wire import embeddings as ranking
from headrace.wire import embeddings as wire
from headrace.wire.parameters import uses_of, with_named
from headrace.wire.tables import EMBEDDINGS, RERANK

router = APIRouter(responses=RESPONSES)

BYTES_PER_VALUE = 4  # the size of a vector's value, which `aside` takes as a measure of work
METHOD = "X-Headrace-Rerank"  # response header: how the documents were scored


@route(router, "POST", "/embeddings", answer=wire.EmbeddingList, summary="Embed texts", tags=["embeddings"])
async def create_embeddings(http: Request, caller: Caller, body: wire.EmbeddingsBody) -> Response:
    check_unsteered(http, body)
    uses = await prepared(http, partial(uses_of, body, EMBEDDINGS, strict=is_strict(http)))
    request = replace(await prepared(http, partial(wire.to_request, body)), owner=caller.id)
    gateway, provider = destination(http)
    async with Until(receive=http.receive):
        result = await gateway.embed(request, provider, uses=uses)
        answered_body, embeddings = body.model_copy(update={"model": result.info.id}), result.value
        size = embeddings.vectors.size * BYTES_PER_VALUE
        content = await aside(size, partial(wire.answer, answered_body, embeddings))
    return Response(content, media_type="application/json", headers=_headers(result))


@route(
    router, "POST", "/rerank", under=(*V1_AND_PROVIDERS, "", "/v2"), answer=ranking.RerankList,
    tags=["rerank"], summary="Order documents by how well they answer a query",
)  # fmt: skip
async def rerank(http: Request, caller: Caller, body: ranking.RerankBody) -> Response:
    check_unsteered(http, body)
    uses = await prepared(http, partial(uses_of, body, RERANK, strict=is_strict(http)))
    request = replace(await prepared(http, partial(ranking.to_rerank_request, body)), owner=caller.id)
    gateway, provider = destination(http)
    async with Until(receive=http.receive):
        result = await gateway.rerank(request, provider, uses=uses)
        write = partial(ranking.rerank_answer, body, result.info.id, result.value)
        content = await aside(http.scope[SIZE], write)
    headers = {**_headers(result), METHOD: result.value.method}
    return Response(content, media_type="application/json", headers=headers)


def _headers(result: TargetResult[Any]) -> dict[str, str]:
    return with_named(target_headers(result.provider, result.attempts), result.ignored)
