"""POST /v1/completions."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from headrace.api.body import json_body, prepared
from headrace.api.dependencies import Caller, destination
from headrace.api.errors import RESPONSES
from headrace.api.generations import Reply, respond, uses_in
from headrace.api.routes import route
from headrace.wire import completions as wire
from headrace.wire.tables import COMPLETIONS

router = APIRouter(tags=["completions"])

STREAMED = {
    "description": "With `stream: true`: `data: {text_completion}` events, then `data: [DONE]`.",
    "content": {"text/event-stream": {"schema": {"$ref": "#/components/schemas/Completion"}}},
}


@route(
    router,
    "POST",
    "/completions",
    summary="Complete texts",
    response_model=wire.Completion,
    responses={200: STREAMED, **RESPONSES},
    body=wire.CompletionBody,
)
async def create_completion(
    http: Request,
    caller: Caller,
    body: Annotated[wire.CompletionBody, Depends(json_body(wire.CompletionBody))],
) -> Response:
    uses = await uses_in(http, body, COMPLETIONS)
    request = replace(await prepared(http, partial(wire.to_request, body)), owner=caller.id)
    gateway, provider = destination(http)
    encoder = partial(wire.Chunks, body) if body.stream else None
    reply = Reply(encoder, partial(wire.completion, body))
    return await respond(http, gateway.start(request, provider, uses=uses), reply, {})
