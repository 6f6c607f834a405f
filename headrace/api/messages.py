"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's dialect, over every backend."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from headrace import logs
from headrace.api.answers import Reply, StreamWriter, respond, without_wishes
from headrace.api.errors import to_messages_response
from headrace.api.json_response import JSONResponse
from headrace.api.openapi import EVENT_STREAM, response_of, responses_of
from headrace.api.request import Caller, base_model, destination, headers_of, is_strict, prepared, steered
from headrace.api.routes import route
from headrace.errors import ServerError, UnsupportedParameter
from headrace.types import Conversation
from headrace.wire.anthropic import answer, errors
from headrace.wire.anthropic import request as wire
from headrace.wire.anthropic.tables import uses_of_messages
from headrace.wire.parameters import with_named

log = logging.getLogger(__name__)

RESPONSES = responses_of(
    errors.MessagesErrorResponse,
    {
        400: "The request is at fault.",
        401: "No key, or a wrong one.",
        404: "No such model.",
        413: "The body is too large.",
        500: "The server failed.",
        503: "No place now: try again after `Retry-After` seconds.",
    },
)
STREAMED = response_of(
    str,
    "With `stream: true`: `message_start`, then for each block `content_block_start`, "
    "`content_block_delta`s and `content_block_stop`, then `message_delta` and `message_stop`.",
    EVENT_STREAM,
)


class MessagesRoute(APIRoute):
    """A route whose errors all have Anthropic's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_errors(request: Request) -> Response:
            try:
                response = await handle(request)
            except ServerError as exc:
                response = to_messages_response(exc)
            except Exception:
                log.exception("%s %s failed", request.method, request.url.path)
                response = to_messages_response(ServerError("the server had an error"))
            response.headers["request-id"] = logs.REQUEST_ID.get()
            return response

        return handle_errors


router = APIRouter(tags=["messages"], route_class=MessagesRoute)


@route(
    router,
    "POST",
    "/messages",
    summary="Answer a conversation, in Anthropic's dialect",
    answer=answer.AnsweredMessage,
    responses={200: STREAMED, **RESPONSES},
)
async def create_message(http: Request, caller: Caller, body: wire.MessagesBody) -> Response:
    body = await steered(http, caller, body)
    uses = await prepared(http, partial(uses_of_messages, body, strict=is_strict(http)))
    headers = headers_of(http, wire.HEADERS)
    request = replace(await prepared(http, partial(wire.to_request, body, headers)), owner=caller.id)
    reply = Reply(
        partial(answer.Frames, body=body) if body.stream else None,
        partial(answer.message, body=body),
        MessagesWriter,
        names=wire.endpoint_name,
    )
    gateway, provider = destination(http)
    if uses.is_strict:
        request = without_wishes(request)
    return await respond(http, gateway.start(request, provider, uses=uses), reply, {})


@route(
    router,
    "POST",
    "/messages/count_tokens",
    summary="Count a conversation's tokens",
    answer=answer.TokenCount,
    responses=RESPONSES,
)
async def count_tokens(http: Request, _: Caller, body: wire.CountTokensBody) -> Response:
    uses = await prepared(http, partial(uses_of_messages, body, strict=is_strict(http)))
    request = await prepared(http, partial(wire.to_tokenize_request, body))
    request = replace(request, model=base_model(http, request.model))
    gateway, provider = destination(http)
    headers = with_named({}, gateway.left_out(uses, request.model, provider))
    try:
        tokens = await gateway.tokenize(request, provider)
    except UnsupportedParameter as exc:
        if exc.param != "reasoning_effort" or is_strict(http):
            raise
        # a model without reasoning efforts answers without one, and so its prompt has none
        assert isinstance(request.prompt, Conversation)
        plain = replace(request, prompt=replace(request.prompt, reasoning_effort=None))
        tokens = await gateway.tokenize(plain, provider)
        headers = with_named(headers, ["thinking"])
    return JSONResponse({"input_tokens": len(tokens)}, headers=headers)


class MessagesWriter(StreamWriter):
    """Sends texts that are framed already, errors as an `error` event, and no [DONE]."""

    keep_alive_frame = answer.frame("ping").encode()
    final_texts = ()

    def framed(self, texts: list[str]) -> bytes:
        return "".join(texts).encode()

    def error_text(self, error: ServerError) -> str:
        body = errors.to_body(error, logs.REQUEST_ID.get())
        return answer.frame("error", error=body["error"], request_id=body["request_id"])
