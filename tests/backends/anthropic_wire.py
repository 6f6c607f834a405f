"""Anthropic's event streams as it documents them, and who reads them: our backend, and its own SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anthropic

from headrace.backends.anthropic import AnthropicBackend
from headrace.backends.anthropic.answer import Answer
from headrace.backends.http import Upstream as HttpUpstream
from headrace.collected import Collected
from headrace.config import ProviderConfig
from headrace.types import (
    Conversation,
    Event,
    Finished,
    GenerateRequest,
    Message,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from tests.upstream import Upstream

MODEL = "claude-sonnet-5-5"
Named = tuple[str, object]  # an event's name and its data
HELLO = GenerateRequest(MODEL, Conversation((Message("user", "Hello"),)))


def named(type: str, **members: object) -> Named:
    return type, {"type": type, **members}


def start(**usage: object) -> Named:
    counts = {"input_tokens": 11, "output_tokens": 1, **usage}
    message: dict[str, object] = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": counts,
    }  # fmt: skip
    return named("message_start", message=message)


def block(index: int, first: Mapping[str, object], *deltas: Mapping[str, object]) -> list[Named]:
    return [
        named("content_block_start", index=index, content_block=first),
        *(named("content_block_delta", index=index, delta=delta) for delta in deltas),
        named("content_block_stop", index=index),
    ]


def text(index: int, *parts: str) -> list[Named]:
    return block(index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": p} for p in parts))


def tool_use(index: int, id: str, name: str, *parts: str) -> list[Named]:
    first = {"type": "tool_use", "id": id, "name": name, "input": {}}
    return block(index, first, *({"type": "input_json_delta", "partial_json": part} for part in parts))


def thinking(index: int, *parts: str, signature: str = "c2ln") -> list[Named]:
    first = {"type": "thinking", "thinking": "", "signature": ""}
    deltas = ({"type": "thinking_delta", "thinking": part} for part in parts)
    return block(index, first, *deltas, {"type": "signature_delta", "signature": signature})


def end(reason: str = "end_turn", *, met: str | None = None, **usage: object) -> list[Named]:
    delta = {"stop_reason": reason, "stop_sequence": met}
    return [
        named("message_delta", delta=delta, usage={"output_tokens": 7, **usage}),
        named("message_stop"),
    ]


PLAIN = [start(), *text(0, "Hel", "lo"), *end()]


WEATHER = '{"city": "Zürich\\n", "days": [1, 2]}'
PING = named("ping")
SEARCH = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}

STREAMS: dict[str, list[Named]] = {
    "plain": PLAIN,
    "empty": [start(), *end()],
    "unicode": [start(), *text(0, "né", " 🙂", "\n\ndata: x\r"), *end()],
    "two texts": [start(), *text(0, "a"), *text(1, "b"), *end("stop_sequence")],
    "a tool, byte by byte": [start(), *tool_use(0, "toolu_1", "weather", "", *WEATHER), *end("tool_use")],
    "parallel tools beside text": [
        start(),
        *text(0, "Let me see."),
        *tool_use(1, "toolu_1", "weather", "", '{"city":', ' "Bern"}'),
        *tool_use(2, "toolu_2", "weather", *'{"city": "Genf"}'),
        *tool_use(3, "toolu_3", "now"),
        *end("tool_use"),
    ],
    "no arguments": [start(), *tool_use(0, "toolu_1", "now", ""), *end("tool_use")],
    "thinking": [start(), *thinking(0, "Hm", "m.", signature="RXE="), *text(1, "Yes"), *end()],
    "thoughts that are not shown": [start(), *thinking(0), *text(1, "Yes"), *end()],
    "thinking between tools": [
        start(),
        *thinking(0, "One", signature="MQ=="),
        *block(1, {"type": "redacted_thinking", "data": "c2VjcmV0"}),
        *thinking(2, "Two", signature="Mg=="),
        *tool_use(3, "toolu_1", "now", "{}"),
        *end("tool_use"),
    ],
    "usage in the beginning": [
        start(input_tokens=5, cache_creation_input_tokens=200, cache_read_input_tokens=1000),
        *text(0, "x"),
        *end(),
    ],
    "usage in the end": [
        start(input_tokens=0, output_tokens=0),
        *text(0, "x"),
        *end(input_tokens=5, cache_creation_input_tokens=200, cache_read_input_tokens=1000),
    ],
    "usage with nulls": [
        start(cache_creation_input_tokens=3, cache_read_input_tokens=None),
        *end(input_tokens=None, cache_creation_input_tokens=None, cache_read_input_tokens=4),
    ],
    **{
        reason: [start(), *text(0, "x"), *end(reason)]
        for reason in ("max_tokens", "pause_turn", "refusal", "model_context_window_exceeded")
    },
    "pings": [PING, *(event for each in PLAIN for event in (each, PING))],
    "what nobody knows": [
        start(),
        named("a_new_event", index=0),
        *block(0, SEARCH, {"type": "input_json_delta", "partial_json": '{"query": "x"}'}),
        *block(1, {"type": "advisor_tool_result", "content": [{"type": "text", "text": "no"}]}),
        *block(2, {"type": "text", "text": ""}, {"type": "a_new_delta", "text": "no"}),
        *text(3, "yes"),
        *end(),
    ],
    "citations": [
        start(),
        *block(
            0,
            {"type": "text", "text": "", "citations": []},
            {"type": "text_delta", "text": "It is so."},
            {
                "type": "citations_delta",
                "citation": {
                    "type": "char_location", "cited_text": "so", "document_index": 0, "document_title": "d",
                    "start_char_index": 0, "end_char_index": 2,
                },
            },
        ),
        *end(),
    ],
}  # fmt: skip


def failed(type: str, message: str = "It is so") -> dict[str, object]:
    """The body of an error, and the data of an `error` event."""
    return {"type": "error", "error": {"type": type, "message": message}, "request_id": "req_1"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an answer says, whoever read it. Usage: prompt, completion, cached, written to the cache."""

    text: str
    calls: list[tuple[str, str, Any]]
    thoughts: list[tuple[str, str | None, str | None]]  # text, signature, redacted
    reason: str
    usage: tuple[int, int, int, int]


