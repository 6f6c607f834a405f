"""The JSON of stored chat completions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from headrace.errors import BadRequest
from headrace.store import Page, StoredCompletion, StoredItem
from headrace.wire.chat import ChatBody, ChatCompletion
from headrace.wire.metadata import MAX_PAIRS, Metadata
from headrace.wire.pagination import LISTED, Listing, Query, list_object, listing

FILTERED = (*LISTED[:3], "model", "metadata")
METADATA = TypeAdapter(Metadata)
PAIR = re.compile(r"metadata\[(.*)\]", re.DOTALL)


class StoredChatCompletion(ChatCompletion):
    """The stored answer."""

    metadata: dict[str, str]


class StoredChatCompletionList(BaseModel):
    object: Literal["list"]
    data: list[StoredChatCompletion]
    first_id: str = Field(description="Empty if the page is empty.")
    last_id: str
    has_more: bool


class DeletedChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion.deleted"]
    deleted: Literal[True]


class StoredMessageList(BaseModel):
    """The messages of the request, each with an `id`, its text as `content`, and its parts, if any, as
    `content_parts`.
    """

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str = Field(description="Empty if the page is empty.")
    last_id: str
    has_more: bool


@dataclass(frozen=True, slots=True)
class Filter:
    """The stored completions that a query selects."""

    page: Listing
    model: str | None
    metadata: Mapping[str, str]


def filter(query: Query) -> Filter:
    """The filter of a query. Raises BadRequest."""
    pairs = {match[1]: value for name, value in query if (match := PAIR.fullmatch(name))}
    if len(pairs) > MAX_PAIRS:
        raise BadRequest(f"metadata: a chat completion has at most {MAX_PAIRS} pairs", param="metadata")
    return Filter(listing(query, "asc", is_cut=True), dict(query).get("model"), pairs)


def metadata(body: ChatBody) -> dict[str, str]:
    """The metadata of a body. Raises BadRequest."""
    try:
        return METADATA.validate_python(body.metadata or {}, strict=True)
    except ValidationError as exc:
        complaint = exc.errors(include_url=False, include_context=False)[0]
        raise BadRequest(f"metadata: {complaint['msg']}", param="metadata") from exc
    except BadRequest as exc:
        exc.param = "metadata"
        raise


def request_messages(body: ChatBody) -> list[dict[str, Any]]:
    """The request's messages as JSON, without ids of their own."""
    sent = (message.model_dump(mode="json", exclude_unset=True) for message in body.messages)
    return [{name: value for name, value in message.items() if name != "id"} for message in sent]


def completion(stored: StoredCompletion) -> dict[str, Any]:
    return {**stored.body, "metadata": dict(stored.metadata)}


def completions(page: Page[StoredCompletion]) -> dict[str, Any]:
    return list_object([completion(stored) for stored in page.data], has_more=page.has_more)


def deleted(id: str) -> dict[str, Any]:
    return {"id": id, "object": "chat.completion.deleted", "deleted": True}


def messages(page: Page[StoredItem]) -> dict[str, Any]:
    return list_object([_message(item.body) for item in page.data], has_more=page.has_more)


def _message(body: Mapping[str, Any]) -> dict[str, Any]:
    content = body.get("content")
    parts = content if isinstance(content, list) else None
    text = content if parts is None else "".join(part.get("text", "") for part in parts)
    return {"refusal": None, **body, "content": text, "content_parts": parts}
