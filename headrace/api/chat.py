"""POST /v1/chat/completions."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from headrace.api.auth import Caller
from headrace.api.body import documented, json_body
from headrace.api.errors import RESPONSES
from headrace.api.generations import judge_of, respond
from headrace.errors import BadRequest
from headrace.wire import chat as wire
from headrace.wire.parameters import CHAT
from headrace.wire.tools import as_asked

router = APIRouter(tags=["chat"])

STREAMED = {
    "description": "With `stream: true`: `data: {chat.completion.chunk}` events, then `data: [DONE]`.",
    "content": {"text/event-stream": {"schema": {"$ref": "#/components/schemas/ChatCompletionChunk"}}},
}


@router.post("/{provider}/v1/chat/completions", include_in_schema=False)
@router.post(
    "/v1/chat/completions",
    summary="Answer a conversation",
    response_model=wire.ChatCompletion,
    responses={200: STREAMED, **RESPONSES},
    openapi_extra=documented(wire.ChatBody),
)
async def create_chat_completion(
    http: Request, _: Caller, body: Annotated[wire.ChatBody, Depends(json_body(wire.ChatBody))]
) -> Response:
    judge = judge_of(http, body, CHAT)
    encoder = partial(wire.Chunks, body) if body.stream else None
    whole = partial(wire.completion, body)
    try:
        return await respond(http, wire.to_request(body), {}, encoder=encoder, whole=whole, judge=judge)
    except BadRequest as exc:
        raise as_asked(body, exc) from exc
