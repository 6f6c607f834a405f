"""Which conversation a chat names: by the header X-Conversation-ID, or by the member `conversation`."""

from __future__ import annotations

from headrace.errors import BadRequest
from headrace.wire.chat import ChatBody, ConversationName
from headrace.wire.conversations import check_id

HEADER = "X-Conversation-ID"
NEW = "new"  # instead of an id: one that is created


def conversation_named(body: ChatBody, header: str | None) -> str | None:
    """An id, or NEW. None: the chat is stateless. Raises BadRequest."""
    member = body.conversation.id if isinstance(body.conversation, ConversationName) else body.conversation
    if member is None and header is None:
        return None
    if None not in (member, header) and member != header:
        raise BadRequest(f"conversation and the header {HEADER} differ", param="conversation")
    named = str(header if member is None else member)
    if (body.n or 1) > 1:
        raise BadRequest("n: a conversation goes on with one answer, not several", param="n")
    if body.continue_final_message:
        raise BadRequest(
            "continue_final_message and a conversation exclude each other", param="continue_final_message"
        )
    return named if named == NEW else check_id(named, "conversation")
