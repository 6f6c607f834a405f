"""The items of an answer while they are written: each tells the events from its `added` to its `done`."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from headrace.types import Thought
from headrace.wire.items.build import thinking
from headrace.wire.items.ids import PREFIXES, Type, new_id
from headrace.wire.items.input_models import Status
from headrace.wire.responses.custom import InputReader

Told = tuple[str, dict[str, Any]]  # an event's type, and its members but for the number


class OutputItem(ABC):
    """`index`: its place in the output."""

    type: Type

    def __init__(self, index: int) -> None:
        self.index = index
        self._id = new_id(PREFIXES[self.type])
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """What was written so far."""
        return "".join(self._pieces)

    @abstractmethod
    def begin(self) -> Iterator[Told]: ...

    @abstractmethod
    def end(self, status: Status) -> Iterator[Told]: ...

    @abstractmethod
    def whole(self, status: Status) -> dict[str, Any]:
        """As it is in the output."""

    def _item(self, status: Status, **members: Any) -> dict[str, Any]:
        return {"id": self._id, "type": self.type, "status": status, **members}

    def _added(self, **members: Any) -> Told:
        item = self._item("in_progress", **members)
        return "response.output_item.added", {"output_index": self.index, "item": item}

    def _done(self, status: Status) -> Told:
        return "response.output_item.done", {"output_index": self.index, "item": self.whole(status)}

    def _told(self, type: str, **members: Any) -> Told:
        return f"response.{type}", {"item_id": self._id, "output_index": self.index, **members}


class Message(OutputItem):
    """One part of text."""

    type: Type = "message"

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self._logprobs: list[dict[str, Any]] = []

    def begin(self) -> Iterator[Told]:
        yield self._added(role="assistant", content=[])
        yield self._told("content_part.added", content_index=0, part=self._part())

    def say(self, text: str, logprobs: Sequence[dict[str, Any]]) -> Told:
        self._pieces.append(text)
        self._logprobs += logprobs
        return self._told("output_text.delta", content_index=0, delta=text, logprobs=list(logprobs))

    def end(self, status: Status) -> Iterator[Told]:
        yield self._told("output_text.done", content_index=0, text=self.text, logprobs=self._logprobs)
        yield self._told("content_part.done", content_index=0, part=self._part())
        yield self._done(status)

    def whole(self, status: Status) -> dict[str, Any]:
        return self._item(status, role="assistant", content=[self._part()])

    def _part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": self._logprobs}


class Reasoning(OutputItem):
    """One part of text, unless its provider shows none. `is_sealed`: `encrypted_content` is there always."""

    type: Type = "reasoning"

    def __init__(self, index: int, *, is_sealed: bool) -> None:
        super().__init__(index)
        self._is_sealed = is_sealed
        self._thoughts: list[Thought] = []

    def begin(self) -> Iterator[Told]:
        yield self._added(summary=[], content=[])

    def think(self, text: str, thought: Thought | None) -> Iterator[Told]:
        """`thought`: one that is complete. Its text has come before, or is in `text`."""
        if text:
            if not self._pieces:
                part = {"type": "reasoning_text", "text": ""}
                yield self._told("content_part.added", content_index=0, part=part)
            self._pieces.append(text)
            yield self._told("reasoning_text.delta", content_index=0, delta=text)
        if thought is not None:
            self._thoughts.append(thought)

    def end(self, status: Status) -> Iterator[Told]:
        if self._pieces:
            part = {"type": "reasoning_text", "text": self.text}
            yield self._told("reasoning_text.done", content_index=0, text=self.text)
            yield self._told("content_part.done", content_index=0, part=part)
        yield self._done(status)

    def whole(self, status: Status) -> dict[str, Any]:
        thoughts = self._thoughts or ([Thought(self.text)] if self._is_sealed else [])
        return self._item(status, **thinking(self.text, thoughts))


class Call(OutputItem):
    """A call of a function."""

    type: Type = "function_call"

    def __init__(self, index: int, call_id: str | None, name: str) -> None:
        super().__init__(index)
        self._call = {"call_id": call_id or f"call_{secrets.token_hex(12)}", "name": name}

    def begin(self) -> Iterator[Told]:
        yield self._added(**self._call, arguments="")

    def write(self, arguments: str) -> Iterator[Told]:
        if arguments:
            self._pieces.append(arguments)
            yield self._told("function_call_arguments.delta", delta=arguments)

    def end(self, status: Status) -> Iterator[Told]:
        yield self._told("function_call_arguments.done", name=self._call["name"], arguments=self.text)
        yield self._done(status)

    def whole(self, status: Status) -> dict[str, Any]:
        return self._item(status, **self._call, arguments=self.text)


class CustomCall(Call):
    """A call of a custom tool: the text in the arguments of the function that stands for it."""

    type: Type = "custom_tool_call"

    def __init__(self, index: int, call_id: str | None, name: str) -> None:
        super().__init__(index, call_id, name)
        self._reader = InputReader()

    def begin(self) -> Iterator[Told]:
        yield self._added(**self._call, input="")

    def write(self, arguments: str) -> Iterator[Told]:
        yield from self._written(self._reader.push(arguments))

    def end(self, status: Status) -> Iterator[Told]:
        yield from self._written(self._reader.rest())
        yield self._told("custom_tool_call_input.done", input=self.text)
        yield self._done(status)

    def whole(self, status: Status) -> dict[str, Any]:
        return self._item(status, **self._call, input=self.text)

    def _written(self, text: str) -> Iterator[Told]:
        if text:
            self._pieces.append(text)
            yield self._told("custom_tool_call_input.delta", delta=text)
