"""POST /v1/embeddings."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from headrace.api.answers import target_headers
from headrace.api.errors import RESPONSES
from headrace.api.request import Caller, check_unsteered, destination, is_strict, prepared
from headrace.api.routes import route
from headrace.gateway.lifetime import Until
from headrace.offload import aside
from headrace.wire import embeddings as wire
from headrace.wire.parameters import uses_of, with_named
from headrace.wire.tables import EMBEDDINGS

router = APIRouter(tags=["embeddings"], responses=RESPONSES)

BYTES_PER_VALUE = 4  # the size of a vector's value, which `aside` takes as a measure of work


@route(router, "POST", "/embeddings", answer=wire.EmbeddingList, summary="Embed texts")
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
    headers = with_named(target_headers(result.provider, result.attempts), result.ignored)
    return Response(content, media_type="application/json", headers=headers)
