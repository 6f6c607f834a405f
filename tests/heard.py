"""What a caller hears of an answer, in whichever dialect and form it was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Ask = Callable[[str, bytes], tuple[int, Mapping[str, str], bytes]]
TOOLS = ("weather", "time")
SCHEMA = {"type": "object", "properties": {}}
HI: Any = [{"role": "user", "content": "hi"}]


@dataclass
class Heard:
    """`calls`: names and arguments. `reason`: in chat's words. `error`: its message; None: a success."""

    text: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)
    reason: str | None = None
    usage: tuple[int, int] | None = None  # tokens of the prompt and of the answer
    error: str | None = None
    status: int = 200
    ids: list[str] = field(default_factory=list)

    @property
    def said(self) -> tuple[str, str, list[list[str]], str | None]:
        return self.text, self.reasoning, self.calls, self.reason


@dataclass(frozen=True)
class Way:
    """One way of asking for the same."""

    path: str
    members: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def is_streamed(self) -> bool:
        return bool(self.members.get("stream"))

    def body(self, model: str, *, with_tools: bool = True, **members: Any) -> bytes:
        dialect = DIALECTS[self.path.rpartition("/v1/")[2]]
        tools = {"tools": dialect.tools} if with_tools else {}
        return json.dumps({"model": model, **dialect.request, **tools, **self.members, **members}).encode()

    def heard(self, status: int, raw: bytes) -> Heard:
        dialect = DIALECTS[self.path.rpartition("/v1/")[2]]
        found = Heard(status=status)
        if status != 200:
            found.error = json.loads(raw)["error"]["message"]
        elif self.is_streamed:
            for name, data in frames(raw):
                dialect.event(found, name, data)
            if found.error is None and found.reason is None:
                found.error = "(the stream has no end)"
        else:
            dialect.whole(found, loads(raw))
        return found


def loads(text: str | bytes) -> Any:
    """Parse JSON as other languages do."""
    return json.loads(text, parse_constant=_no_json)


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def frames(raw: bytes) -> list[tuple[str, Any]]:
    """Name and data of each event; "[DONE]" as it is. Each must be whole, and JSON."""
    found = []
    for frame in raw.decode().replace("\r\n", "\n").split("\n\n"):
        lines = [line for line in frame.split("\n") if line and not line.startswith(":")]
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("event:")), "")
        data = "\n".join(line.partition(":")[2].strip() for line in lines if line.startswith("data:"))
        if data:
            found.append((name, data if data == "[DONE]" else loads(data)))
    return found


def _text(value: Any) -> str:
    """A member that may have another type: what is passed on is as odd as the provider wrote it."""
    return value if isinstance(value, str) else ""


class Chat:
    request = {"messages": HI}  # noqa: RUF012
    tools = [{"type": "function", "function": {"name": n, "parameters": SCHEMA}} for n in TOOLS]  # noqa: RUF012

    def event(self, heard: Heard, name: str, data: Any) -> None:
        if data == "[DONE]":
            return
        if "error" in data:
            heard.error = heard.error or data["error"]["message"]
            return
        self._count(heard, data.get("usage"))
        for choice in data.get("choices") or ():
            self._say(heard, choice.get("delta") or {})
            heard.reason = choice.get("finish_reason") or heard.reason

    def whole(self, heard: Heard, data: Any) -> None:
        choice = data["choices"][0]
        self._say(heard, choice["message"])
        heard.reason = choice["finish_reason"]
        self._count(heard, data.get("usage"))

    def _say(self, heard: Heard, said: Any) -> None:
        heard.text += said.get("content") or ""
        heard.reasoning += said.get("reasoning_content") or ""
        for place, piece in enumerate(said.get("tool_calls") or ()):
            at = piece.get("index", place)
            assert at <= len(heard.calls), "a call's pieces begin with its name"
            if at == len(heard.calls):
                heard.calls.append([piece["function"]["name"], ""])
                heard.ids.append(piece["id"])
            heard.calls[at][1] += piece["function"].get("arguments") or ""

    def _count(self, heard: Heard, usage: Any) -> None:
        if usage:
            heard.usage = usage["prompt_tokens"], usage["completion_tokens"]


class Completions:
    request = {"prompt": "hi"}  # noqa: RUF012
    tools: list[Any] = []  # noqa: RUF012

    def event(self, heard: Heard, name: str, data: Any) -> None:
        if data == "[DONE]":
            return
        if "error" in data:
            heard.error = heard.error or data["error"]["message"]
            return
        self.whole(heard, data)

    def whole(self, heard: Heard, data: Any) -> None:
        for choice in data["choices"]:
            heard.text += choice["text"]
            heard.reason = choice["finish_reason"] or heard.reason
        if data.get("usage"):
            heard.usage = data["usage"]["prompt_tokens"], data["usage"]["completion_tokens"]


