"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's dialect, over every backend."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from fastapi import APIRouter, Request, Response

from headrace import logs
from headrace.api.answers import Reply, StreamWriter, respond
from headrace.api.json_response import JSONResponse
from headrace.api.openapi import EVENT_STREAM, response_of, responses_of
from headrace.api.request import Caller, base_model, destination, headers_of, is_strict, prepared, steered
from headrace.api.routes import route
from headrace.errors import ServerError, UnsupportedParameter
from headrace.types import Conversation
from headrace.wire.anthropic import answer
from headrace.wire.anthropic import request as wire
from headrace.wire.anthropic.tables import uses_of_messages
from headrace.wire.errors import MessagesErrorResponse, to_messages_body
from headrace.wire.parameters import with_named

STREAMED = response_of(
    str,
    "With `stream: true`: `message_start`, then for each block `content_block_start`, "
    "`content_block_delta`s and `content_block_stop`, then `message_delta` and `message_stop`.",
    EVENT_STREAM,
)


router = APIRouter(tags=["messages"], responses=responses_of(MessagesErrorResponse))


@route(
    router, "POST", "/messages", summary="Answer a conversation, in Anthropic's dialect",
    answer=answer.AnsweredMessage, responses={200: STREAMED},
)  # fmt: skip
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
        is_steered=body._steered is not None,
    )
    gateway, provider = destination(http)
    return await respond(http, gateway.start(request, provider, uses=uses), reply, _headers())


@route(
    router, "POST", "/messages/count_tokens", summary="Count a conversation's tokens",
    answer=answer.TokenCount,
)  # fmt: skip
async def count_tokens(http: Request, _: Caller, body: wire.CountTokensBody) -> Response:
    uses = await prepared(http, partial(uses_of_messages, body, strict=is_strict(http)))
    request = await prepared(http, partial(wire.to_tokenize_request, body))
    request = replace(request, model=base_model(http, request.model))
    gateway, provider = destination(http)
    headers = with_named(_headers(), gateway.left_out(uses, request.model, provider))
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


def _headers() -> dict[str, str]:
    """Anthropic's name for the request's id, which its clients read."""
    return {"request-id": logs.REQUEST_ID.get()}


class MessagesWriter(StreamWriter):
    """Sends texts that are framed already, errors as an `error` event, and no [DONE]."""

    keep_alive_frame = answer.frame("ping").encode()
    final_texts = ()

    def framed(self, texts: list[str]) -> bytes:
        return "".join(texts).encode()

    def error_text(self, error: ServerError) -> str:
        body = to_messages_body(error, logs.REQUEST_ID.get())
        return answer.frame("error", error=body["error"], request_id=body["request_id"])
