"""The JSON of stored chat completions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from headrace.errors import BadRequest
from headrace.store import StoredCompletion, StoredItem
from headrace.wire.chat import ChatBody, ChatCompletion
from headrace.wire.conversations import MAX_PAIRS, Metadata
from headrace.wire.items import Item
from headrace.wire.pagination import LISTED, Listing, Query, listing

FILTERED = (*LISTED[:3], "model", "metadata")
METADATA = TypeAdapter(Metadata)
PAIR = re.compile(r"metadata\[(.*)\]", re.DOTALL)


class StoredChatCompletion(ChatCompletion):
    """The stored answer."""

    metadata: dict[str, str]


class DeletedChatCompletion(TypedDict):
    id: str
    object: Literal["chat.completion.deleted"]
    deleted: Literal[True]


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
        raise BadRequest.at("metadata", f"a chat completion has at most {MAX_PAIRS} pairs")
    return Filter(listing(query, "asc", is_cut=True), dict(query).get("model"), pairs)


def metadata(body: ChatBody) -> dict[str, str]:
    """The metadata of a body. Raises BadRequest."""
    try:
        return METADATA.validate_python(body.metadata or {}, strict=True)
    except ValidationError as exc:
        complaint = exc.errors(include_url=False, include_context=False)[0]
        raise BadRequest.at("metadata", complaint["msg"]) from exc
    except BadRequest as exc:
        exc.param = "metadata"
        raise


def request_messages(body: ChatBody) -> list[dict[str, Any]]:
    """The request's messages as JSON, without ids of their own."""
    sent = (message.model_dump(mode="json", exclude_unset=True) for message in body.messages)
    return [{name: value for name, value in message.items() if name != "id"} for message in sent]


def completion(stored: StoredCompletion) -> StoredChatCompletion:
    return cast(StoredChatCompletion, {**stored.body, "metadata": dict(stored.metadata)})


def deleted(id: str) -> DeletedChatCompletion:
    return {"id": id, "object": "chat.completion.deleted", "deleted": True}


def message(item: StoredItem) -> Item:
    """A message with its text as `content` and its parts, if any, as `content_parts`."""
    content = item.body.get("content")
    parts = content if isinstance(content, list) else None
    text = content if parts is None else "".join(part.get("text", "") for part in parts)
    return {"refusal": None, **item.body, "content": text, "content_parts": parts}
