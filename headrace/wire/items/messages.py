"""Turns items into the messages that a model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.finite import dumps_large
from headrace.offload import check_wanted
from headrace.types import Media, Message, Thought, ToolCall
from headrace.wire.items.build import Item, summary_in, thoughts_in
from headrace.wire.items.input import MIXED, medium
from headrace.wire.media import joined, mixed
from headrace.wire.messages import Piece, in_order

# The text of a user message: many templates accept a system message only at the beginning, or not at all.
COMPACTED = "A summary of the conversation up to here:\n\n{}"
CUSTOM_ARGUMENT = "input"  # the only parameter of a function that stands for a custom tool


def to_messages(items: Sequence[Item]) -> tuple[Message, ...]:
    """Convert items. Reasoning, text and calls of an assistant up to the next result become one message, and
    a call's output a message of role tool. Items of hosted tools are left out. Raises BadRequest.
    """
    messages = _Messages()
    for item in items:
        check_wanted()
        messages.push(item)
    return messages.whole()


def custom_arguments(input: str) -> str:
    """Write the input of a custom tool's call as the arguments of the function that stands for it."""
    return dumps_large({CUSTOM_ARGUMENT: input})


@dataclass(slots=True)
class _Growing:
    """A message under construction, whose pieces are joined at the end: thousands of items may belong to one
    message. `first`: its first piece.
    """

    first: Message
    content: list[str | Media] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    thoughts: list[Thought] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)  # thoughts, texts and calls, in order
    name: str | None = None
    has_content: bool = False
    thinks: bool = False  # a thought came last

    @property
    def is_assistants(self) -> bool:
        return self.first.role == "assistant"

    @property
    def goes_on(self) -> bool:
        """Whether text may be added: after text, only once a call or a thought has come between."""
        return self.is_assistants and (not self.has_content or bool(self.calls) or self.thinks)

    def say(self, message: Message) -> None:
        self.content += message.parts or (message.text,)
        self.pieces.append(message.text)
        self.has_content = self.has_content or bool(message.text or message.parts)
        self.thinks = False
        self.name = message.name or self.name

    def message(self) -> Message:
        if not self.is_assistants:
            return self.first
        parts = mixed(self.content)
        return Message(
            "assistant", joined(self.content, ""), name=self.name, tool_calls=tuple(self.calls),
            reasoning="".join(self.thinking) or None, parts=parts, thoughts=tuple(self.thoughts),
            in_order=() if parts else in_order(self.pieces),
        )  # fmt: skip


class _Messages:
    def __init__(self) -> None:
        self._growing: list[_Growing] = []

    def whole(self) -> tuple[Message, ...]:
        return tuple(growing.message() for growing in self._growing)

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

    def _add(self, message: Message) -> _Growing:
        growing = _Growing(message)
        self._growing.append(growing)
        return growing

    def _assistants(self, *, even_with_text: bool = False) -> _Growing:
        """The last message if it is the assistant's and can be extended, else a new one. `even_with_text`: a
        message with text may be extended, too, namely by calls and thoughts.
        """
        last = self._growing[-1] if self._growing else None
        if last is not None and (last.goes_on or (even_with_text and last.is_assistants)):
            return last
        return self._add(Message("assistant", ""))

    def _message(self, item: Item) -> None:
        message = Message(item["role"], name=item.get("name"), **_read(item["content"]))
        if item["role"] == "assistant":
            self._assistants().say(message)
        else:
            self._add(message)

    def _reasoning(self, item: Item) -> None:
        text = "".join(part["text"] for part in item.get("content") or item.get("summary") or ())
        sealed = thoughts_in(item.get("encrypted_content"))
        growing = self._assistants(even_with_text=True)
        growing.thinks = True
        growing.thinking.append(text or "".join(thought.text for thought in sealed))
        signed = [thought for thought in sealed if thought.signature or thought.redacted]
        growing.thoughts += signed
        growing.pieces += signed

    def _call(self, call: ToolCall) -> None:
        growing = self._assistants(even_with_text=True)
        growing.calls.append(call)
        growing.pieces.append(call)


def _read(content: str | Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Read a content as members of a Message."""
    if isinstance(content, str):
        return {"text": content}
    parts = [_part(part) for part in content]
    return {"text": joined(parts), "parts": mixed(parts)}


def _part(part: dict[str, Any]) -> str | Media:
    if part["type"] in MIXED:
        return medium(part, "input")
    return str(part["refusal"] if part["type"] == "refusal" else part["text"])
