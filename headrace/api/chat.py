"""POST /v1/chat/completions."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from starlette.responses import Response

from headrace.api.auth import Caller
from headrace.api.body import documented, json_body
from headrace.api.errors import RESPONSES
from headrace.api.generations import judge_of, respond
from headrace.api.sse import Encoder, EventStream
from headrace.errors import BadRequest, ServerError
from headrace.gateway.gateway import Generation, Judge
from headrace.turns.chat import ChatTurn
from headrace.types import GenerateRequest
from headrace.wire import chat as wire
from headrace.wire.named import HEADER, conversation_named
from headrace.wire.parameters import CHAT, with_named
from headrace.wire.stored import unread
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
    http: Request,
    caller: Caller,
    body: Annotated[wire.ChatBody, Depends(json_body(wire.ChatBody))],
    named: Annotated[
        str | None, Header(alias=HEADER, description="The conversation that this goes on with, or `new`.")
    ] = None,
) -> Response:
    judge, headers = judge_of(http, body, CHAT), with_named({}, unread(body))
    request = replace(wire.to_request(body), owner=caller.id)
    turn = _turn(http, caller.id, body, named)
    try:
        if turn is None:
            encoder, whole = partial(wire.Chunks, body), partial(wire.completion, body)
            return await respond(
                http, request, headers, encoder=encoder if body.stream else None, whole=whole, judge=judge
            )
        return await _respond_and_keep(http, request, headers, turn, judge, is_streamed=bool(body.stream))
    except BadRequest as exc:
        raise as_asked(body, exc) from exc


def _turn(http: Request, owner: str, body: wire.ChatBody, header: str | None) -> ChatTurn | None:
    """None: nothing is kept. Raises BadRequest."""
    named = conversation_named(body, header)
    if named is None and not body.store:
        return None
    limit = http.app.state.config.conversations.context_messages
    return ChatTurn(http.app.state.store, owner, body, named=named, context_messages=limit)


async def _respond_and_keep(
    http: Request,
    request: GenerateRequest,
    headers: dict[str, str],
    turn: ChatTurn,
    judge: Judge,
    *,
    is_streamed: bool,
) -> Response:
    encoder = turn.chunks if is_streamed else None
    try:
        response = await respond(
            http, request, headers,
            encoder=encoder, whole=turn.completion,
            stream=partial(_KeptStream, turn), start=turn.start, judge=judge,
        )  # fmt: skip
    except ServerError as exc:
        exc.headers = {**exc.headers, **turn.headers}
        raise
    response.headers.update(turn.headers)
    return response


class _KeptStream(EventStream):
    def __init__(
        self, turn: ChatTurn, generation: Generation, encoder: Encoder, headers: dict[str, str]
    ) -> None:
        self._turn = turn
        super().__init__(generation, encoder, headers)

    def remark(self) -> str:
        return "X-Headrace-Persisted: false" if self._turn.is_lost else ""
