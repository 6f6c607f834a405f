"""Checks the events of a response's stream against the rules of their order. It shares no code
with what writes them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Event = dict[str, Any]

ALWAYS = {  # members of a response object
    "id", "object", "created_at", "completed_at", "status", "incomplete_details", "model",
    "previous_response_id", "instructions", "output", "error", "tools", "tool_choice", "truncation",
    "parallel_tool_calls", "text", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs",
    "temperature", "reasoning", "usage", "max_output_tokens", "max_tool_calls", "store", "background",
    "service_tier", "metadata", "safety_identifier", "prompt_cache_key",
}  # fmt: skip
CHANGES = {"status", "output", "usage", "error", "incomplete_details", "completed_at", "store"}
TERMINAL = {"response.completed", "response.incomplete", "response.failed"}
PARTS = {"output_text": "text", "refusal": "refusal", "reasoning_text": "text"}  # type → where its text is
OF_ITEM = {"message": {"output_text", "refusal"}, "reasoning": {"reasoning_text"}}
CALLS = {
    "function_call": ("function_call_arguments", "arguments"),
    "custom_tool_call": ("custom_tool_call_input", "input"),
}


def check_stream(events: Sequence[Event], *, whole: bool = True) -> None:
    """`whole`: whether they reach to the end, and not only to where somebody stopped listening."""
    checker = _Checker()
    for event in events:
        checker.push(event)
    if whole:
        assert checker.is_over, f"the stream ends with {events[-1]['type'] if events else 'nothing'}"


def read_stream(chunks: Iterable[bytes], *, whole: bool = True) -> list[Event]:
    """The events of a body that comes in these pieces, checked. `[DONE]` ends it."""
    events: list[Event] = []
    is_done = False
    for frame in _frames(chunks, whole):
        assert not is_done, f"after [DONE]: {frame!r}"
        lines = frame.split("\n")
        if all(line.startswith(":") for line in lines):
            continue
        if lines == ["data: [DONE]"]:
            is_done = True
            continue
        assert [line.partition(": ")[0] for line in lines] == ["event", "data"], frame
        event = json.loads(lines[1].removeprefix("data: "))
        assert lines[0] == f"event: {event['type']}"
        events.append(event)
    assert is_done or not whole, "there is no [DONE]"
    check_stream(events, whole=whole)
    return events


def in_pieces(raw: bytes, seed: int) -> Iterator[bytes]:
    """Cut anywhere: in the middle of a line, of a character."""
    dice = random.Random(seed)
    while raw:
        size = dice.choice((1, 2, 3, 7, 50, 1000))
        yield raw[:size]
        raw = raw[size:]


def _frames(chunks: Iterable[bytes], whole: bool) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *frames, rest = (rest + chunk).split(b"\n\n")
        yield from (frame.decode() for frame in frames)
    assert rest == b"" or not whole, f"half a frame at the end: {rest!r}"


class _Part:
    def __init__(self, part: dict[str, Any]) -> None:
        self.type = part["type"]
        assert part[PARTS[self.type]] == "", "a part begins empty"
        if self.type == "output_text":
            assert part == {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self.text, self.logprobs = "", list[Any]()
        self.has_whole_text = self.is_done = False

    def whole(self) -> dict[str, Any]:
        whole: dict[str, Any] = {"type": self.type, PARTS[self.type]: self.text}
        return (
            {**whole, "annotations": [], "logprobs": self.logprobs} if self.type == "output_text" else whole
        )


class _Item:
    def __init__(self, index: int, item: dict[str, Any]) -> None:
        self.index, self.item, self.type = index, item, item["type"]
        self.parts: list[_Part] = []
        self.text = ""  # of a call
        self.has_whole_text = False  # whether the whole text of a call was told
        self.done: dict[str, Any] | None = None
        assert item["id"]
        assert item["status"] == "in_progress"
        if self.type == "message":
            assert (item["role"], item["content"]) == ("assistant", [])
        elif self.type == "reasoning":
            assert item["summary"] == []
        else:
            assert item["call_id"]
            assert item["name"]
            assert item[CALLS[self.type][1]] == ""

    @property
    def identity(self) -> dict[str, Any]:
        return {name: self.item.get(name) for name in ("id", "type", "call_id", "name", "role")}

    def part(self, event: Event) -> _Part:
        """One that is open."""
        assert event["content_index"] == len(self.parts) - 1, "parts come one after another"
        part = self.parts[-1]
        assert not part.is_done
        return part

    def check(self, item: dict[str, Any]) -> None:
        """As it is told, or stands in an output: all that was told of it, and nothing else."""
        assert {name: item.get(name) for name in self.identity} == self.identity
        if self.type in CALLS:
            assert item[CALLS[self.type][1]] == self.text
        else:
            assert (item.get("content") or []) == [part.whole() for part in self.parts]


class _Checker:
    def __init__(self) -> None:
        self.number = 0
        self.response: dict[str, Any] = {}
        self.before: list[str] = []  # what has to come before the first item, and has not
        self.items: list[_Item] = []
        self.failure: Event | None = None
        self.is_over = False

    def push(self, event: Event) -> None:
        type = event["type"]
        assert event["sequence_number"] == self.number, f"{type} has number {event['sequence_number']}"
        assert not event.get("error"), "clients raise when there is a member error"
        assert not self.is_over, f"{type} after the end"
        assert self.failure is None or type == "response.failed", f"{type} after an error"
        self.number += 1
        if "response" in event:
            self._lifecycle(type, event["response"])
        elif type == "error":
            assert set(event) == {"type", "code", "message", "param", "sequence_number"}
            assert event["message"]
            self.failure = event
        else:
            assert not self.before, f"{type} before {self.before}"
            self._of_item(type, event)

    def _lifecycle(self, type: str, response: dict[str, Any]) -> None:
        assert set(response) >= ALWAYS, ALWAYS - set(response)
        assert response.get("user", "") is not None
        if not self.response:
            assert type == "response.created"
            self.response = response
            queued = ["response.queued"] if response["background"] else []
            self.before = [*queued, "response.in_progress"]
            assert response["status"] == ("queued" if queued else "in_progress")
            self._is_empty(response)
            return
        same = self.response.keys() - CHANGES
        assert {k: response[k] for k in same} == {k: self.response[k] for k in same}
        if type not in TERMINAL:
            assert self.before[:1] == [type]
            self.before.pop(0)
            assert f"response.{response['status']}" == type
            self._is_empty(response)
        else:
            assert not self.before or type == "response.failed"
            self._end(type, response)
            self.is_over = True

    def _is_empty(self, response: dict[str, Any]) -> None:
        assert response["output"] == []
        members = ("usage", "error", "incomplete_details", "completed_at")
        assert [response[name] for name in members] == [None] * 4

    def _of_item(self, type: str, event: Event) -> None:
        index = event["output_index"]
        if type == "response.output_item.added":
            self._added(index, event["item"])
            return
        item = self.items[index]
        assert item.done is None, f"{type} after the item is done"
        if type == "response.output_item.done":
            self._done(item, event["item"])
            return
        assert event["item_id"] == item.item["id"]
        name = type.removeprefix("response.")
        if item.type in CALLS:
            self._call(item, name, event)
        else:
            self._spoken(item, name, event)

    def _added(self, index: int, added: dict[str, Any]) -> None:
        assert index == len(self.items), "items are added in order, each once"
        item = _Item(index, added)
        for other in self.items:
            assert other.item["id"] != added["id"]
            assert item.type not in CALLS or other.item.get("call_id") != added["call_id"]
            assert other.done or other.type in CALLS, "only calls come side by side"
        self.items.append(item)

    def _spoken(self, item: _Item, name: str, event: Event) -> None:
        what, _, step = name.rpartition(".")
        if name == "content_part.added":
            assert all(part.is_done for part in item.parts)
            assert event["content_index"] == len(item.parts)
            assert event["part"]["type"] in OF_ITEM[item.type]
            item.parts.append(_Part(event["part"]))
            return
        part = item.part(event)
        if name == "content_part.done":
            assert part.has_whole_text
            assert event["part"] == part.whole()
            part.is_done = True
            return
        assert what == part.type, f"{name} in a part of type {part.type}"
        assert not part.has_whole_text
        if step == "delta":
            part.text += event["delta"]
            part.logprobs += event["logprobs"] if what == "output_text" else []
        else:
            assert step == "done"
            assert event[PARTS[what]] == part.text
            assert what != "output_text" or event["logprobs"] == part.logprobs
            part.has_whole_text = True

    def _call(self, item: _Item, name: str, event: Event) -> None:
        what, member = CALLS[item.type]
        assert not item.has_whole_text
        if name == f"{what}.delta":
            assert event["delta"], "an empty delta"
            item.text += event["delta"]
        else:
            assert name == f"{what}.done"
            assert event[member] == item.text
            assert what != "function_call_arguments" or event["name"] == item.item["name"]
            item.has_whole_text = True

    def _done(self, item: _Item, done: dict[str, Any]) -> None:
        assert done["status"] in ("completed", "incomplete")
        if item.type in CALLS:
            assert item.has_whole_text
        else:
            assert all(part.is_done for part in item.parts)
            assert item.parts or item.type == "reasoning"
        item.check(done)
        item.done = done

    def _end(self, type: str, response: dict[str, Any]) -> None:
        status, output = response["status"], response["output"]
        assert (response["completed_at"] is not None) == (status == "completed")
        assert (response["error"] is not None) == (status == "failed")
        assert (response["incomplete_details"] is not None) == (status == "incomplete")
        assert len(output) == len(self.items)
        for item, final in zip(self.items, output, strict=True):
            item.check(final)
            assert final == item.done or (item.done is None and final["status"] == "incomplete")
        if type == "response.failed":
            assert status in ("failed", "cancelled")
            assert (self.failure is not None) == (status == "failed")
            return
        assert f"response.{status}" == type
        assert output, "there is nothing in the output"
        assert all(item.done for item in self.items), "an item was added and never done"
        cut = ["incomplete"] if status == "incomplete" else ["completed"]
        assert [item["status"] for item in output] == ["completed"] * (len(output) - 1) + cut
        if status == "incomplete":
            assert response["incomplete_details"]["reason"] in ("max_output_tokens", "content_filter")
