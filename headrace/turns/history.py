"""What a turn builds on: a response before it, a conversation, or nothing."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from headrace.errors import (
    BadRequest,
    ConversationNotFound,
    PreviousResponseNotFound,
    ResponseNotFound,
    ServerError,
)
from headrace.offload import aside
from headrace.store import ConversationLock, Store
from headrace.turns.window import CALLS
from headrace.wire.items import Item
from headrace.wire.responses.body import HistoryBody, PromptBody

log = logging.getLogger(__name__)

T = TypeVar("T")
Memory = Mapping[str, Sequence[Item]]  # of a connection: what its unstored responses carry on

UNFINISHED = ("queued", "in_progress")
ITEM = 1024  # bytes of work, for `aside`: about what it takes to read an item and write it as a message


def weight(items: str | Sequence[object]) -> int:
    """How many items these are worth: an image counts by its size, as it is read."""
    if isinstance(items, str):
        return 1
    return len(items) + sum(map(_media, items)) // ITEM


def _media(item: object) -> int:
    """Bytes of the images and files in it."""
    content = item.get("content") if isinstance(item, Mapping) else getattr(item, "content", None)
    return sum(map(_length, content)) if isinstance(content, list) else 0


def _length(part: object) -> int:
    members = part if isinstance(part, Mapping) else getattr(part, "__dict__", {})
    data = members.get("image_url") or members.get("file_data")
    return len(data) if isinstance(data, str) else 0


async def walked(num_items: int, work: Callable[[], T]) -> T:
    """The result of work on so many items, off the event loop if they are many."""
    return await aside(ITEM * num_items, work)


@dataclass(frozen=True, slots=True)
class History:
    """`head`: the stored path that goes before. `unstored`: what follows it and is not stored yet. `items`:
    all of it, as the model reads it. `held`: the conversation that is to be let go.
    """

    head: str | None = None
    unstored: Sequence[Item] = ()
    items: Sequence[Item] = ()
    held: ConversationLock | None = None


async def history_of(
    store: Store, owner: str, body: HistoryBody, memory: Memory, *, is_written: bool = False
) -> History:
    """`is_written`: a conversation is held, to be added to. Raises BadRequest, PreviousResponseNotFound,
    ConversationNotFound, ConversationLocked, StoreUnavailable.
    """
    if body.previous_response_id is not None:
        return await _after(store, owner, body.previous_response_id, memory)
    id = body.conversation_id if isinstance(body, PromptBody) else None
    if id is None:
        return History()
    try:
        held = await store.conversations.lock(owner, id) if is_written else None
        conversation = await store.conversations.get(owner, id) if held is None else held.conversation
    except ConversationNotFound as exc:
        exc.param = "conversation"
        raise
    try:
        path = await store.items.path(owner, conversation.head)
    except BaseException:
        if held is not None:
            await asyncio.shield(let_go(store, held))
        raise
    return History(conversation.head, (), _readable([item.body for item in path]), held)


async def let_go(store: Store, held: ConversationLock) -> None:
    """Of a conversation, as it was. A store that cannot do it now remembers it."""
    try:
        await store.conversations.release(held)
    except ServerError as exc:
        log.error("conversation %s was not let go: %s", held.conversation.id, exc.message)


async def _after(store: Store, owner: str, id: str, memory: Memory) -> History:
    """What was said up to a response, its answer included. Raises PreviousResponseNotFound, BadRequest,
    StoreUnavailable.
    """
    if id in memory:
        return History(None, memory[id], _readable(memory[id]))
    try:
        previous = await store.responses.get(owner, id)
    except ResponseNotFound as exc:
        raise PreviousResponseNotFound(
            f"Previous response with id '{id}' not found.", param="previous_response_id"
        ) from exc
    if previous.status in UNFINISHED:
        raise BadRequest(
            f"The response '{id}' is {previous.status}: it has no answer yet to go on from.",
            param="previous_response_id",
        )
    path = await store.items.path(owner, previous.output_head)
    return History(previous.output_head, (), _readable([item.body for item in path]))


def _readable(items: Sequence[Item]) -> Sequence[Item]:
    """Without calls that broke off: nothing can answer them. One that has its arguments was cut short after
    them: agents do answer it.
    """
    return [
        item
        for item in items
        if item["type"] not in CALLS or item.get("status") != "incomplete" or _is_whole(item)
    ]


def _is_whole(call: Item) -> bool:
    try:
        return isinstance(json.loads(call.get("arguments", "")), dict)
    except (ValueError, RecursionError):
        return False
