"""Writes the events of each output item of a response, from `response.output_item.added` to `.done`."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Unpack

from pydantic_core import from_json

from headrace.types import Thought
from headrace.wire.chat import TokenLogprobBody
from headrace.wire.items.build import PREFIXES, ReasoningPart, Status, Type, new_id, thinking
from headrace.wire.items.messages import CUSTOM_ARGUMENT
from headrace.wire.responses import object

NamedEvent = tuple[str, object.EventMembers]  # an event's type, and its members without the sequence number

# The arguments are parsed again when they have grown by 1/FINENESS, which keeps the total work linear.
FINENESS = 32


class OutputItem(ABC):
    """An item under construction. `index`: its place in the response's output."""

    type: Type

    def __init__(self, index: int) -> None:
        self.index = index
        self._id = new_id(PREFIXES[self.type])
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._pieces)

    @abstractmethod
    def begin(self) -> Iterator[NamedEvent]: ...

    @abstractmethod
    def end(self, status: Status) -> Iterator[NamedEvent]: ...

    @abstractmethod
    def whole(self, status: Status) -> object.Output:
        """The item as it stands in the output."""

    def _added(self, item: object.Output) -> NamedEvent:
        return "response.output_item.added", {"output_index": self.index, "item": item}

    def _done(self, status: Status) -> NamedEvent:
        return "response.output_item.done", {"output_index": self.index, "item": self.whole(status)}

    def _event(self, type: str, **members: Unpack[object.EventMembers]) -> NamedEvent:
        return f"response.{type}", {"item_id": self._id, "output_index": self.index, **members}


class Message(OutputItem):
    """A message with one text part."""

    type: Type = "message"

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self._logprobs: list[TokenLogprobBody] = []

    def begin(self) -> Iterator[NamedEvent]:
        yield self._added(self._with("in_progress", []))
        yield self._event("content_part.added", content_index=0, part=self._part())

    def say(self, text: str, logprobs: Sequence[TokenLogprobBody]) -> NamedEvent:
        self._pieces.append(text)
        self._logprobs += logprobs
        return self._event("output_text.delta", content_index=0, delta=text, logprobs=list(logprobs))

    def end(self, status: Status) -> Iterator[NamedEvent]:
        yield self._event("output_text.done", content_index=0, text=self.text, logprobs=self._logprobs)
        yield self._event("content_part.done", content_index=0, part=self._part())
        yield self._done(status)

    def whole(self, status: Status) -> object.OutputMessage:
        return self._with(status, [self._part()])

    def _with(self, status: Status, content: list[object.OutputText]) -> object.OutputMessage:
        return {
            "id": self._id, "type": "message", "status": status, "role": "assistant", "content": content,
        }  # fmt: skip

    def _part(self) -> object.OutputText:
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": self._logprobs}


class Reasoning(OutputItem):
    """A reasoning item, with one text part if its provider returns any text. `is_sealed`: `encrypted_content`
    is always present.
    """

    type: Type = "reasoning"

    def __init__(self, index: int, *, is_sealed: bool) -> None:
        super().__init__(index)
        self._is_sealed = is_sealed
        self._thoughts: list[Thought] = []

    def begin(self) -> Iterator[NamedEvent]:
        yield self._added(
            {"id": self._id, "type": "reasoning", "status": "in_progress", "summary": [], "content": []}
        )

    def think(self, text: str, thought: Thought | None) -> Iterator[NamedEvent]:
        """Add text, and a complete thought whose text is contained in the text so far."""
        if text:
            if not self._pieces:
                yield self._event("content_part.added", content_index=0, part=self._part())
            self._pieces.append(text)
            yield self._event("reasoning_text.delta", content_index=0, delta=text)
        if thought is not None:
            self._thoughts.append(thought)

    def end(self, status: Status) -> Iterator[NamedEvent]:
        if self._pieces:
            yield self._event("reasoning_text.done", content_index=0, text=self.text)
            yield self._event("content_part.done", content_index=0, part=self._part())
        yield self._done(status)

    def whole(self, status: Status) -> object.OutputReasoning:
        thoughts = self._thoughts or ([Thought(self.text)] if self._is_sealed else [])
        return {"id": self._id, "type": "reasoning", "status": status, **thinking(self.text, thoughts)}

    def _part(self) -> ReasoningPart:
        return {"type": "reasoning_text", "text": self.text}


class Call(OutputItem):
    """A call of a function."""

    type: Type = "function_call"

    def __init__(self, index: int, call_id: str | None, name: str) -> None:
        super().__init__(index)
        self._call_id, self._name = call_id or f"call_{secrets.token_hex(12)}", name

    def begin(self) -> Iterator[NamedEvent]:
        yield self._added(self.whole("in_progress"))

    def write(self, arguments: str) -> Iterator[NamedEvent]:
        if arguments:
            self._pieces.append(arguments)
            yield self._event("function_call_arguments.delta", delta=arguments)

    def end(self, status: Status) -> Iterator[NamedEvent]:
        yield self._event("function_call_arguments.done", name=self._name, arguments=self.text)
        yield self._done(status)

    def whole(self, status: Status) -> object.FunctionCall | object.CustomToolCall:
        return {
            "id": self._id, "type": "function_call", "status": status,
            "call_id": self._call_id, "name": self._name, "arguments": self.text,
        }  # fmt: skip


class CustomCall(Call):
    """A call of a custom tool, whose input is read from the arguments of the function that stands for it."""

    type: Type = "custom_tool_call"

    def __init__(self, index: int, call_id: str | None, name: str) -> None:
        super().__init__(index, call_id, name)
        self._reader = InputReader()

    def write(self, arguments: str) -> Iterator[NamedEvent]:
        yield from self._written(self._reader.push(arguments))

    def end(self, status: Status) -> Iterator[NamedEvent]:
        yield from self._written(self._reader.rest())
        yield self._event("custom_tool_call_input.done", input=self.text)
        yield self._done(status)

    def whole(self, status: Status) -> object.CustomToolCall:
        return {
            "id": self._id, "type": "custom_tool_call", "status": status,
            "call_id": self._call_id, "name": self._name, "input": self.text,
        }  # fmt: skip

    def _written(self, text: str) -> Iterator[NamedEvent]:
        if text:
            self._pieces.append(text)
            yield self._event("custom_tool_call_input.delta", delta=text)


class InputReader:
    """Returns the input piece by piece. Arguments without the expected shape are the input themselves."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0
        self._read_at = 0  # length of the arguments at which they are parsed again
        self._said = ""

    def push(self, arguments: str) -> str:
        """Add arguments; return the new part of the input that is certain."""
        self._pieces.append(arguments)
        self._length += len(arguments)
        if self._length < self._read_at:
            return ""
        self._read_at = self._length + self._length // FINENESS
        return self._new(self._input() or "")

    def rest(self) -> str:
        """Return the rest of the input, after the last piece."""
        read = self._input()
        return self._new(self._arguments() if read is None and not self._said else read or "")

    def _new(self, text: str) -> str:
        if not text.startswith(self._said):
            return ""
        new, self._said = text[len(self._said) :], text
        return new

    def _arguments(self) -> str:
        """All arguments so far."""
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]

    def _input(self) -> str | None:
        try:
            value: Any = from_json(self._arguments(), allow_partial="trailing-strings")
        except ValueError:
            return None
        text = value.get(CUSTOM_ARGUMENT) if isinstance(value, dict) else None
        return text if isinstance(text, str) else None
