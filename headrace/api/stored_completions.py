"""Stored chat completions: GET /v1/chat/completions, and the routes below `/v1/chat/completions/{id}`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from headrace.api.errors import RESPONSES
from headrace.api.listing import OldestFirst, described, query_of
from headrace.api.request import Caller, Stored, name_ignored
from headrace.api.routes import V1, route
from headrace.wire import stored_completions as wire
from headrace.wire.conversations import MetadataBody
from headrace.wire.items import Item
from headrace.wire.pagination import ListObject, page_object

router = APIRouter(tags=["chat"], responses=RESPONSES)
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


async def _filter(http: Request, response: Response) -> wire.Filter:
    return wire.filter(query_of(http, response, wire.FILTERED))


@route(
    router, "GET", "/chat/completions", under=V1, summary="List stored chat completions, oldest first",
    extra=described("asc", more=FILTERS),
)  # fmt: skip
async def list_completions(
    caller: Caller, store: Stored, filter: Annotated[wire.Filter, Depends(_filter)]
) -> ListObject[wire.StoredChatCompletion]:
    page = await store.completions.page(
        caller.id, **filter.page, model=filter.model, metadata=filter.metadata
    )
    return page_object(page, wire.completion)


@route(router, "GET", STORED, under=V1, summary="Retrieve a stored chat completion")
async def retrieve_completion(caller: Caller, store: Stored, completion_id: str) -> wire.StoredChatCompletion:
    return wire.completion(await store.completions.get(caller.id, completion_id))


@route(router, "POST", STORED, under=V1, summary="Change the metadata")
async def update_completion(
    http: Request, response: Response, caller: Caller, store: Stored, completion_id: str, body: MetadataBody
) -> wire.StoredChatCompletion:
    await name_ignored(http, response, body)
    return wire.completion(await store.completions.update(caller.id, completion_id, body.metadata or {}))


@route(router, "DELETE", STORED, under=V1, summary="Delete a stored chat completion")
async def delete_completion(caller: Caller, store: Stored, completion_id: str) -> wire.DeletedChatCompletion:
    await store.completions.delete(caller.id, completion_id)
    return wire.deleted(completion_id)


@route(
    router, "GET", STORED + "/messages", under=V1, summary="List the messages of the request, oldest first",
    extra=described("asc"),
)  # fmt: skip
async def list_messages(
    caller: Caller, store: Stored, completion_id: str, query: OldestFirst
) -> ListObject[Item]:
    """Each message has an `id`, its text as `content`, and its parts, if any, as `content_parts`."""
    head = (await store.completions.get(caller.id, completion_id)).head
    return page_object(await store.items.page(caller.id, head, **query), wire.message)
