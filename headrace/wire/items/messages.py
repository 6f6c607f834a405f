"""Items as the messages that a model reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from headrace.types import Media, Message, Thought, ToolCall
from headrace.wire.items.made import Item
from headrace.wire.items.sealed import summary_in, thoughts_in
from headrace.wire.items.sent import MIXED, medium

# A user's, because templates want a system message to be the first, if they know one at all.
COMPACTED = "A summary of the conversation up to here:\n\n{}"
CUSTOM_ARGUMENT = "input"  # what the one argument is called of a function that stands for a custom tool


def to_messages(items: Sequence[Item]) -> tuple[Message, ...]:
    """What a model reads: what an assistant thinks, says and calls up to the next result is one message, a
    call's output is a message of role tool. What hosted tools did is not told. Raises BadRequest.
    """
    messages = _Messages()
    for item in items:
        messages.push(item)
    return tuple(messages.whole)


def custom_arguments(input: str) -> str:
    """Of a custom tool's call, as the function's that stands for it."""
    return json.dumps({CUSTOM_ARGUMENT: input}, ensure_ascii=False)


class _Messages:
    def __init__(self) -> None:
        self.whole: list[Message] = []
        self._can_join = False  # whether the last message is an assistant's that goes on

    def push(self, item: Item) -> None:
        type = item["type"]
        if type == "message":
            self._message(item)
        elif type == "reasoning":
            self._reasoning(item)
        elif type == "function_call":
            self._call(ToolCall(item["call_id"], item["name"], item["arguments"]))
        elif type == "custom_tool_call":
            self._call(ToolCall(item["call_id"], item["name"], custom_arguments(item["input"])))
        elif type in ("function_call_output", "custom_tool_call_output"):
            self._add(
                Message("tool", name=item.get("name"), tool_call_id=item["call_id"], **_read(item["output"]))
            )
        elif type == "compaction":
            summary = summary_in(item["encrypted_content"])
            assert summary is not None, "it was checked when it came"
            self._add(Message("user", COMPACTED.format(summary)))

    def _add(self, message: Message) -> None:
        self.whole.append(message)
        self._can_join = message.role == "assistant"

    def _message(self, item: Item) -> None:
        said = Message(item["role"], name=item.get("name"), **_read(item["content"]))
        last = self.whole[-1] if self._can_join else None
        # what is said beside a call belongs to it: nothing may stand between a call and its result
        if item["role"] != "assistant" or last is None or (last.text and not last.tool_calls):
            self._add(said)
        else:
            self.whole[-1] = replace(last, text=last.text + said.text, name=said.name or last.name)

    def _reasoning(self, item: Item) -> None:
        text = "".join(part["text"] for part in item.get("content") or item.get("summary") or ())
        sealed = thoughts_in(item.get("encrypted_content"))
        text = text or "".join(thought.text for thought in sealed)
        signed = tuple(thought for thought in sealed if thought.signature or thought.redacted)
        last = self.whole[-1] if self._can_join else None
        if last is None or (last.text and not last.tool_calls):
            self._add(Message("assistant", "", reasoning=text or None, thoughts=signed))
        else:
            self.whole[-1] = _thinking(last, text, signed)

    def _call(self, call: ToolCall) -> None:
        if not self._can_join:
            self._add(Message("assistant", ""))
        last = self.whole[-1]
        self.whole[-1] = replace(last, tool_calls=(*last.tool_calls, call))


def _thinking(message: Message, text: str, thoughts: tuple[Thought, ...]) -> Message:
    reasoning = (message.reasoning or "") + text
    return replace(message, reasoning=reasoning or None, thoughts=(*message.thoughts, *thoughts))


def _read(content: str | Sequence[dict[str, Any]]) -> dict[str, Any]:
    """As members of a message."""
    if isinstance(content, str):
        return {"text": content}
    parts = tuple(_part(part) for part in content)
    is_mixed = any(part["type"] in MIXED for part in content)
    return {
        "text": "".join(part for part in parts if isinstance(part, str)),
        "parts": parts if is_mixed else (),
    }


def _part(part: dict[str, Any]) -> str | Media:
    if part["type"] in MIXED:
        return medium(part, "input")
    return str(part["refusal"] if part["type"] == "refusal" else part["text"])
