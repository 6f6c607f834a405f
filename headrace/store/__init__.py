"""What outlives a request: conversations, responses, stored chat completions. SQLAlchemy Core, one
implementation for SQLite and PostgreSQL.
"""

from headrace.store.records import (
    Chain,
    Held,
    Page,
    StoredCompletion,
    StoredConversation,
    StoredItem,
    StoredResponse,
)
from headrace.store.store import Store

__all__ = [
    "Chain",
    "Held",
    "Page",
    "Store",
    "StoredCompletion",
    "StoredConversation",
    "StoredItem",
    "StoredResponse",
]
