"""Finds the messages of a chat that are stored already: clients send their whole history each time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from headrace.offload import check_wanted
from headrace.wire.items import Item

SYSTEM = ("system", "developer")
CALLS = ("function_call", "custom_tool_call")
OMITTED = ("reasoning",)  # types of items that clients leave out when they send an answer back

# members of items that a server adds or a client leaves out
BESIDES = {"id", "status", "phase", "created_by", "encrypted_content", "summary"}


def is_system(item: Item) -> bool:
    return item.get("role") in SYSTEM


def is_compared(item: Item) -> bool:
    """Whether a client that sends its history again sends this item, and in its place."""
    return not is_system(item) and item["type"] not in OMITTED


def new_messages(stored: Sequence[Item], sent: Sequence[Sequence[Item]]) -> list[int]:
    """The indices of the messages that are not stored yet. `sent`: the items of each message.

    The stored items are searched for their longest end that `sent` begins with: those messages are stored. A
    system message among or before them is stored if an equal one is, anywhere. An answer whose text was
    interrupted by thoughts is several items, but one message to a client.
    """
    systems = {content_hash(item) for item in stored if is_system(item)}
    spoken = [index for index, items in enumerate(sent) if any(map(is_compared, items))]
    messages = [sent[index] for index in spoken]
    compared = [item for item in stored if is_compared(item)]
    joined = _joined(compared)
    num_stored = max(
        _num_stored(each, messages) for each in ([compared] if joined == compared else [compared, joined])
    )
    first_new = spoken[num_stored] if num_stored < len(spoken) else len(sent)
    spoken_indices = set(spoken)
    return [
        index
        for index, items in enumerate(sent)
        if index >= first_new
        or (index not in spoken_indices and not all(content_hash(item) in systems for item in items))
    ]


def _num_stored(stored: Sequence[Item], sent: Sequence[Sequence[Item]]) -> int:
    """How many messages from the beginning of `sent` the stored items end with."""
    items = [content_hash(item) for message in sent for item in message if is_compared(item)]
    ends, count = {0: 0}, 0  # number of items → number of whole messages that they make
    for index, message in enumerate(sent):
        count += sum(map(is_compared, message))
        ends[count] = index + 1
    hashes = [content_hash(item) for item in stored]
    return ends[next(length for length in _overlaps(hashes, items) if length in ends)]


def _joined(stored: Sequence[Item]) -> list[Item]:
    """The items with consecutive ones of the assistant as one message: its text, then its calls."""
    whole: list[Item] = []
    for is_answer, run in groupby(stored, _is_assistants):
        items = list(run)
        if is_answer:
            messages = [item for item in items if item["type"] == "message"]
            items = [*_message(messages), *(item for item in items if item["type"] != "message")]
        whole += items
    return whole


def _is_assistants(item: Item) -> bool:
    return item["type"] in CALLS or item.get("role") == "assistant"


def _message(messages: Sequence[Item]) -> list[Item]:
    if len(messages) < 2 or any(isinstance(item["content"], str) for item in messages):
        return list(messages)
    return [{**messages[0], "content": [part for item in messages for part in item["content"]]}]


def _overlaps(text: Sequence[bytes], pattern: Sequence[bytes]) -> list[int]:
    """The lengths of the prefixes of `pattern` that `text` ends with, longest first; 0 is the last.

    The algorithm is that of Knuth, Morris and Pratt, which is linear even if all items are equal.
    """
    if not pattern:
        return [0]
    borders = [0] * len(pattern)  # the longest proper prefix of pattern[: index + 1] that it also ends with
    length = 0
    for index in range(1, len(pattern)):
        length = _longer(pattern, borders, length, pattern[index])
        borders[index] = length
    length = 0
    for item in text[-len(pattern) :]:
        length = _longer(pattern, borders, length, item)
    lengths = [length]
    while lengths[-1]:
        lengths.append(borders[lengths[-1] - 1])
    return lengths


def _longer(pattern: Sequence[bytes], borders: Sequence[int], length: int, item: bytes) -> int:
    """One step of Knuth, Morris and Pratt's search: a text ends with `length` items of `pattern`, and `item`
    follows. Returns how many items of `pattern` it ends with then.
    """
    while length and pattern[length] != item:
        length = borders[length - 1]
    return length + 1 if pattern[length] == item else 0


def content_hash(item: Item) -> bytes:
    """Hash an item's content. Ids, statuses, the division of text into parts and white space around it do not
    count: clients often trim texts.
    """
    check_wanted()
    content = {name: _value(name, value) for name, value in item.items() if name not in BESIDES}
    try:
        written = json.dumps(content, sort_keys=True)
    except RecursionError:  # deeply nested arguments; their text is hashed instead
        written = json.dumps({**content, "arguments": item["arguments"]}, sort_keys=True)
    return hashlib.sha256(written.encode()).digest()


def _value(name: str, value: Any) -> Any:
    if name in ("content", "output"):
        return _parts(value or "")
    return _parsed(value) if name == "arguments" else value


def _parts(content: str | Sequence[Mapping[str, Any]]) -> list[Any]:
    """Join adjacent texts; other parts stay between them."""
    if isinstance(content, str):
        return [content.strip()] if content.strip() else []
    joined: list[Any] = [""]
    for part in content:
        text = part.get("text", part.get("refusal"))
        if text is None:
            joined += [{name: value for name, value in part.items() if name != "detail"}, ""]
        else:
            joined[-1] += text
    trimmed = [part.strip() if isinstance(part, str) else part for part in joined]
    return [part for part in trimmed if part]


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments or "{}", parse_float=_number)
    except (ValueError, RecursionError):
        return arguments


def _number(text: str) -> float | int:
    """Read 1.0 as 1, which JavaScript writes for it."""
    value = float(text)
    return int(value) if value.is_integer() else value
