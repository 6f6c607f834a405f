"""Thoughts that stand as parts of a message's content, as Mistral's models tell them and clients send them
back: they become what every other model's thoughts are, `reasoning_content`.
"""

from __future__ import annotations

from typing import Any


def thoughts_apart(message: Any) -> Any:
    """The message as it is, or, of an assistant's with such parts, a copy without them. Parts of another
    shape stay where they are, and are refused there.
    """
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list) or message.get("role") != "assistant":
        return message
    thoughts = [thought for part in content if (thought := _thought(part)) is not None]
    if not thoughts:
        return message
    rest = [part for part in content if _thought(part) is None]
    said = message.get("reasoning_content") or message.get("reasoning") or "".join(thoughts)
    return {**message, "content": rest or None, "reasoning_content": said}


def _thought(part: Any) -> str | None:
    """None: it is a part of another kind."""
    if not isinstance(part, dict) or part.get("type") != "thinking":
        return None
    told = part.get("thinking")
    if isinstance(told, str):
        return told
    texts = [_text(piece) for piece in told] if isinstance(told, list) else [None]
    found = [text for text in texts if text is not None]
    return "".join(found) if len(found) == len(texts) else None


def _text(piece: Any) -> str | None:
    text = piece.get("text") if isinstance(piece, dict) else None
    return text if isinstance(text, str) else None
