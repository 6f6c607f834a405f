"""What a model reads of a long conversation: its system messages, and the most recent messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from headrace.turns.dedupe import CALLS, is_system
from headrace.wire.items import Item

GOING_ON = (*CALLS, "reasoning")  # an assistant's message with text goes on with these
OUTPUTS = ("function_call_output", "custom_tool_call_output")


def window(items: Sequence[Item], limit: int, new_items: Sequence[Item]) -> list[Item]:
    """System and developer messages, then at most `limit` of the last messages.

    There are fewer where a call would be separated from its result, and more where one of `new_items`, which
    the client adds, is the result of an older call.
    """
    systems = [item for item in items if is_system(item)]
    whole = messages([item for item in items if not is_system(item)])
    start = _start(whole, limit, new_items)
    return [*systems, *(item for message in whole[start:] for item in message)]


def without_unanswered(items: Sequence[Item], new_items: Sequence[Item]) -> list[Item]:
    """Leave out calls without a result: models do not continue from them."""
    answered: set[object] = {item["call_id"] for item in new_items if item["type"] in OUTPUTS}
    rest: list[Item] = []
    for item in reversed(items):
        if item["type"] in OUTPUTS:
            answered.add(item["call_id"])
        if item["type"] not in CALLS or item["call_id"] in answered:
            rest.append(item)
    return rest[::-1]


def messages(items: Sequence[Item]) -> list[list[Item]]:
    """Group items into the messages that `to_messages` would make of them."""
    groups: list[list[Item]] = []
    has_text = has_call = has_thought = False  # of the last message; has_thought: after its text
    for item in items:
        continues = bool(groups) and _is_assistants(groups[-1][-1]) and _is_assistants(item)
        if continues and (item["type"] in GOING_ON or has_call or has_thought or not has_text):
            groups[-1].append(item)
        else:
            groups.append([item])
            has_text = has_call = has_thought = False
        has_thought = item["type"] == "reasoning" and has_text
        has_text = has_text or item["type"] == "message"
        has_call = has_call or item["type"] in CALLS
    return groups


def _is_assistants(item: Item) -> bool:
    return item["type"] in CALLS or item["type"] == "reasoning" or item.get("role") == "assistant"


def _start(whole: Sequence[Sequence[Item]], limit: int, new_items: Sequence[Item]) -> int:
    is_clean = _clean([*whole, list(new_items)])
    wanted = max(0, len(whole) - limit)
    after = [start for start in range(wanted, len(whole) + 1) if is_clean[start]]
    starts = after or [start for start in range(wanted, -1, -1) if is_clean[start]]
    # begin with a user's message where possible: many chat templates require it
    return next((start for start in starts if start < len(whole) and _is_users(whole[start])), starts[0])


def _is_users(message: Sequence[Item]) -> bool:
    return message[0].get("role") == "user" or message[0]["type"] == "compaction"


def _clean(whole: Sequence[Sequence[Item]]) -> list[bool]:
    """For each message, whether a window may begin with it: no earlier call has its result at it or later."""
    changes = [0] * (len(whole) + 1)
    for call, output in _pairs(whole):
        changes[call + 1] += 1
        changes[output + 1] -= 1
    return [num_open == 0 for num_open in accumulate(changes)]


def _pairs(whole: Sequence[Sequence[Item]]) -> Iterator[tuple[int, int]]:
    """The indices (call, result) of messages. A call id may be used again: a result belongs to the latest
    call.
    """
    calls: dict[str, int] = {}
    for index, message in enumerate(whole):
        for item in message:
            if item["type"] in CALLS:
                calls[item["call_id"]] = index
            elif item["type"] in OUTPUTS and item["call_id"] in calls:
                yield calls[item["call_id"]], index
