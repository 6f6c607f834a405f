"""Corrections of what Anthropic is known to refuse. Requests that are relayed are changed in place, and
everything else stays byte for byte; translated ones (messages.py) are corrected while they are written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from operator import is_not
from typing import Any

from headrace.backends.anthropic.thinking import Abilities
from headrace.backends.writing import opaque
from headrace.dialects.anthropic import image_type
from headrace.dialects.values import Object, an_object, objects
from headrace.finite import dumped_pieces
from headrace.offload import while_wanted
from headrace.relay_types import Verbatim

NAME = re.compile("[a-zA-Z0-9_-]{1,128}")
ID, NO_ID = re.compile("[a-zA-Z0-9_-]+"), re.compile("[^a-zA-Z0-9_-]")
ID_MEMBERS = ("id", "tool_use_id")
MAX_USER = 256  # characters of a user's id
PERSONAL = re.compile(r"@|^\+?[\d\s().-]{7,}$")  # an e-mail address or a telephone number
UNSIGNED = "messages.content.thinking"
SIGNATURES = {"thinking": "signature", "redacted_thinking": "data"}  # type of a thought → its signed member
Json = Mapping[str, Any]


def can_be_relayed(members: Json) -> bool:
    """Whether all tool names are valid: a renamed tool would have to be renamed back in the answer."""
    names = (tool.get("name") for tool in objects(members.get("tools")))
    return all(not isinstance(name, str) or NAME.fullmatch(name) for name in names)


def correct_body(body: Verbatim, model: str, abilities: Abilities) -> tuple[bytes, tuple[str, ...]]:
    """Return the body for a model, and the paths of members that were left out."""
    members, ignored = body.members, list[str]()
    changes: dict[str, object] = {"model": model, **_metadata(an_object(members.get("metadata")))}
    messages = members.get("messages")
    if isinstance(messages, list):
        new = [_message(message, ignored) for message in while_wanted(messages)]
        new[-1:] = map(trimmed, new[-1:])
        if any(map(is_not, new, messages)):
            changes["messages"] = messages = new
    thinks = an_object(members.get("thinking")).get("type") == "enabled"
    if not abilities.is_adaptive and thinks and _is_cut_off(objects(messages)):
        changes["thinking"] = {"type": "disabled"}
        ignored.append("thinking")
    # 1 is the default of both
    if abilities.takes_one and all(members.get(name) not in (None, 1) for name in ("temperature", "top_p")):
        ignored.append("top_p")
        # Verbatim can change members but not remove one
        left = {name: value for name, value in members.items() if name != "top_p"}
        return "".join(dumped_pieces({**left, **changes})).encode(), tuple(ignored)
    return body.changed(changes), tuple(ignored)


def _metadata(metadata: Json) -> dict[str, object]:
    user = metadata.get("user_id")
    if not isinstance(user, str) or user_id(user) == user:
        return {}
    return {"metadata": {**metadata, "user_id": user_id(user)}}


def _is_cut_off(messages: list[Object]) -> bool:
    """Whether the last message has results of calls in a turn that does not begin with a thought."""
    types = [[block.get("type") for block in objects(message.get("content"))] for message in messages[-2:]]
    if len(types) < 2 or "tool_use" not in types[0] or "tool_result" not in types[1]:
        return False
    return types[0][0] not in ("thinking", "redacted_thinking")


def _message(message: Any, ignored: list[str]) -> Any:
    """Return the same object, unless something in it has to change."""
    content = an_object(message).get("content")
    signed = (
        [block for block in content if not is_unsigned_thought(block)] if isinstance(content, list) else []
    )
    if not signed or not isinstance(content, list):
        return message
    if len(signed) < len(content) and UNSIGNED not in ignored:
        ignored.append(UNSIGNED)
    new = [_block(block) for block in signed]
    is_same = len(new) == len(content) and not any(map(is_not, new, content))
    return message if is_same else {**message, "content": new}


def is_unsigned_thought(block: Any) -> bool:
    """Whether a block is a thought without Anthropic's signature, from another model."""
    signature = SIGNATURES.get(str(an_object(block).get("type")))
    return signature is not None and not block.get(signature)


def _block(block: Any) -> Any:
    """Return the same block, unless it contains an image whose type has another name, or a refused id."""
    for name in ID_MEMBERS:
        id = an_object(block).get(name)
        if isinstance(id, str) and ID.fullmatch(id) is None:
            block = {**block, name: call_id(id)}
    inner = an_object(block).get("content")
    if isinstance(inner, list):
        new = [_block(one) for one in inner]
        if any(map(is_not, new, inner)):
            return {**block, "content": new}
    return with_image_type(block)


def call_id(id: str) -> str:
    """Replace another provider's id of a call by one that Anthropic accepts, and that no other id becomes."""
    return id if ID.fullmatch(id) else f"{NO_ID.sub('_', id)}_{opaque(id)[:8]}"


def with_image_type(block: Any) -> Any:
    """Return the same block, or an image with its own media type, by the name that Anthropic uses."""
    source = an_object(an_object(block).get("source"))
    type = source.get("media_type")
    if not isinstance(type, str) or block.get("type") != "image":
        return block
    plain = image_type(type, str(source.get("data", "")))
    return block if plain == type else {**block, "source": {**source, "media_type": plain}}


def user_id(user: str) -> str:
    """Replace a user's name by a hash if Anthropic would refuse it: an e-mail address, a telephone number, a
    long name.
    """
    return user if len(user) <= MAX_USER and not PERSONAL.search(user) else opaque(user)


def trimmed(message: Any) -> Any:
    """Remove white space at the end of an assistant message, which Anthropic refuses in the last one."""
    content = an_object(message).get("content")
    if not content or message.get("role") != "assistant":
        return message
    if isinstance(content, list):
        last = an_object(content[-1])
        text = _trimmed_text(last.get("text"))
        return message if text is None else {**message, "content": [*content[:-1], {**last, "text": text}]}
    text = _trimmed_text(content)
    return message if text is None else {**message, "content": text}


def _trimmed_text(text: object) -> str | None:
    """None: there is no white space at its end, or nothing else."""
    return text.rstrip() if isinstance(text, str) and text.rstrip() not in (text, "") else None
