"""/v1/conversations: create, read, change, export and delete conversations and their items."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from headrace.api.errors import RESPONSES
from headrace.api.listing import Included, NewestFirst, described, query_of
from headrace.api.request import Caller, Stored, name_ignored, prepared
from headrace.api.routes import V1, route
from headrace.store import Store
from headrace.wire import conversations as wire
from headrace.wire.conversations import MetadataBody
from headrace.wire.items import Item, references, resolved
from headrace.wire.pagination import LISTED, ListObject, list_object, listing, page_object

router = APIRouter(tags=["conversations"], responses=RESPONSES)
CONVERSATION = "/conversations/{conversation_id}"
SEARCH = {
    "name": "search",
    "in": "query",
    "schema": {
        "type": "string",
        "maxLength": wire.MAX_SEARCH,
        "description": "Words that were all said in it, in any case.",
    },
}


async def _conversation_id(conversation_id: str) -> str:
    return wire.check_id(conversation_id, "conversation_id")


ConversationId = Annotated[str, Depends(_conversation_id)]


@route(router, "POST", "/conversations", under=V1, summary="Create a conversation", is_body_optional=True)
async def create_conversation(
    http: Request, response: Response, caller: Caller, store: Stored, body: wire.ConversationBody
) -> wire.ConversationObject:
    await name_ignored(http, response, body)
    items = await _resolved(store, caller.id, await prepared(http, partial(wire.new_items, body)))
    return wire.conversation(await store.conversations.create(caller.id, items, body.metadata or {}))


@route(
    router, "GET", "/conversations", under=V1,
    summary="List conversations, newest first, or those in which some words were said",
    extra=described("desc", more=[SEARCH]),
)  # fmt: skip
async def list_conversations(
    http: Request, response: Response, caller: Caller, store: Stored
) -> ListObject[wire.ConversationObject]:
    query = query_of(http, response, (*LISTED, "search"))
    page, search = listing(query, "desc"), wire.search_of(query)
    reading = (
        store.conversations.page(caller.id, **page)
        if search is None
        else store.conversations.search(caller.id, search, **page)
    )
    return page_object(await reading, wire.conversation)


@route(router, "GET", CONVERSATION, under=V1, summary="Retrieve a conversation")
async def retrieve_conversation(caller: Caller, store: Stored, id: ConversationId) -> wire.ConversationObject:
    return wire.conversation(await store.conversations.get(caller.id, id))


@route(router, "POST", CONVERSATION, under=V1, summary="Change the metadata")
async def update_conversation(
    http: Request, response: Response, caller: Caller, store: Stored, id: ConversationId, body: MetadataBody
) -> wire.ConversationObject:
    await name_ignored(http, response, body)
    return wire.conversation(await store.conversations.update(caller.id, id, body.metadata or {}))


@route(router, "DELETE", CONVERSATION, under=V1, summary="Delete a conversation; its responses stay")
async def delete_conversation(caller: Caller, store: Stored, id: ConversationId) -> wire.DeletedConversation:
    await store.conversations.delete(caller.id, id)
    return wire.deleted(id)


@route(router, "GET", CONVERSATION + "/export", under=V1, summary="Export a conversation as one document")
async def export_conversation(
    caller: Caller, store: Stored, id: ConversationId, response: Response
) -> wire.ConversationExport:
    stored = await store.conversations.get(caller.id, id)
    response.headers["Content-Disposition"] = f'attachment; filename="{id}.json"'
    return wire.export(stored, await store.items.path(caller.id, stored.head))


@route(
    router, "POST", CONVERSATION + "/fork", under=V1,
    summary="Create a conversation that begins like this one, up to an item",
)  # fmt: skip
async def fork_conversation(
    caller: Caller, store: Stored, id: ConversationId, body: wire.ForkBody
) -> wire.ConversationObject:
    return wire.conversation(await store.conversations.fork(caller.id, id, body.item_id, body.metadata or {}))


@route(router, "POST", CONVERSATION + "/items", under=V1, summary="Add up to 20 items to a conversation")
async def create_items(
    http: Request,
    response: Response,
    caller: Caller,
    store: Stored,
    id: ConversationId,
    _: Included,
    body: wire.ItemsBody,
) -> ListObject[Item]:
    await name_ignored(http, response, body)
    items = await _resolved(store, caller.id, await prepared(http, partial(wire.new_items, body)))
    added = await store.conversations.append(caller.id, id, items)
    return list_object([item.body for item in added], has_more=False)


@route(
    router, "GET", CONVERSATION + "/items", under=V1,
    summary="List the items of a conversation, newest first", extra=described("desc", include=True),
)  # fmt: skip
async def list_items(
    caller: Caller, store: Stored, id: ConversationId, query: NewestFirst
) -> ListObject[Item]:
    head = (await store.conversations.get(caller.id, id)).head
    return page_object(await store.items.page(caller.id, head, **query), lambda item: item.body)


@route(router, "GET", CONVERSATION + "/items/{item_id}", under=V1, summary="Retrieve an item")
async def retrieve_item(caller: Caller, store: Stored, id: ConversationId, item_id: str, _: Included) -> Item:
    return (await store.conversations.item(caller.id, id, item_id)).body


@route(
    router, "DELETE", CONVERSATION + "/items/{item_id}", under=V1,
    summary="Remove an item; returns the conversation",
)  # fmt: skip
async def delete_item(
    caller: Caller, store: Stored, id: ConversationId, item_id: str
) -> wire.ConversationObject:
    return wire.conversation(await store.conversations.delete_item(caller.id, id, item_id))


async def _resolved(store: Store, owner: str, items: list[Item]) -> list[Item]:
    """The items, with references replaced by copies of the stored items. Raises ItemNotFound."""
    wanted = references(items)
    stored = await store.items.find(owner, wanted) if wanted else {}
    bodies = {
        id: {name: value for name, value in item.body.items() if name != "id"} for id, item in stored.items()
    }
    return resolved(items, bodies, "items")
