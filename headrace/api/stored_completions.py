"""Stored chat completions: GET /v1/chat/completions, and the routes below `/v1/chat/completions/{id}`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from headrace.api.body import json_body
from headrace.api.dependencies import Caller, Stored
from headrace.api.errors import RESPONSES
from headrace.api.listing import OldestFirst, described, query_of
from headrace.api.openapi import body_of
from headrace.wire import stored_completions as wire
from headrace.wire.metadata import MetadataBody

router = APIRouter(prefix="/v1/chat/completions", tags=["chat"], responses=RESPONSES)

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


@router.get(
    "",
    summary="List stored chat completions, oldest first",
    response_model=wire.StoredChatCompletionList,
    response_model_exclude_unset=True,
    openapi_extra=described("asc", more=FILTERS),
)
async def list_completions(
    caller: Caller, store: Stored, filter: Annotated[wire.Filter, Depends(_filter)]
) -> dict[str, Any]:
    page = await store.completions.page(
        caller.id,
        limit=filter.page.limit,
        after=filter.page.after,
        order=filter.page.order,
        model=filter.model,
        metadata=filter.metadata,
    )
    return wire.completions(page)


@router.get(
    "/{completion_id}", summary="Retrieve a stored chat completion", response_model=wire.StoredChatCompletion,
    response_model_exclude_unset=True,
)  # fmt: skip
async def retrieve_completion(caller: Caller, store: Stored, completion_id: str) -> dict[str, Any]:
    return wire.completion(await store.completions.get(caller.id, completion_id))


@router.post(
    "/{completion_id}", summary="Change the metadata", response_model=wire.StoredChatCompletion,
    response_model_exclude_unset=True, openapi_extra=body_of(MetadataBody),
)  # fmt: skip
async def update_completion(
    caller: Caller,
    store: Stored,
    completion_id: str,
    body: Annotated[MetadataBody, Depends(json_body(MetadataBody))],
) -> dict[str, Any]:
    return wire.completion(await store.completions.update(caller.id, completion_id, body.metadata or {}))


@router.delete(
    "/{completion_id}", summary="Delete a stored chat completion", response_model=wire.DeletedChatCompletion
)
async def delete_completion(caller: Caller, store: Stored, completion_id: str) -> dict[str, Any]:
    await store.completions.delete(caller.id, completion_id)
    return wire.deleted(completion_id)


@router.get(
    "/{completion_id}/messages",
    summary="List the messages of the request, oldest first",
    response_model=wire.StoredMessageList,
    openapi_extra=described("asc"),
)
async def list_messages(
    caller: Caller, store: Stored, completion_id: str, query: OldestFirst
) -> dict[str, Any]:
    head = (await store.completions.get(caller.id, completion_id)).head
    page = await store.items.page(caller.id, head, limit=query.limit, after=query.after, order=query.order)
    return wire.messages(page)
