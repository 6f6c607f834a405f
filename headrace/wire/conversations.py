"""The JSON of /v1/conversations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from headrace.errors import BadRequest
from headrace.store import Page, StoredConversation, StoredItem
from headrace.wire.items import Item, ItemBody, to_items
from headrace.wire.limits import at_most
from headrace.wire.metadata import Metadata
from headrace.wire.pagination import list_object
from headrace.wire.validation import RequestBody

MAX_ITEMS = 20  # in one request
ID = re.compile(r"conv_[A-Za-z0-9_-]{1,100}")

Items = Annotated[list[ItemBody], at_most(MAX_ITEMS)]


class ConversationBody(RequestBody):
    """The body of POST /v1/conversations."""

    items: Items | None = None
    metadata: Metadata | None = None


class ItemsBody(RequestBody):
    """The body of POST /v1/conversations/{id}/items."""

    items: Annotated[Items, Field(min_length=1)]


class ConversationObject(BaseModel):
    id: str
    object: Literal["conversation"]
    created_at: int = Field(description="Seconds since 1970.")
    metadata: dict[str, str]


class DeletedConversation(BaseModel):
    id: str
    object: Literal["conversation.deleted"]
    deleted: Literal[True]


class ConversationList(BaseModel):
    object: Literal["list"]
    data: list[ConversationObject]
    first_id: str = Field(description="Empty if the page is empty.")
    last_id: str
    has_more: bool


class ItemList(BaseModel):
    """A page of items in the form of the Responses API: `type`, `id`, and the members of the type."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str = Field(description="Empty if the page is empty.")
    last_id: str
    has_more: bool


class ConversationExport(BaseModel):
    object: Literal["conversation.export"]
    conversation: ConversationObject
    items: list[dict[str, Any]] = Field(description="Oldest first.")


def check_id(id: str, param: str) -> str:
    """Check a conversation's id, and return it. Raises BadRequest if it has another form."""
    if not ID.fullmatch(id):
        raise BadRequest(
            f"Invalid '{param}': {id[:100]!r}. Expected an ID that begins with 'conv_'.", param=param
        )
    return id


def new_items(body: ConversationBody | ItemsBody) -> list[Item]:
    """The items of a body. Raises BadRequest."""
    return to_items(body.items, "items")


def conversation(stored: StoredConversation) -> dict[str, Any]:
    return {
        "id": stored.id,
        "object": "conversation",
        "created_at": stored.created_at,
        "metadata": dict(stored.metadata),
    }


def deleted(id: str) -> dict[str, Any]:
    return {"id": id, "object": "conversation.deleted", "deleted": True}


def conversations(page: Page[StoredConversation]) -> dict[str, Any]:
    return list_object([conversation(stored) for stored in page.data], has_more=page.has_more)


def items(page: Page[StoredItem]) -> dict[str, Any]:
    return list_object([dict(item.body) for item in page.data], has_more=page.has_more)


def created(items: Sequence[StoredItem]) -> dict[str, Any]:
    return list_object([dict(item.body) for item in items], has_more=False)


def export(stored: StoredConversation, path: Iterable[StoredItem]) -> dict[str, Any]:
    return {
        "object": "conversation.export",
        "conversation": conversation(stored),
        "items": [dict(item.body) for item in path],
    }
