"""The history that a turn continues: a previous response, a conversation, or none."""

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
from headrace.turns.dedupe import CALLS
from headrace.wire.items import Item
from headrace.wire.responses.body import HistoryBody, PromptBody

log = logging.getLogger(__name__)

T = TypeVar("T")
Memory = Mapping[str, Sequence[Item]]  # the history of unstored responses, by id, on one WebSocket

UNFINISHED = ("queued", "in_progress")
ITEM = 1024  # the work of translating an item into a message, in bytes, the unit of `aside`
PART = 256  # ... and each part of its content


def weight(items: str | Sequence[object]) -> int:
    """The work of reading these, as a number of items: what is decoded counts by its size."""
    if isinstance(items, str):
        return 1
    return len(items) + sum(map(_num_bytes_inside, items)) // ITEM


def _num_bytes_inside(item: object) -> int:
    """The work of its content's parts beside the item's own: the size of images and files, and of encrypted
    content, and PART for each part.
    """
    members = item if isinstance(item, Mapping) else getattr(item, "__dict__", {})
    content, encrypted = members.get("content"), members.get("encrypted_content")
    in_parts = sum(PART + _num_data_bytes(part) for part in content) if isinstance(content, list) else 0
    return in_parts + (len(encrypted) if isinstance(encrypted, str) else 0)


def _num_data_bytes(part: object) -> int:
    members = part if isinstance(part, Mapping) else getattr(part, "__dict__", {})
    data = members.get("image_url") or members.get("file_data")
    return len(data) if isinstance(data, str) else 0


async def run_aside(num_items: int, work: Callable[[], T]) -> T:
    """Call `work` and return its result; for many items, in a thread."""
    return await aside(ITEM * num_items, work)


@dataclass(frozen=True, slots=True)
class History:
    """`head`: the stored path. `unstored`: the items that follow it and are not stored. `items`: all of them,
    as the model reads them. `lock`: of the conversation, to be released at the end of the turn.
    """

    head: str | None = None
    unstored: Sequence[Item] = ()
    items: Sequence[Item] = ()
    lock: ConversationLock | None = None


async def load_history(
    store: Store, owner: str, body: HistoryBody, memory: Memory, *, is_written: bool = False
) -> History:
    """The history that the request names. `is_written`: lock its conversation, to append to it. Raises
    BadRequest, PreviousResponseNotFound, ConversationNotFound, ConversationLocked, StoreUnavailable.
    """
    if body.previous_response_id is not None:
        return await _up_to_response(store, owner, body.previous_response_id, memory)
    id = body.conversation_id if isinstance(body, PromptBody) else None
    if id is None:
        return History()
    try:
        lock = await store.conversations.lock(owner, id) if is_written else None
        conversation = await store.conversations.get(owner, id) if lock is None else lock.conversation
    except ConversationNotFound as exc:
        exc.param = "conversation"
        raise
    try:
        path = await store.items.path(owner, conversation.head)
    except BaseException:
        if lock is not None:
            await asyncio.shield(release_lock(store, lock))
        raise
    return History(conversation.head, (), _readable([item.body for item in path]), lock)


async def release_lock(store: Store, lock: ConversationLock) -> None:
    """Release the lock without appending. If the store fails, it retries the release later by itself."""
    try:
        await store.conversations.release(lock)
    except ServerError as exc:
        log.error("conversation %s could not be unlocked yet: %s", lock.conversation.id, exc.message)


async def _up_to_response(store: Store, owner: str, id: str, memory: Memory) -> History:
    """The history up to a response and its output. Raises PreviousResponseNotFound, BadRequest,
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
    """Leave out calls that broke off within their arguments: no client can answer them. An incomplete call
    with whole arguments stays, because agents answer it.
    """
    return [
        item
        for item in items
        if item["type"] not in CALLS or item.get("status") != "incomplete" or _has_whole_arguments(item)
    ]


def _has_whole_arguments(call: Item) -> bool:
    try:
        return isinstance(json.loads(call.get("arguments", "")), dict)
    except (ValueError, RecursionError):
        return False
