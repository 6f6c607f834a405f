"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from headrace.api.answers import Reply, respond
from headrace.api.errors import RESPONSES
from headrace.api.openapi import EVENT_STREAM, response_of
from headrace.api.request import Caller, destination, is_strict, prepared, steered
from headrace.api.routes import route
from headrace.errors import BadRequest, ServerError
from headrace.gateway.generation import Generation
from headrace.turns.chat import ChatTurn
from headrace.wire import chat as wire
from headrace.wire.parameters import uses_of, with_named
from headrace.wire.tables import CHAT
from headrace.wire.tools import FUNCTIONS_USE, in_callers_terms

router = APIRouter(tags=["chat"], responses=RESPONSES)

STREAMED = response_of(
    wire.ChatCompletionChunk,
    "With `stream: true`: `data: {chat.completion.chunk}` events, then `data: [DONE]`.",
    EVENT_STREAM,
)


@route(
    router, "POST", "/chat/completions", summary="Answer a conversation", answer=wire.ChatCompletion,
    responses={200: STREAMED},
)  # fmt: skip
async def create_chat_completion(
    http: Request,
    caller: Caller,
    body: wire.ChatBody,
    header: Annotated[
        str | None, Header(alias=wire.HEADER, description="The conversation to continue, or `new`.")
    ] = None,
) -> Response:
    body = await steered(http, caller, body, has_choices=True)
    more = (FUNCTIONS_USE,) if body.functions else ()
    is_steered = body._steered is not None
    if is_steered:
        more = (*body.steered.uses, *more)
    uses = await prepared(http, partial(uses_of, body, CHAT, strict=is_strict(http), more=more))
    request = replace(await prepared(http, partial(wire.to_request, body)), owner=caller.id)
    gateway, provider = destination(http)
    headers = {} if body.store or body.metadata is None else with_named({}, ["metadata"])
    is_named = header is not None or body.conversation is not None or body.conversation_id is not None
    conversation = wire.conversation_of(body, header) if is_named else None
    try:
        if conversation is not None or body.store:
            turn = ChatTurn(
                http.app.state.store, caller.id, body, conversation_id=conversation,
                context_messages=http.app.state.config.conversations.context_messages,
            )  # fmt: skip
            starting = turn.start(gateway, request, provider, uses=uses)
            return await _respond_and_store(http, starting, turn, headers, is_steered=is_steered)
        encoder = partial(wire.Chunks, body) if body.stream else None
        reply = Reply(encoder, partial(wire.completion, body), is_steered=is_steered)
        return await respond(http, gateway.start(request, provider, uses=uses), reply, headers)
    except BadRequest as exc:
        raise in_callers_terms(body, exc) from exc


async def _respond_and_store(
    http: Request,
    starting: Awaitable[Generation],
    turn: ChatTurn,
    headers: Mapping[str, str],
    *,
    is_steered: bool,
) -> Response:
    """The answer, or its error, with headers that say what of it is stored."""
    encoder = turn.chunks if turn.is_streamed else None
    reply = Reply(encoder, turn.completion, remark=turn.remark, is_steered=is_steered)
    try:
        response = await respond(http, starting, reply, headers)
    except ServerError as exc:
        exc.headers = {**exc.headers, **turn.headers}
        raise
    response.headers.update(turn.headers)
    return response
