"""The JSON of /v1/conversations, and the member `metadata`: pairs of strings that a caller attaches to a
stored object.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from headrace.errors import BadRequest
from headrace.store import StoredConversation, StoredItem
from headrace.wire.items import Item, ItemBody, to_items
from headrace.wire.limits import SHOWN, Pairs, at_most
from headrace.wire.pagination import Query
from headrace.wire.parameters import RequestBody

MAX_ITEMS = 20  # in one request
MAX_ID = 200  # characters of an item's id
MAX_SEARCH, MAX_WORDS = 200, 8  # characters, and words
ID = re.compile(r"conv_[A-Za-z0-9_-]{1,100}")

Items = Annotated[list[ItemBody], at_most(MAX_ITEMS)]

MAX_PAIRS, MAX_KEY, MAX_VALUE = 16, 64, 512


def _check_metadata(pairs: dict[str, Any]) -> None:
    for key, value in pairs.items():
        param = f"metadata.{key[:SHOWN]}"
        if len(key) > MAX_KEY:
            raise BadRequest.at(param, f"a key has up to {MAX_KEY} characters")
        if not isinstance(value, str) or len(value) > MAX_VALUE:
            raise BadRequest.at(param, f"a value is a string of up to {MAX_VALUE} characters")


Metadata = Annotated[
    dict[str, str],
    Pairs(MAX_PAIRS, _check_metadata),
    Field(description=f"Up to {MAX_PAIRS} pairs; a key has up to {MAX_KEY} characters, a value {MAX_VALUE}."),
]


class MetadataBody(RequestBody):
    """The body that replaces an object's metadata; null removes it."""

    metadata: Metadata | None


class ConversationBody(RequestBody):
    """The body of POST /v1/conversations."""

    items: Items | None = None
    metadata: Metadata | None = None


class ForkBody(RequestBody):
    """The body of POST /v1/conversations/{id}/fork."""

    item_id: Annotated[
        str | None, Field(max_length=MAX_ID, description="The last item to share; null shares none.")
    ]
    metadata: Metadata | None = None


class ItemsBody(RequestBody):
    """The body of POST /v1/conversations/{id}/items."""

    items: Annotated[Items, Field(min_length=1)]


def search_of(query: Query) -> str | None:
    """The words of the query parameter `search`; None if there are none. Raises BadRequest."""
    words = dict(query).get("search", "").strip()
    if len(words) > MAX_SEARCH:
        raise BadRequest.at("search", f"it has more than {MAX_SEARCH} characters")
    if len(words.split()) > MAX_WORDS:
        raise BadRequest.at("search", f"it has more than {MAX_WORDS} words")
    return words or None


class ConversationObject(TypedDict):
    id: str
    object: Literal["conversation"]
    created_at: Annotated[int, Field(description="Seconds since 1970.")]
    metadata: dict[str, str]


class DeletedConversation(TypedDict):
    id: str
    object: Literal["conversation.deleted"]
    deleted: Literal[True]


class ConversationExport(TypedDict):
    object: Literal["conversation.export"]
    conversation: ConversationObject
    items: Annotated[list[Item], Field(description="Oldest first.")]


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


def conversation(stored: StoredConversation) -> ConversationObject:
    return {
        "id": stored.id,
        "object": "conversation",
        "created_at": stored.created_at,
        "metadata": dict(stored.metadata),
    }


def deleted(id: str) -> DeletedConversation:
    return {"id": id, "object": "conversation.deleted", "deleted": True}


def export(stored: StoredConversation, path: Iterable[StoredItem]) -> ConversationExport:
    return {
        "object": "conversation.export",
        "conversation": conversation(stored),
        "items": [item.body for item in path],
    }
