"""Items of the Responses and Conversations APIs as JSON. Items are stored as clients see them.

Items are made from a caller's input (`to_items`), from a model's answer (`of_choice`) and from a chat's
messages (`of_chat`). `to_messages` turns items into the messages that a model reads.
"""

from headrace.wire.items.build import Item, compaction, new_id, of_chat, of_choice
from headrace.wire.items.input import ItemBody, references, resolved, to_items
from headrace.wire.items.messages import to_messages

__all__ = [
    "Item", "ItemBody", "compaction", "new_id", "of_chat", "of_choice", "references",
    "resolved", "to_items", "to_messages",
]  # fmt: skip
