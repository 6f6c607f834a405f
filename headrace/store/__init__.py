"""Conversations, responses and chat completions in a database: SQLAlchemy Core, one implementation for SQLite
and PostgreSQL.
"""

from headrace.store.records import (
    Chain,
    ConversationLock,
    Order,
    Page,
    StoredAttachment,
    StoredCompletion,
    StoredConversation,
    StoredItem,
    StoredKey,
    StoredPreset,
    StoredProfile,
    StoredResponse,
    UsageRow,
)
from headrace.store.store import Store

__all__ = [
    "Chain", "ConversationLock", "Order", "Page", "Store", "StoredAttachment", "StoredCompletion",
    "StoredConversation", "StoredItem", "StoredKey", "StoredPreset", "StoredProfile", "StoredResponse",
    "UsageRow",
]  # fmt: skip
