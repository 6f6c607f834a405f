"""Writes a conversation for Anthropic: a separate system prompt, alternating turns, content as blocks.

If the last message is the assistant's, the API continues it.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from headrace.backends.anthropic.corrections import (
    call_id,
    is_unsigned_thought,
    trimmed,
    with_image_type,
)
from headrace.backends.writing import ROLES, Writing, opaque
from headrace.base64_text import decoded_pieces
from headrace.dialects.anthropic import IMAGE_TYPES, image_type, thinking_block
from headrace.errors import BadRequest, UnsupportedParameter
from headrace.offload import while_wanted
from headrace.types import Json, Media, Message, Thought, ToolCall

Block = dict[str, Any]
DATA_URL = re.compile(r"data:(?P<type>[^;,]*+)[^,]*?;base64,(?P<data>.*)", re.DOTALL)


def to_system(messages: Sequence[Message]) -> list[Json]:
    """The texts of all system and developer messages. Raises BadRequest."""
    return [
        block
        for index, message in enumerate(messages)
        if message.role in ("system", "developer")
        for block in (message.blocks or _only_text(index, message))
    ]


def to_roles(messages: Sequence[Message]) -> list[str]:
    """The roles of all messages except system and developer."""
    return [message.role for message in messages if message.role not in ("system", "developer")]


def is_unsigned(messages: Sequence[Message]) -> bool:
    """Whether the last messages are results of calls in a turn that does not begin with a signed thought,
    with which older models cannot think.
    """
    spoken = [message for message in messages if message.role not in ("system", "developer")]
    num_last = next((n for n, message in enumerate(reversed(spoken)) if message.role == "assistant"), None)
    if num_last is None or all(message.role != "tool" for message in spoken[len(spoken) - num_last :]):
        return False
    turn = list(takewhile(lambda message: message.role == "assistant", reversed(spoken[: -num_last or None])))
    return bool(turn) and not any(_can_be_replayed(thought) for thought in turn[-1].thoughts)


def to_turns(messages: Sequence[Message], writing: Writing) -> list[dict[str, Any]]:
    """Join consecutive messages of one side into turns, with tool results first. Raises BadRequest."""
    turns: list[dict[str, Any]] = []
    for index, message in enumerate(while_wanted(with_unique_ids(messages))):
        if message.role in ("system", "developer"):
            if turns and ROLES not in writing.ignored:  # it is moved to the beginning
                writing.ignored.append(ROLES)
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(index, message, writing)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    for turn in turns:
        if turn["role"] == "user":
            turn["content"].sort(key=lambda block: block["type"] != "tool_result")
    turns[-1:] = map(trimmed, turns[-1:])
    return turns


def with_unique_ids(messages: Sequence[Message]) -> Sequence[Message]:
    """Give calls ids of their own: some providers number them anew in each answer, which Anthropic refuses.
    A result belongs to the first call with its id that has none yet.
    """
    ids = Counter(call.id for message in messages for call in message.tool_calls)
    if ids.total() == len(ids):
        return messages
    unanswered = {id: deque[str]() for id in ids}
    seen, answered = Counter[str](), dict[str, str]()
    renamed: list[Message] = []
    for message in messages:
        calls = list[ToolCall]()
        for call in message.tool_calls:
            seen[call.id] += 1
            end = "" if seen[call.id] == 1 else f"_{opaque(f'{call.id} {seen[call.id]}')[:8]}"
            calls.append(replace(call, id=call.id + end))
            unanswered[call.id].append(call.id + end)
        if calls:
            new = iter(calls)
            order = (next(new, piece) if isinstance(piece, ToolCall) else piece for piece in message.in_order)
            message = replace(message, tool_calls=tuple(calls), in_order=tuple(order))
        elif message.tool_call_id in unanswered:
            if waiting := unanswered[message.tool_call_id]:
                answered[message.tool_call_id] = waiting.popleft()
            message = replace(message, tool_call_id=answered[message.tool_call_id])
        renamed.append(message)
    return renamed


def _blocks(index: int, message: Message, writing: Writing) -> list[Block]:
    if message.blocks:
        return _as_written(f"messages.{index}.content", message.blocks, writing)
    if message.role == "assistant":
        if message.in_order:
            return [block for piece in message.in_order for block in _piece(piece, writing)]
        thoughts = [block for thought in message.thoughts for block in _piece(thought, writing)]
        calls = [_tool_use(call, writing) for call in message.tool_calls]
        return [*thoughts, *_only_text(index, message), *calls]
    if message.role == "tool":
        return [_tool_result(index, message)]
    return _content(index, message)


def _as_written(param: str, blocks: Sequence[Json], writing: Writing) -> list[Block]:
    """Blocks in Anthropic's own dialect, changed only where it would refuse them. Raises BadRequest."""
    sendable = (block for block in blocks if not (_is_blank(block) or is_unsigned_thought(block)))
    return [_corrected(param, block, writing) for block in sendable]


