"""Items of Responses and Conversations as JSON, and the messages that a model reads (state.md §1, §3).

An item is stored as clients see it. Three ways lead here: what a caller sends (`to_items`), what a model answers
(`of_choice`), and a chat's messages (`of_chat`); one way leads out (`to_messages`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headrace.types import Message
from headrace.wire.conversation import ChatMessage
from headrace.wire.generation import Choice

Item = Mapping[str, Any]


def to_items(input: object, param: str) -> list[Item]:
    """A body's member `input` or `items` (a string, or items as JSON) normalised: every item has an id of its kind
    (`msg_…`, `fc_…`, `fco_…`, `rs_…`, …; a caller's own id is kept), `status: completed` where its kind has one, and
    content as parts. Raises BadRequest naming `param` and the path into it.
    """
    raise NotImplementedError


def of_choice(choice: Choice) -> list[Item]:
    """What a model answered: reasoning, message, calls, in this order."""
    raise NotImplementedError


def of_chat(messages: Sequence[ChatMessage]) -> list[Item]:
    """A chat's messages as items."""
    raise NotImplementedError


def to_messages(items: Sequence[Item]) -> tuple[Message, ...]:
    """What a model reads: calls that follow each other are one assistant's message, reasoning belongs to what comes
    after it, a call's output is a message of role tool. Raises BadRequest for items that no model here can read.
    """
    raise NotImplementedError


def same(stored: Item, sent: Item) -> bool:
    """Whether both say the same, whatever their ids and statuses are."""
    raise NotImplementedError
