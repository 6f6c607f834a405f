"""Items of Responses and Conversations as JSON, and the messages that a model reads.

An item is stored as clients see it. Three ways lead here: what a caller sends (`to_items`), what a model
answers (`of_choice`), and a chat's messages (`of_chat`); one way leads out (`to_messages`).
"""

from headrace.wire.items.build import Item, compaction, of_chat, of_choice
from headrace.wire.items.equality import same, told
from headrace.wire.items.ids import new_id
from headrace.wire.items.input_models import AnyItem, ItemBody
from headrace.wire.items.messages import to_messages
from headrace.wire.items.normalize import references, resolved, to_items

__all__ = [
    "AnyItem",
    "Item",
    "ItemBody",
    "compaction",
    "new_id",
    "of_chat",
    "of_choice",
    "references",
    "resolved",
    "same",
    "to_items",
    "to_messages",
    "told",
]