def _is_blank(block: Json) -> bool:
    return block["type"] == "text" and not block["text"].strip()


def _corrected(param: str, block: Json, writing: Writing) -> Block:
    if block["type"] == "tool_use":
        return {**block, "id": call_id(block["id"]), "name": writing.tool(block["name"])}
    if block["type"] == "tool_result":
        content, id = block.get("content"), call_id(block["tool_use_id"])
        inner = {"content": _as_written(param, content, writing)} if isinstance(content, list) else {}
        return {**block, "tool_use_id": id, **inner}
    if block["type"] == "image" and "media_type" in block["source"]:
        _known_type(param, "image", block["source"]["media_type"], block["source"].get("data", ""))
    return dict(with_image_type(block))


def _text(text: str) -> list[Block]:
    """A text block, or none for a blank text, which the API refuses."""
    return [{"type": "text", "text": text}] if text.strip() else []


def _only_text(index: int, message: Message) -> list[Block]:
    if any(isinstance(part, Media) for part in message.parts):
        raise UnsupportedParameter(
            f"Anthropic takes only text from {message.role}", param=f"messages.{index}.content"
        )
    return _text(message.text)


def _content(index: int, message: Message) -> list[Block]:
    blocks: list[Block] = []
    for at, part in enumerate(message.parts or (message.text,)):
        param = f"messages.{index}.content.{at}"
        blocks += _text(part) if isinstance(part, str) else [_media(param, part)]
    return blocks


def _tool_result(index: int, message: Message) -> Block:
    if message.tool_call_id is None:
        param = f"messages.{index}.tool_call_id"
        raise BadRequest(f"{param} is needed: which call is this the result of?", param=param)
    result = {"type": "tool_result", "tool_use_id": call_id(message.tool_call_id)}
    blocks = _content(index, message)
    return {**result, "content": blocks} if blocks else result


def _piece(piece: str | Thought | ToolCall, writing: Writing) -> list[Block]:
    if isinstance(piece, ToolCall):
        return [_tool_use(piece, writing)]
    if isinstance(piece, Thought):
        return [dict(thinking_block(piece))] if _can_be_replayed(piece) else []
    return _text(piece)


def _tool_use(call: ToolCall, writing: Writing) -> Block:
    arguments = writing.arguments(call.arguments, call.name)
    return {"type": "tool_use", "id": call_id(call.id), "name": writing.tool(call.name), "input": arguments}


def _can_be_replayed(thought: Thought) -> bool:
    return thought.signature is not None or thought.redacted is not None


def _media(param: str, media: Media) -> Block:
    source = _source(param, media)
    title = {"title": media.name} if media.kind == "document" and media.name else {}
    return {"type": media.kind, "source": source, **title}


def _source(param: str, media: Media) -> Block:
    inline = DATA_URL.fullmatch(media.url or "")
    if inline is not None:
        data, media_type = inline["data"], inline["type"] or None
    elif media.url is not None:
        return {"type": "url", "url": media.url}
    else:
        data, media_type = media.data or "", media.media_type
    if media_type is None:
        raise BadRequest.at(param, f"what kind of {media.kind} is it? It has no media type")
    media_type = _known_type(param, media.kind, media_type, data)
    if media.kind == "document" and media_type.startswith("text/"):
        return {"type": "text", "media_type": "text/plain", "data": _decoded(param, data)}
    return {"type": "base64", "media_type": media_type, "data": data}


def _known_type(param: str, kind: str, media_type: str, data: str) -> str:
    """Anthropic's name for a media type. Raises BadRequest for an image type that it does not read."""
    plain = image_type(media_type, data if kind == "image" else "")
    if kind == "image" and plain not in IMAGE_TYPES:
        raise BadRequest.at(
            param, f"Anthropic reads images of the types {', '.join(IMAGE_TYPES)}, not {plain[:100]}"
        )
    return plain


def _decoded(param: str, data: str) -> str:
    try:
        return b"".join(decoded_pieces(data)).decode()
    except ValueError as exc:
        raise BadRequest(f"{param} is no text in base64", param=param) from exc
