"""POST /v1/chat/completions, and the stored chat completions: GET there, and the routes below
`/v1/chat/completions/{id}`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response

from headrace.api.answers import Reply, respond
from headrace.api.errors import RESPONSES
from headrace.api.listing import OldestFirst, described, query_of
from headrace.api.openapi import EVENT_STREAM, response_of
from headrace.api.request import Caller, Stored, destination, is_strict, name_ignored, prepared, steered
from headrace.api.routes import V1, route
from headrace.errors import BadRequest, ServerError
from headrace.gateway.generation import Generation
from headrace.turns.chat import ChatTurn
from headrace.wire import chat as wire
from headrace.wire import stored_completions as stored
from headrace.wire.conversations import MetadataBody
from headrace.wire.items import Item
from headrace.wire.pagination import ListObject, page_object
from headrace.wire.parameters import uses_of, with_named
from headrace.wire.tables import CHAT
from headrace.wire.tools import FUNCTIONS_USE, in_callers_terms

router = APIRouter(tags=["chat"], responses=RESPONSES)

STREAMED = response_of(
    wire.ChatCompletionChunk,
    "With `stream: true`: `data: {chat.completion.chunk}` events, then `data: [DONE]`.",
    EVENT_STREAM,
)
STORED = "/chat/completions/{completion_id}"

FILTERS: tuple[dict[str, Any], ...] = (
    {"name": "model", "in": "query", "schema": {"type": "string"}},
    {
        "name": "metadata",
        "in": "query",
        "style": "deepObject",
        "description": "`metadata[KEY]=VALUE`: completions that have all of these pairs.",
        "schema": {"type": "object", "additionalProperties": {"type": "string"}},
    },
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


async def _stored_filter(http: Request, response: Response) -> stored.Filter:
    return stored.filter(query_of(http, response, stored.FILTERED))


@route(
    router, "GET", "/chat/completions", under=V1, summary="List stored chat completions, oldest first",
    extra=described("asc", more=FILTERS),
)  # fmt: skip
async def list_completions(
    caller: Caller, store: Stored, filter: Annotated[stored.Filter, Depends(_stored_filter)]
) -> ListObject[stored.StoredChatCompletion]:
    page = await store.completions.page(
        caller.id, **filter.page, model=filter.model, metadata=filter.metadata
    )
    return page_object(page, stored.completion)


@route(router, "GET", STORED, under=V1, summary="Retrieve a stored chat completion")
async def retrieve_completion(
    caller: Caller, store: Stored, completion_id: str
) -> stored.StoredChatCompletion:
    return stored.completion(await store.completions.get(caller.id, completion_id))


@route(router, "POST", STORED, under=V1, summary="Change the metadata")
async def update_completion(
    http: Request, response: Response, caller: Caller, store: Stored, completion_id: str, body: MetadataBody
) -> stored.StoredChatCompletion:
    await name_ignored(http, response, body)
    return stored.completion(await store.completions.update(caller.id, completion_id, body.metadata or {}))


@route(router, "DELETE", STORED, under=V1, summary="Delete a stored chat completion")
async def delete_completion(
    caller: Caller, store: Stored, completion_id: str
) -> stored.DeletedChatCompletion:
    await store.completions.delete(caller.id, completion_id)
    return stored.deleted(completion_id)


@route(
    router, "GET", STORED + "/messages", under=V1, summary="List the messages of the request, oldest first",
    extra=described("asc"),
)  # fmt: skip
async def list_messages(
    caller: Caller, store: Stored, completion_id: str, query: OldestFirst
) -> ListObject[Item]:
    """Each message has an `id`, its text as `content`, and its parts, if any, as `content_parts`."""
    head = (await store.completions.get(caller.id, completion_id)).head
    return page_object(await store.items.page(caller.id, head, **query), stored.message)
