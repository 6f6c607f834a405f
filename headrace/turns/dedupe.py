"""Which of a chat's messages are stored already: clients send their whole history with every question."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.wire.items import Item, told

SYSTEM = ("system", "developer")
UNTOLD = ("reasoning",)  # what clients leave out when they send an answer back


def is_system(item: Item) -> bool:
    return item.get("role") in SYSTEM


def is_compared(item: Item) -> bool:
    return not is_system(item) and item["type"] not in UNTOLD


def new_messages(stored: Sequence[Item], sent: Sequence[Sequence[Item]]) -> list[int]:
    """The indices of those that are not stored yet; `sent`: the items of each message. The longest end of
    what is stored that the messages begin with is there already, and so is a system message before or amid
    that, if the same one is stored.
    """
    systems = {told(item) for item in stored if is_system(item)}
    spoken = [index for index, items in enumerate(sent) if any(map(is_compared, items))]
    said = set(spoken)
    again = _num_again(stored, [sent[index] for index in spoken])
    first_new = spoken[again] if again < len(spoken) else len(sent)
    return [
        index
        for index, items in enumerate(sent)
        if index >= first_new or (index not in said and not all(told(item) in systems for item in items))
    ]


def _num_again(stored: Sequence[Item], sent: Sequence[Sequence[Item]]) -> int:
    """How many messages of `sent`, from its first, the stored items end with."""
    items = [told(item) for message in sent for item in message if is_compared(item)]
    ends, count = {0: 0}, 0  # number of items → of whole messages
    for index, message in enumerate(sent):
        count += sum(map(is_compared, message))
        ends[count] = index + 1
    said = [told(item) for item in stored if is_compared(item)]
    return ends[next(length for length in _overlaps(said, items) if length in ends)]


def _overlaps(text: Sequence[bytes], pattern: Sequence[bytes]) -> list[int]:
    """The lengths of the beginnings of `pattern` that `text` ends with, longest first; 0 is the last. Knuth,
    Morris and Pratt's way: linear also where all items are alike.
    """
    if not pattern:
        return [0]
    borders = [0] * len(pattern)  # of pattern[: index + 1]
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
    """The longest beginning of `pattern` that ends in `item`, given the one that ended before it."""
    while length and pattern[length] != item:
        length = borders[length - 1]
    return length + 1 if pattern[length] == item else 0
