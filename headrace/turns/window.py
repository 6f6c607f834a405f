"""What a model reads of a long conversation: its system messages, and the most recent messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headrace.turns.resent import is_system
from headrace.wire.items import Item

CALLS = ("function_call", "custom_tool_call")
OUTPUTS = ("function_call_output", "custom_tool_call_output")


def window(items: Sequence[Item], limit: int, asked: Sequence[Item]) -> list[Item]:
    """System and developer messages, then the last messages, `limit` at most: fewer where a call would be cut
    off from its result; more where one of `asked`, what the caller adds, is the result of an older call.
    """
    systems = [item for item in items if is_system(item)]
    whole = messages([item for item in items if not is_system(item)])
    start = _start(whole, limit, asked)
    return [*systems, *(item for message in whole[start:] for item in message)]


def without_unanswered(items: Sequence[Item], asked: Sequence[Item]) -> list[Item]:
    """Calls whose result never came are left out: no model goes on from them."""
    answered: set[object] = {item["call_id"] for item in asked if item["type"] in OUTPUTS}
    kept: list[Item] = []
    for item in reversed(items):
        if item["type"] in OUTPUTS:
            answered.add(item["call_id"])
        if item["type"] not in CALLS or item["call_id"] in answered:
            kept.append(item)
    return kept[::-1]


def messages(items: Sequence[Item]) -> list[list[Item]]:
    """The items of each message, as `to_messages` makes them."""
    found: list[list[Item]] = []
    for item in items:
        if found and _goes_on(found[-1], item):
            found[-1].append(item)
        else:
            found.append([item])
    return found


def _goes_on(message: Sequence[Item], item: Item) -> bool:
    if not (_is_assistants(message[-1]) and _is_assistants(item)):
        return False
    is_whole = any(part["type"] == "message" for part in message)
    return item["type"] in CALLS or not is_whole or any(part["type"] in CALLS for part in message)


def _is_assistants(item: Item) -> bool:
    return item["type"] in CALLS or item["type"] == "reasoning" or item.get("role") == "assistant"


def _start(whole: Sequence[Sequence[Item]], limit: int, asked: Sequence[Item]) -> int:
    pairs = list(_pairs([*whole, list(asked)]))
    wanted = max(0, len(whole) - limit)
    after = (start for start in range(wanted, len(whole) + 1) if _is_clean(start, pairs))
    before = (start for start in range(wanted, -1, -1) if _is_clean(start, pairs))
    starts = [*after] or [*before]
    # where it can, a conversation begins with what its user says: many chat templates want that
    return next((start for start in starts if start < len(whole) and _is_users(whole[start])), starts[0])


def _is_users(message: Sequence[Item]) -> bool:
    return message[0].get("role") == "user" or message[0]["type"] == "compaction"


def _is_clean(start: int, pairs: Sequence[tuple[int, int]]) -> bool:
    return not any(call < start <= output for call, output in pairs)


def _pairs(whole: Sequence[Sequence[Item]]) -> Iterator[tuple[int, int]]:
    """The places of calls and of their results. A call id may be used again: the latest call is meant."""
    calls: dict[str, int] = {}
    for index, message in enumerate(whole):
        for item in message:
            if item["type"] in CALLS:
                calls[item["call_id"]] = index
            elif item["type"] in OUTPUTS and item["call_id"] in calls:
                yield calls[item["call_id"]], index
