"""/v1/conversations: create, read, change, export and delete conversations and their items."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from headrace.api.body import json_body
from headrace.api.dependencies import Caller, Stored
from headrace.api.errors import RESPONSES
from headrace.api.listing import Included, NewestFirst, described
from headrace.api.openapi import body_of
from headrace.store import Store
from headrace.wire import conversations as wire
from headrace.wire.items import Item, references, resolved
from headrace.wire.metadata import MetadataBody

router = APIRouter(prefix="/v1/conversations", tags=["conversations"], responses=RESPONSES)


async def _conversation_id(conversation_id: str) -> str:
    return wire.check_id(conversation_id, "conversation_id")


ConversationId = Annotated[str, Depends(_conversation_id)]


@router.post(
    "",
    summary="Create a conversation",
    response_model=wire.ConversationObject,
    openapi_extra=body_of(wire.ConversationBody),
)
async def create_conversation(
    caller: Caller,
    store: Stored,
    body: Annotated[wire.ConversationBody, Depends(json_body(wire.ConversationBody, is_optional=True))],
) -> dict[str, Any]:
    items = await _resolved(store, caller.id, wire.new_items(body))
    return wire.conversation(await store.conversations.create(caller.id, items, body.metadata or {}))


@router.get(
    "",
    summary="List conversations, newest first",
    response_model=wire.ConversationList,
    openapi_extra=described("desc"),
)
async def list_conversations(caller: Caller, store: Stored, query: NewestFirst) -> dict[str, Any]:
    page = await store.conversations.page(caller.id, limit=query.limit, after=query.after, order=query.order)
    return wire.conversations(page)


@router.get("/{conversation_id}", summary="Retrieve a conversation", response_model=wire.ConversationObject)
async def retrieve_conversation(caller: Caller, store: Stored, id: ConversationId) -> dict[str, Any]:
    return wire.conversation(await store.conversations.get(caller.id, id))


@router.post(
    "/{conversation_id}",
    summary="Change the metadata",
    response_model=wire.ConversationObject,
    openapi_extra=body_of(MetadataBody),
)
async def update_conversation(
    caller: Caller,
    store: Stored,
    id: ConversationId,
    body: Annotated[MetadataBody, Depends(json_body(MetadataBody))],
) -> dict[str, Any]:
    return wire.conversation(await store.conversations.update(caller.id, id, body.metadata or {}))


@router.delete(
    "/{conversation_id}",
    summary="Delete a conversation; its responses stay",
    response_model=wire.DeletedConversation,
)
async def delete_conversation(caller: Caller, store: Stored, id: ConversationId) -> dict[str, Any]:
    await store.conversations.delete(caller.id, id)
    return wire.deleted(id)


@router.get(
    "/{conversation_id}/export",
    summary="Export a conversation as one document",
    response_model=wire.ConversationExport,
)
async def export_conversation(
    caller: Caller, store: Stored, id: ConversationId, response: Response
) -> dict[str, Any]:
    stored = await store.conversations.get(caller.id, id)
    response.headers["Content-Disposition"] = f'attachment; filename="{id}.json"'
    return wire.export(stored, await store.items.path(caller.id, stored.head))


@router.post(
    "/{conversation_id}/items",
    summary="Add up to 20 items to a conversation",
    response_model=wire.ItemList,
    openapi_extra=body_of(wire.ItemsBody),
)
async def create_items(
    caller: Caller,
    store: Stored,
    id: ConversationId,
    _: Included,
    body: Annotated[wire.ItemsBody, Depends(json_body(wire.ItemsBody))],
) -> dict[str, Any]:
    items = await _resolved(store, caller.id, wire.new_items(body))
    return wire.created(await store.conversations.append(caller.id, id, items))


@router.get(
    "/{conversation_id}/items",
    summary="List the items of a conversation, newest first",
    response_model=wire.ItemList,
    openapi_extra=described("desc", include=True),
)
async def list_items(caller: Caller, store: Stored, id: ConversationId, query: NewestFirst) -> dict[str, Any]:
    head = (await store.conversations.get(caller.id, id)).head
    page = await store.items.page(caller.id, head, limit=query.limit, after=query.after, order=query.order)
    return wire.items(page)


@router.get("/{conversation_id}/items/{item_id}", summary="Retrieve an item", response_model=dict[str, Any])
async def retrieve_item(
    caller: Caller, store: Stored, id: ConversationId, item_id: str, _: Included
) -> dict[str, Any]:
    return dict((await store.conversations.item(caller.id, id, item_id)).body)


@router.delete(
    "/{conversation_id}/items/{item_id}",
    summary="Remove an item; returns the conversation",
    response_model=wire.ConversationObject,
)
async def delete_item(caller: Caller, store: Stored, id: ConversationId, item_id: str) -> dict[str, Any]:
    return wire.conversation(await store.conversations.delete_item(caller.id, id, item_id))


async def _resolved(store: Store, owner: str, items: list[Item]) -> list[Item]:
    """The items, with references replaced by copies of the stored items. Raises ItemNotFound."""
    wanted = references(items)
    stored = await store.items.find(owner, wanted) if wanted else {}
    found = {
        id: {name: value for name, value in item.body.items() if name != "id"} for id, item in stored.items()
    }
    return resolved(items, found, "items")
