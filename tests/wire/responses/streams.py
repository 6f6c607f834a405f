"""Random answers, and the streams that they are written as."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from headrace.errors import EngineFailed
from headrace.types import (
    Event,
    Finished,
    FinishReason,
    ModelInfo,
    ReasoningDelta,
    Started,
    TextDelta,
    Thought,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from headrace.wire.parameters import parse
from headrace.wire.responses.body import ResponseBody
from headrace.wire.responses.object import begin
from headrace.wire.responses.stream import ResponseEvents

INFO = ModelInfo("m", "us", 0, 4096, None)
USAGE = Usage(7, 5, cached_tokens=3, reasoning_tokens=2)
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
TOOLS = [
    {"type": "function", "name": "look", "parameters": SCHEMA},
    {"type": "custom", "name": "patch", "description": "Takes a patch."},
]
LOGPROBS, SEALED = "message.output_text.logprobs", "reasoning.encrypted_content"


def body_of(**members: Any) -> ResponseBody:
    body = {"model": "m", "input": "hi", "tools": TOOLS, "stream": True, **members}
    return parse(ResponseBody, json.dumps(body).encode())


@dataclass(frozen=True)
class Answer:
    """A generation that ends with `end` after all of its events, or after some of them where something
    breaks.
    """

    members: dict[str, Any]
    events: tuple[Event, ...]
    end: str = "close"  # close, fail, cancel


@dataclass(frozen=True)
class Written:
    texts: list[str]
    response: Any

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.texts]

    @property
    def raw(self) -> bytes:
        """As it is sent."""
        frames = [f"event: {json.loads(text)['type']}\ndata: {text}\n\n" for text in self.texts]
        return (": keep-alive\n\n" + "".join(frames) + "data: [DONE]\n\n").encode()


def write(answer: Answer) -> Written:
    body = body_of(**answer.members)
    encoder = ResponseEvents(begin(body, INFO, id="resp_1", created_at=5), body)
    texts = encoder.first()
    for event in answer.events:
        texts += encoder.event(event)
    if answer.end == "close":
        texts += encoder.close()
    elif answer.end == "fail":
        texts += encoder.fail(EngineFailed("a step failed"))
    else:
        encoder.cancel()
    texts.append(encoder.last(encoder.response))
    return Written(texts, encoder.response)


def answered(*events: Event, reason: Any = "stop", **members: Any) -> Written:
    """Of an answer that ends well."""
    return write(Answer(members, (Started(0, 0.0, 0.0, 7), *events, Finished(0, reason, USAGE))))


def called(call: int, name: str, *pieces: str) -> list[Event]:
    start = ToolCallDelta(0, call, id=f"call_{call}", name=name)
    return [start, *(ToolCallDelta(0, call, piece) for piece in pieces)]


def patched(text: str) -> str:
    """A patch as arguments of the function that stands for the custom tool."""
    return json.dumps({"input": text})


def logprob(token: str) -> TokenLogprob:
    raw = token.encode()
    return TokenLogprob(token, raw, -0.5, ((token, raw, -0.5), ("x", b"x", float("-inf"))))


def in_pieces(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@st.composite
def said(draw: st.DrawFn) -> list[Event]:
    texts = draw(st.lists(st.text(max_size=8), max_size=4))
    return [TextDelta(0, text, (logprob(text),) if draw(st.booleans()) else (), 1) for text in texts]


@st.composite
def thought(draw: st.DrawFn) -> list[Event]:
    texts = draw(st.lists(st.text(max_size=8), max_size=3))
    events: list[Event] = [ReasoningDelta(0, text, 1) for text in texts]
    signed = st.sampled_from([None, Thought("".join(texts), "sig"), Thought(redacted="0paque")])
    if (whole := draw(signed)) is not None:
        events.append(ReasoningDelta(0, "", 0, whole))
    return events


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    events: list[Event] = []
    calls = 0
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            events += draw(st.one_of(said(), thought()))
            continue
        beside: list[list[Event]] = []
        for _ in range(draw(st.integers(1, 3))):
            name = draw(st.sampled_from(["look", "patch"]))
            value = draw(st.text(max_size=12))
            whole = patched(value) if name == "patch" else json.dumps({"a": value})
            beside.append(called(calls, name, *in_pieces(draw, whole)))
            calls += 1
        events += draw(interleaved(beside))
    well: FinishReason = "tool_calls" if calls else "stop"
    reasons: list[FinishReason] = [well, "length", "content_filter"]
    finished = Finished(
        0, draw(st.sampled_from(reasons)), draw(st.sampled_from([USAGE, replace(USAGE, is_known=False)]))
    )
    members = {
        "include": draw(st.lists(st.sampled_from([LOGPROBS, SEALED]), unique=True)),
        "background": draw(st.booleans()),
    }
    whole_events = (Started(0, 0.1, 0.1, 7, 3), *events, finished)
    end = draw(st.sampled_from(["close", "close", "fail", "cancel"]))
    broken_at = draw(st.integers(0, len(whole_events) - 1))
    return Answer(members, whole_events if end == "close" else whole_events[:broken_at], end)


@st.composite
def interleaved(draw: st.DrawFn, lists: list[list[Event]]) -> list[Event]:
    """Each in its order."""
    rest, mixed = [list(events) for events in lists], list[Event]()
    while rest:
        index = draw(st.integers(0, len(rest) - 1))
        mixed.append(rest[index].pop(0))
        if not rest[index]:
            rest.pop(index)
    return mixed