class Messages:
    request = {"messages": HI, "max_tokens": 50}  # noqa: RUF012
    tools = [{"name": name, "input_schema": SCHEMA} for name in TOOLS]  # noqa: RUF012
    reasons = {  # noqa: RUF012
        "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls",
        "refusal": "content_filter", "pause_turn": "stop", "model_context_window_exceeded": "length",
    }  # fmt: skip

    def __init__(self) -> None:
        self._open: int | None = None
        self._next = 0
        self._kind = ""

    def event(self, heard: Heard, name: str, data: Any) -> None:
        assert name == data["type"]
        match name:
            case "message_start":
                self._open, self._next = None, 0
                self._count(heard, data["message"]["usage"])
            case "content_block_start":
                assert self._open is None, "a block begins while another is open"
                assert data["index"] == self._next, "blocks are numbered one after another"
                self._open, self._next = data["index"], self._next + 1
                self._block(heard, data["content_block"])
            case "content_block_delta":
                assert self._open == data["index"], "a delta of a block that is not open"
                self._delta(heard, data["delta"])
            case "content_block_stop":
                assert self._open == data["index"]
                if self._kind == "tool_use":
                    heard.calls[-1][1] = heard.calls[-1][1] or "{}"
                self._open = None
            case "message_delta":
                assert self._open is None, "the message ends while a block is open"
                heard.reason = self.reasons[data["delta"]["stop_reason"]]
                self._count(heard, data["usage"])
            case "error":
                heard.error = data["error"]["message"]

    def whole(self, heard: Heard, data: Any) -> None:
        for block in data["content"]:
            self._block(heard, block)
            if block["type"] == "tool_use":
                heard.calls[-1][1] = json.dumps(block["input"], ensure_ascii=False)
        heard.reason = self.reasons[data["stop_reason"]]
        self._count(heard, data["usage"])

    def _block(self, heard: Heard, block: Any) -> None:
        self._kind = block["type"]
        heard.text += _text(block.get("text"))
        heard.reasoning += _text(block.get("thinking"))
        if block["type"] == "tool_use":
            heard.calls.append([block["name"], ""])
            heard.ids.append(block["id"])

    def _delta(self, heard: Heard, delta: Any) -> None:
        match delta["type"]:
            case "text_delta":
                assert self._kind == "text"
                heard.text += delta["text"]
            case "thinking_delta":
                assert self._kind == "thinking"
                heard.reasoning += delta["thinking"]
            case "input_json_delta":
                assert self._kind == "tool_use"
                heard.calls[-1][1] += delta["partial_json"]

    def _count(self, heard: Heard, usage: Any) -> None:
        read, written = usage.get("cache_read_input_tokens"), usage.get("cache_creation_input_tokens")
        before = heard.usage or (0, 0)  # what one event leaves out, another told
        prompt = (usage.get("input_tokens") or 0) + (read or 0) + (written or 0)
        found = (prompt or before[0], usage.get("output_tokens") or before[1])
        heard.usage = found if found != (0, 0) else None


class Responses:
    request = {"input": "hi"}  # noqa: RUF012
    tools = [{"type": "function", "name": name, "parameters": SCHEMA} for name in TOOLS]  # noqa: RUF012

    def event(self, heard: Heard, name: str, data: Any) -> None:
        if data == "[DONE]":
            return
        if name == "error" or data["type"] == "error":
            heard.error = data["message"]
        if "response" in data and name in ("response.completed", "response.incomplete"):
            self.whole(heard, data["response"])

    def whole(self, heard: Heard, data: Any) -> None:
        if data["error"] is not None:
            heard.error = data["error"]["message"]
            return
        for item in data["output"]:
            if item["type"] == "message":
                heard.text += "".join(part["text"] for part in item["content"])
            elif item["type"] == "reasoning":
                heard.reasoning += "".join(part["text"] for part in item["content"])
            else:
                heard.calls.append([item["name"], item["arguments"]])
                heard.ids.append(item["call_id"])
        cut = str((data["incomplete_details"] or {}).get("reason", ""))
        heard.reason = {"max_output_tokens": "length"}.get(cut, cut) or (
            "tool_calls" if heard.calls else "stop"
        )
        if data["usage"]:
            heard.usage = data["usage"]["input_tokens"], data["usage"]["output_tokens"]


DIALECTS: dict[str, Any] = {
    "chat/completions": Chat(),
    "completions": Completions(),
    "messages": Messages(),
    "responses": Responses(),
}
STRICT = {"X-Headrace-Strict": "true"}
STREAM = {"stream": True}
COUNTED = {"stream": True, "stream_options": {"include_usage": True}}
# every way on which what a provider sends is translated
TRANSLATED = {
    "chat": Way("/v1/chat/completions", {}, STRICT),
    "chat streamed": Way("/v1/chat/completions", COUNTED, STRICT),
    "chat kept": Way("/v1/chat/completions", {"store": True}),
    "chat kept and streamed": Way("/v1/chat/completions", {"store": True, **COUNTED}),
    "messages": Way("/v1/messages", {}),
    "messages streamed": Way("/v1/messages", STREAM),
    "responses": Way("/v1/responses", {}),
    "responses streamed": Way("/v1/responses", STREAM),
}
RELAYED = {
    "relayed chat": Way("/v1/chat/completions", {}),
    "relayed chat streamed": Way("/v1/chat/completions", COUNTED),
}