def backend_of(upstream: Upstream, **config: object) -> AnthropicBackend:
    members = {"kind": "anthropic", "base_url": upstream.url, **config}
    return AnthropicBackend("anthropic", ProviderConfig.model_validate(members), "sk-secret")


def generate(upstream: Upstream, request: GenerateRequest = HELLO, **config: object) -> list[Event]:
    """All events of one generation, through a backend of its own. Raises ServerError."""

    async def run() -> list[Event]:
        backend = backend_of(upstream, **config)
        await backend.start()
        try:
            async with backend.generate(request) as events:
                return [event async for event in events]
        finally:
            await backend.aclose()

    return asyncio.run(run())


def reading(provider: str) -> Answer:
    """What reads one answer, without a connection."""
    return Answer(HttpUpstream(provider, "http://127.0.0.1:1", headers={}, timeout_s=1))


def ours(events: Sequence[Event]) -> Outcome:
    collected = Collected()
    for event in events:
        collected.push(event)
    choice, usage = collected.choices[0], collected.choices[0].usage
    assert usage is not None
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == choice.text
    assert [type(event) for event in events].count(Finished) == 1
    thoughts = [event.thought for event in events if isinstance(event, ReasoningDelta) and event.thought]
    assert "".join(thought.text for thought in thoughts) == choice.reasoning
    pieces = [event for event in events if isinstance(event, ToolCallDelta)]
    assert [piece.call for piece in pieces if piece.name] == list(range(len(choice.calls)))
    counts = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.cache_write_tokens)
    return Outcome(
        choice.text,
        [(call.id, call.name, json.loads(call.arguments)) for call in choice.calls],
        [(thought.text, thought.signature, thought.redacted) for thought in thoughts],
        choice.reason,
        counts,
    )


def sdk(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="sk-secret", max_retries=0, timeout=20)


REASONS = {"max_tokens": "length", "tool_use": "tool_calls", "refusal": "content_filter"}
REASONS |= {"model_context_window_exceeded": "length"}  # all others are a stop


def theirs(url: str) -> Outcome:
    """What Anthropic's own SDK reads from the same wire."""
    with (
        sdk(url) as client,
        client.messages.stream(
            model=MODEL, max_tokens=100, messages=[{"role": "user", "content": "Hello"}]
        ) as stream,
    ):
        message = stream.get_final_message()
    written, read = message.usage.cache_creation_input_tokens or 0, message.usage.cache_read_input_tokens or 0
    prompt = message.usage.input_tokens + written + read
    thoughts: list[tuple[str, str | None, str | None]] = []
    for part in message.content:
        if part.type == "thinking":
            thoughts.append((part.thinking, part.signature, None))
        elif part.type == "redacted_thinking":
            thoughts.append(("", None, part.data))
    return Outcome(
        "".join(part.text for part in message.content if part.type == "text"),
        [(part.id, part.name, part.input) for part in message.content if part.type == "tool_use"],
        thoughts,
        REASONS.get(message.stop_reason or "", "stop"),
        (prompt, message.usage.output_tokens, read, written),
    )
