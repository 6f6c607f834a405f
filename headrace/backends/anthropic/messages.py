"""A conversation as Anthropic takes it: the system prompt apart, turns that alternate, contents as blocks.

A conversation that ends with an assistant's message is gone on with: that is what the API does with it.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from typing import Any

from headrace.errors import BadRequest, UnsupportedParameter
from headrace.types import Media, Message, Thought, ToolCall

Block = dict[str, Any]
DATA_URL = re.compile(r"data:(?P<type>[^;,]*)[^,]*?;base64,(?P<data>.*)", re.DOTALL)


def to_system(messages: Sequence[Message]) -> list[Block]:
    """All that system and developer say, wherever they say it. Raises BadRequest."""
    return [
        block
        for index, message in enumerate(messages)
        if message.role in ("system", "developer")
        for block in _only_text(index, message)
    ]


def to_turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """What the others say. Consecutive messages of one side are one turn, the results of tools first in it.
    Raises BadRequest.
    """
    turns: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        if message.role in ("system", "developer"):
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(index, message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    for turn in turns:
        if turn["role"] == "user":
            turn["content"].sort(key=lambda block: block["type"] != "tool_result")
    return turns


def _blocks(index: int, message: Message) -> list[Block]:
    if message.role == "assistant":
        thoughts = [_thought(thought) for thought in message.thoughts if _can_be_replayed(thought)]
        calls = [_tool_use(f"messages.{index}.tool_calls.{at}", c) for at, c in enumerate(message.tool_calls)]
        return [*thoughts, *_only_text(index, message), *calls]
    if message.role == "tool":
        return [_tool_result(index, message)]
    return _content(index, message)


def _text(text: str) -> list[Block]:
    """Blank texts are refused by the API, and say nothing."""
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
    result = {"type": "tool_result", "tool_use_id": _id(message.tool_call_id)}
    blocks = _content(index, message)
    return {**result, "content": blocks} if blocks else result


def _tool_use(param: str, call: ToolCall) -> Block:
    param = f"{param}.function.arguments"
    try:
        arguments = json.loads(call.arguments.strip() or "{}")
    except (ValueError, RecursionError) as exc:
        raise BadRequest(f"{param} is no JSON", param=param) from exc
    if not isinstance(arguments, dict):
        raise BadRequest(f"{param} is no JSON object", param=param)
    return {"type": "tool_use", "id": _id(call.id), "name": call.name, "input": arguments}


def _id(id: str) -> str:
    """Calls that another provider made may have signs in their ids that Anthropic refuses."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", id)


def _can_be_replayed(thought: Thought) -> bool:
    return thought.signature is not None or thought.redacted is not None


def _thought(thought: Thought) -> Block:
    if thought.redacted is not None:
        return {"type": "redacted_thinking", "data": thought.redacted}
    return {"type": "thinking", "thinking": thought.text, "signature": thought.signature}


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
        raise BadRequest(f"{param}: what kind of {media.kind} is it? It has no media type", param=param)
    if media.kind == "document" and media_type.startswith("text/"):
        return {"type": "text", "media_type": "text/plain", "data": _decoded(param, data)}
    return {"type": "base64", "media_type": media_type, "data": data}


def _decoded(param: str, data: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as exc:
        raise BadRequest(f"{param} is no text in base64", param=param) from exc
