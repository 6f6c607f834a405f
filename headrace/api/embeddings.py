"""POST /v1/embeddings."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from headrace.api.auth import Caller
from headrace.api.body import json_body
from headrace.api.disconnect import connected
from headrace.api.errors import RESPONSES
from headrace.api.generations import judge_of
from headrace.api.provider import gateway_of, provider_of, went_to
from headrace.api.routes import route
from headrace.wire import embeddings as wire
from headrace.wire.parameters import EMBEDDINGS, with_named

router = APIRouter(tags=["embeddings"])

MANY_VALUES = 20_000  # above this, writing them goes to a thread and lets the event loop breathe


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
    judge = judge_of(http, body, EMBEDDINGS)
    request = replace(wire.to_request(body), owner=caller.id)
    async with connected(http.receive):
        reached = await gateway_of(http).embed(request, provider_of(http), judge=judge)
    told, embeddings = body.model_copy(update={"model": reached.info.id}), reached.value
    if embeddings.vectors.size > MANY_VALUES:
        content = await asyncio.to_thread(wire.answer, told, embeddings)
    else:
        content = wire.answer(told, embeddings)
    headers = with_named(went_to(reached.provider, reached.attempts), reached.ignored)
    return Response(content, media_type="application/json", headers=headers)
