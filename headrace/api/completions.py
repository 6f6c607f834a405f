"""POST /v1/completions."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from headrace.api.answers import Reply, respond
from headrace.api.errors import RESPONSES
from headrace.api.openapi import EVENT_STREAM, response_of
from headrace.api.request import Caller, destination, is_strict, prepared, steered
from headrace.api.routes import route
from headrace.wire import completions as wire
from headrace.wire.parameters import uses_of
from headrace.wire.tables import COMPLETIONS

router = APIRouter(tags=["completions"], responses=RESPONSES)

STREAMED = response_of(
    wire.Completion,
    "With `stream: true`: `data: {text_completion}` events, then `data: [DONE]`.",
    EVENT_STREAM,
)


@route(
    router, "POST", "/completions", summary="Complete texts", answer=wire.Completion,
    responses={200: STREAMED},
)  # fmt: skip
async def create_completion(http: Request, caller: Caller, body: wire.CompletionBody) -> Response:
    body = await steered(http, caller, body, has_choices=True)
    more = body.steered.uses
    uses = await prepared(http, partial(uses_of, body, COMPLETIONS, strict=is_strict(http), more=more))
    request = replace(await prepared(http, partial(wire.to_request, body)), owner=caller.id)
    gateway, provider = destination(http)
    encoder = partial(wire.Chunks, body) if body.stream else None
    reply = Reply(encoder, partial(wire.completion, body), is_steered=body._steered is not None)
    return await respond(http, gateway.start(request, provider, uses=uses), reply, {})
