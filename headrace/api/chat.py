"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from starlette.responses import Response

from headrace.api.auth import Caller
from headrace.api.body import json_body, prepared
from headrace.api.errors import RESPONSES
from headrace.api.generations import Reply, respond, uses_in, without_wishes
from headrace.api.openapi import stream_of
from headrace.api.provider import gateway_of, provider_of
from headrace.api.routes import route
from headrace.errors import BadRequest, ServerError
from headrace.gateway.generation import Generation
from headrace.turns.chat import ChatTurn
from headrace.wire import chat as wire
from headrace.wire.conversation_id import HEADER, conversation_named
from headrace.wire.parameters import CHAT, with_named
from headrace.wire.stored_completions import unread
from headrace.wire.tools import as_asked, uses_of_functions

router = APIRouter(tags=["chat"])

STREAMED = stream_of(
    wire.ChatCompletionChunk,
    "With `stream: true`: `data: {chat.completion.chunk}` events, then `data: [DONE]`.",
)


@route(
    router,
    "POST",
    "/chat/completions",
    summary="Answer a conversation",
    response_model=wire.ChatCompletion,
    responses={200: STREAMED, **RESPONSES},
    body=wire.ChatBody,
)
async def create_chat_completion(
    http: Request,
    caller: Caller,
    body: Annotated[wire.ChatBody, Depends(json_body(wire.ChatBody))],
    named: Annotated[
        str | None, Header(alias=HEADER, description="The conversation that this goes on with, or `new`.")
    ] = None,
) -> Response:
    uses = await uses_in(http, body, CHAT, uses_of_functions(body))
    request = replace(await prepared(http, partial(wire.to_request, body)), owner=caller.id)
    gateway, provider = gateway_of(http), provider_of(http)
    request = without_wishes(http, request)
    headers, turn = with_named({}, unread(body)), _turn(http, caller.id, body, named)
    try:
        if turn is not None:
            starting = turn.start(gateway, request, provider, uses=uses)
            return await _respond_and_keep(http, starting, turn, headers)
        encoder, whole = partial(wire.Chunks, body), partial(wire.completion, body)
        reply = Reply(encoder if body.stream else None, whole)
        return await respond(http, gateway.start(request, provider, uses=uses), reply, headers)
    except BadRequest as exc:
        raise as_asked(body, exc) from exc


def _turn(http: Request, owner: str, body: wire.ChatBody, header: str | None) -> ChatTurn | None:
    """None: nothing is kept. Raises BadRequest."""
    named = conversation_named(body, header)
    if named is None and not body.store:
        return None
    limit = http.app.state.config.conversations.context_messages
    return ChatTurn(http.app.state.store, owner, body, conversation_id=named, context_messages=limit)


async def _respond_and_keep(
    http: Request, starting: Awaitable[Generation], turn: ChatTurn, headers: Mapping[str, str]
) -> Response:
    """The answer, with headers that say what is kept of it, those of an error too."""
    reply = Reply(turn.chunks if turn.is_streamed else None, turn.completion, remark=turn.remark)
    try:
        response = await respond(http, starting, reply, headers)
    except ServerError as exc:
        exc.headers = {**exc.headers, **turn.headers}
        raise
    response.headers.update(turn.headers)
    return response
