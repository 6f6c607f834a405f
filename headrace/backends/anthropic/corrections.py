"""Prepares requests in Anthropic's dialect for relaying: members that Anthropic is known to refuse are
changed in place, and everything else stays byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from headrace.backends.anthropic.request import user_id
from headrace.backends.anthropic.thinking import Abilities
from headrace.dialects.anthropic import IMAGE_TYPES, image_type
from headrace.finite import dumped_pieces
from headrace.verbatim import Verbatim

NAME = re.compile("[a-zA-Z0-9_-]{1,128}")
Json = Mapping[str, Any]


def can_be_relayed(members: Json) -> bool:
    """Whether all tool names are valid: a renamed tool would have to be renamed back in the answer."""
    tools = members.get("tools")
    return not isinstance(tools, list) or all(_has_good_name(tool) for tool in tools)


def _has_good_name(tool: object) -> bool:
    name = tool.get("name") if isinstance(tool, dict) else None
    return not isinstance(name, str) or NAME.fullmatch(name) is not None


def corrected(body: Verbatim, model: str, abilities: Abilities) -> tuple[bytes, tuple[str, ...]]:
    """Return the body for a model, and the paths of members that were left out."""
    members, ignored = body.members, list[str]()
    changes: dict[str, object] = {"model": model}
    messages = members.get("messages")
    if isinstance(messages, list):
        new = [_message(message, ignored) for message in messages]
        new[-1:] = [_trimmed(message) for message in new[-1:]]
        if any(one is not other for one, other in zip(new, messages, strict=True)):
            changes["messages"] = new
    changes |= _metadata(members.get("metadata"))
    if not abilities.is_adaptive and _thinks(members) and _is_cut_off(changes.get("messages", messages)):
        changes["thinking"] = {"type": "disabled"}
        ignored.append("thinking")
    if abilities.takes_one and _differs(members, "temperature") and _differs(members, "top_p"):
        ignored.append("top_p")
        # Verbatim can change members but not remove one
        left = {name: value for name, value in members.items() if name != "top_p"}
        return "".join(dumped_pieces({**left, **changes})).encode(), tuple(ignored)
    return body.changed(changes), tuple(ignored)


def _metadata(metadata: object) -> dict[str, object]:
    user = metadata.get("user_id") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(user, str) or user_id(user) == user:
        return {}
    return {"metadata": {**metadata, "user_id": user_id(user)}}


def _thinks(members: Json) -> bool:
    thinking = members.get("thinking")
    return isinstance(thinking, dict) and thinking.get("type") == "enabled"


def _is_cut_off(messages: object) -> bool:
    """Whether the last message has results of calls in a turn that does not begin with a thought."""
    last = messages[-2:] if isinstance(messages, list) else []
    contents = [message.get("content") if isinstance(message, dict) else None for message in last]
    types = [
        [block.get("type") for block in content if isinstance(block, dict)]
        for content in contents
        if isinstance(content, list)
    ]
    if len(types) < 2 or "tool_use" not in types[0] or "tool_result" not in types[1]:
        return False
    return types[0][0] not in ("thinking", "redacted_thinking")


def _differs(members: Json, name: str) -> bool:
    """Whether a member is present and not 1, its default."""
    return members.get(name) not in (None, 1)


def _message(message: Any, ignored: list[str]) -> Any:
    """Return the same object, unless something in it has to change."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return message
    kept = [block for block in content if not _is_unsigned(block)]
    if not kept:
        return message
    if len(kept) < len(content) and "messages.content.thinking" not in ignored:
        ignored.append("messages.content.thinking")
    new = [_block(block) for block in kept]
    is_same = len(new) == len(content) and all(one is other for one, other in zip(new, content, strict=True))
    return message if is_same else {**message, "content": new}


def _is_unsigned(block: Any) -> bool:
    """Whether a block is a thought without Anthropic's signature, from another model."""
    return isinstance(block, dict) and block.get("type") == "thinking" and not block.get("signature")


def _block(block: Any) -> Any:
    """Replace media types of images by the names that Anthropic uses."""
    if not isinstance(block, dict):
        return block
    inner, source = block.get("content"), block.get("source")
    if isinstance(inner, list):
        new = [_block(one) for one in inner]
        if any(one is not other for one, other in zip(new, inner, strict=True)):
            return {**block, "content": new}
    if block.get("type") != "image" or not isinstance(source, dict):
        return block
    type = source.get("media_type")
    if not isinstance(type, str) or type in IMAGE_TYPES:
        return block
    return {**block, "source": {**source, "media_type": image_type(type)}}


def _trimmed(message: Any) -> Any:
    """Remove white space at the end of an assistant message, which Anthropic refuses in the last one."""
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return message
    content = message.get("content")
    if isinstance(content, str):
        text = content.rstrip()
        return message if text in (content, "") else {**message, "content": text}
    last = content[-1] if isinstance(content, list) and content else None
    if not isinstance(content, list) or not isinstance(last, dict):
        return message
    end = last.get("text")
    if not isinstance(end, str) or end.rstrip() in (end, ""):
        return message
    return {**message, "content": [*content[:-1], {**last, "text": end.rstrip()}]}
