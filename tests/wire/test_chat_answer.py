"""Events of a chat as JSON: the stream, folded as clients fold it, is the whole answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.collected import Collected
from headrace.types import (
    Event,
    Finished,
    FinishReason,
    ModelInfo,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from headrace.wire import chat
from headrace.wire.parameters import parse
from tests.wire.documented import check_documented

INFO = ModelInfo("m", "us", 0, 4096, "fp_1")
OLDER = {"functions": [{"name": "f"}]}


def body_of(**members: Any) -> chat.ChatBody:
    raw = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **members})
    return parse(chat.ChatBody, raw.encode())


def streamed(events: list[Event], **members: Any) -> list[Any]:
    chunks = chat.Chunks(body_of(stream=True, **members), INFO)
    texts = chunks.first() + [text for event in events for text in chunks.event(event)] + chunks.last()
    return [json.loads(text) for text in texts]


def whole(events: list[Event], **members: Any) -> Any:
    collected = Collected(members.get("n", 1))
    for event in events:
        collected.push(event)
    return chat.completion(body_of(**members), INFO, collected)


def check_all_documented(chunks: list[Any], done: Any) -> None:
    for chunk in chunks:
        check_documented(chunk, chat.ChatCompletionChunk)
    check_documented(done, chat.ChatCompletion)


def folded(chunks: list[Any]) -> dict[str, Any]:
    """The message of choice 0 as a client puts it together."""
    message: dict[str, Any] = {}
    calls: list[dict[str, Any]] = []
    for delta in (choice["delta"] for chunk in chunks for choice in chunk["choices"]):
        for name in ("content", "reasoning_content", "reasoning"):
            if name in delta:
                message[name] = message.get(name, "") + delta[name]
        for piece in delta.get("tool_calls", ()):
            if "id" in piece:
                assert piece["index"] == len(calls)
                calls.append({"id": piece["id"], "type": piece["type"], "function": {**piece["function"]}})
            else:
                assert set(piece) == {"index", "function"}
                calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
        if "function_call" in delta:
            made = message.setdefault("function_call", {"arguments": ""})
            made.update(name=delta["function_call"].get("name", made.get("name")))
            made["arguments"] += delta["function_call"]["arguments"]
    return {**message, **({"tool_calls": calls} if calls else {})}


@dataclass(frozen=True)
class Answer:
    reasoning: list[str]
    texts: list[str]
    calls: list[list[str]]  # the pieces of each call's arguments

    def events(self) -> list[Event]:
        thoughts = [ReasoningDelta(0, text, 1) for text in self.reasoning]
        said = [TextDelta(0, text, tokens=1) for text in self.texts]
        reason: FinishReason = "tool_calls" if self.calls else "stop"
        made: list[Event] = []
        for call, (first, *rest) in enumerate(self.calls):
            made.append(ToolCallDelta(0, call, first, f"call_{call}", f"f{call}"))
            made += [ToolCallDelta(0, call, piece) for piece in rest]
        return [Started(0, 0.0, 0.0), *thoughts, *said, *made, Finished(0, reason, Usage(3, 9))]


PIECES = st.lists(st.text(max_size=4), max_size=4)
ANSWERS = st.builds(Answer, PIECES, PIECES, st.lists(st.lists(st.text(max_size=4), min_size=1), max_size=3))


@settings(deadline=None, derandomize=True)
@given(ANSWERS, st.booleans())
def test_folded_stream_is_the_whole_message(answer: Answer, older: bool) -> None:
    members = OLDER if older else {}
    chunks, done = streamed(answer.events(), **members), whole(answer.events(), **members)
    (choice,) = done["choices"]
    message = dict(choice["message"])
    assert (message.pop("role"), message.pop("refusal"), message.pop("annotations")) == (
        "assistant",
        None,
        [],
    )
    message["content"] = (
        message["content"] or ""
    )  # null beside calls, which a stream does not know in advance
    got = {name: value for name, value in folded(chunks).items() if value or name == "content"}
    assert got == message
    assert chunks[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]
    assert chunks[-1]["choices"][0]["delta"] == {}
    check_all_documented(chunks, done)


def test_content_is_null_only_beside_calls_without_text() -> None:
    for calls, text, content in ([["{}"]], "", None), ([["{}"]], "so", "so"), ([], "", ""):
        message = whole(Answer([], [text], calls).events())["choices"][0]["message"]
        assert message["content"] == content


def test_older_form_has_one_call_and_its_own_reason() -> None:
    events = Answer([], [], [['{"a"', ":1}"], ["{}"]]).events()
    choice = whole(events, **OLDER)["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "f0", "arguments": '{"a":1}'}
    assert "tool_calls" not in choice["message"]
    deltas = [chunk["choices"][0]["delta"] for chunk in streamed(events, **OLDER)]
    assert deltas[1:] == [
        {"function_call": {"name": "f0", "arguments": '{"a"'}},
        {"function_call": {"arguments": ":1}"}},
        {},
    ]


SURE = TokenLogprob("H", b"H", -0.5, (("H", b"H", -0.5), ("\ufffd", b"\xf0", float("-inf"))))
NEVER = TokenLogprob("i", b"i", float("-inf"))
END = TokenLogprob("<end>", b"<end>", -1.0)


def test_logprobs_are_written_in_openais_shape() -> None:
    events: list[Event] = [TextDelta(0, "Hi", (SURE, NEVER)), Finished(0, "stop", Usage(3, 3), 0.0, (END,))]
    members = {"logprobs": True, "top_logprobs": 2}
    expected = {
        "content": [
            {
                "token": "H",
                "logprob": -0.5,
                "bytes": [72],
                "top_logprobs": [
                    {"token": "H", "logprob": -0.5, "bytes": [72]},
                    {"token": "\ufffd", "logprob": -9999.0, "bytes": [240]},
                ],
            },
            {"token": "i", "logprob": -9999.0, "bytes": [105], "top_logprobs": []},
        ],
        "refusal": None,
    }
    assert whole(events, **members)["choices"][0]["logprobs"] == expected
    first, text, end = (chunk["choices"][0]["logprobs"] for chunk in streamed(events, **members))
    assert (first, text, end) == (None, expected, None)
    check_all_documented(
        streamed(events, **members), json.loads(json.dumps(whole(events, **members), allow_nan=False))
    )


def test_logprobs_are_null_when_nobody_asked() -> None:
    events: list[Event] = [TextDelta(0, "Hi", (SURE, NEVER)), Finished(0, "stop", Usage(3, 3))]
    assert whole(events)["choices"][0]["logprobs"] is None
    assert {chunk["choices"][0]["logprobs"] for chunk in streamed(events)} == {None}


def test_usage_counts_a_shared_prompt_once() -> None:
    events: list[Event] = [Finished(index, "stop", Usage(7, 5, 2 * index, 1)) for index in range(3)]
    usage = whole(events, n=3)["usage"]
    assert usage == {
        "prompt_tokens": 7,
        "completion_tokens": 15,
        "total_tokens": 22,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    assert streamed(events, n=3, stream_options={"include_usage": True})[-1]["usage"] == usage


COUNTED: list[Event] = [
    Started(0, 0.0, 0.0, 7, 4),
    ReasoningDelta(0, "hm", 2),
    TextDelta(0, "Hi", tokens=1),
    ToolCallDelta(0, 0, "{}", "call_0", "f", tokens=3),
    Finished(0, "tool_calls", Usage(7, 8, 4, 2)),
]


@pytest.mark.parametrize("in_the_end", [False, True])
def test_continuous_usage_tells_what_was_counted_so_far(in_the_end: bool) -> None:
    options = {"include_usage": in_the_end, "continuous_usage_stats": True}
    chunks = streamed(COUNTED, stream_options=options)
    assert chunks[0]["usage"] is None  # the prompt is not counted yet
    usages = [
        (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"])
        for usage in (chunk["usage"] for chunk in chunks[1:])
    ]
    assert usages == [(7, 2, 9), (7, 3, 10), (7, 6, 13), (7, 8, 15)] + [(7, 8, 15)] * in_the_end
    assert [bool(chunk["choices"]) for chunk in chunks] == [True] * 5 + [False] * in_the_end
    thought = [chunk["usage"]["completion_tokens_details"]["reasoning_tokens"] for chunk in chunks[1:5]]
    assert thought == [2] * 4
    assert {chunk["usage"]["prompt_tokens_details"]["cached_tokens"] for chunk in chunks[1:]} == {4}


def test_usage_is_null_or_absent_before_the_end() -> None:
    chunks = streamed(COUNTED, stream_options={"include_usage": True})
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * 5
    assert all("usage" not in chunk for chunk in streamed(COUNTED))
