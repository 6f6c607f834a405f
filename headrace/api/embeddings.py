"""POST /v1/embeddings."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from headrace.api.auth import Caller
from headrace.api.body import json_body, prepared
from headrace.api.disconnect import connected
from headrace.api.errors import RESPONSES
from headrace.api.generations import uses_in
from headrace.api.provider import gateway_of, provider_of, went_to
from headrace.api.routes import route
from headrace.offload import aside
from headrace.wire import embeddings as wire
from headrace.wire.parameters import EMBEDDINGS, with_named

router = APIRouter(tags=["embeddings"])

BYTES_A_VALUE = 4  # of work, for `aside`


@route(
    router,
    "POST",
    "/embeddings",
    summary="Embed texts",
    response_model=wire.EmbeddingList,
    responses=RESPONSES,
    body=wire.EmbeddingsBody,
)
async def create_embeddings(
    http: Request,
    caller: Caller,
    body: Annotated[wire.EmbeddingsBody, Depends(json_body(wire.EmbeddingsBody))],
) -> Response:
    uses = await uses_in(http, body, EMBEDDINGS)
    request = replace(await prepared(http, partial(wire.to_request, body)), owner=caller.id)
    async with connected(http.receive):
        reached = await gateway_of(http).embed(request, provider_of(http), uses=uses)
    told, embeddings = body.model_copy(update={"model": reached.info.id}), reached.value
    size = embeddings.vectors.size * BYTES_A_VALUE
    async with connected(http.receive):
        content = await aside(size, partial(wire.answer, told, embeddings))
    headers = with_named(went_to(reached.provider, reached.attempts), reached.ignored)
    return Response(content, media_type="application/json", headers=headers)
