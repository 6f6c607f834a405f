"""Which conversation a chat names: by the header X-Conversation-ID, or by the members `conversation` or
`conversation_id`.
"""

from __future__ import annotations

from headrace.errors import BadRequest
from headrace.wire.chat import ChatBody, ConversationName
from headrace.wire.conversations import check_id

HEADER = "X-Conversation-ID"
NEW = "new"  # instead of an id: one that is created


def conversation_named(body: ChatBody, header: str | None) -> str | None:
    """An id, or NEW. None: the chat is stateless. Raises BadRequest."""
    member = body.conversation.id if isinstance(body.conversation, ConversationName) else body.conversation
    names = {HEADER: header, "conversation_id": body.conversation_id, "conversation": member}
    given = {name: value for name, value in names.items() if value is not None}
    if not given:
        return None
    if len(set(given.values())) > 1:
        *others, last = given
        told = [f"the header {name}" if name == HEADER else name for name in (last, *others)]
        raise BadRequest(f"{' and '.join(told)} differ", param=last)
    named = next(iter(given.values()))
    if (body.n or 1) > 1:
        raise BadRequest("n: a conversation goes on with one answer, not several", param="n")
    if body.continue_final_message:
        raise BadRequest(
            "continue_final_message and a conversation exclude each other", param="continue_final_message"
        )
    return named if named == NEW else check_id(named, "conversation")
