"""Items of the Responses and Conversations APIs as JSON. Items are stored as clients see them.

Items are made from a caller's input (`to_items`), from a model's answer (`of_choice`) and from a chat's
messages (`of_chat`). `to_messages` turns items into the messages that a model reads.
"""

from headrace.wire.items.build import Item, compaction, of_chat, of_choice
from headrace.wire.items.equality import content_hash
from headrace.wire.items.ids import new_id
from headrace.wire.items.input_models import ItemBody
from headrace.wire.items.messages import to_messages
from headrace.wire.items.normalize import references, resolved, to_items

__all__ = [
    "Item", "ItemBody", "compaction", "content_hash", "new_id", "of_chat", "of_choice", "references",
    "resolved", "to_items", "to_messages",
]  # fmt: skip
