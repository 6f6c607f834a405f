"""Habits of providers that speak OpenAI's dialect, byte for byte, and what every caller hears of them: the
same text, calls and end on each way of asking, or an error.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.habits import HELLO, called, check, hear, raw
from tests.api.relays import Relays, relays
from tests.backends.two_ways import chunk, head
from tests.heard import RELAYED, TRANSLATED, Way
from tests.upstream import Answer, answer, sse

USAGE = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
COUNTED = head(choices=[], usage=USAGE)
WHERE = '{"city": "Zürich 🌊"}'
WHEN = '{"zone": "UTC+1"}'
WAYS = {**RELAYED, **TRANSLATED}
A, B = ["weather", WHERE], ["time", WHEN]


def piece(index: int | None = 0, arguments: str | None = None, name: str = "", id: str = "") -> Any:
    """A chunk with a piece of a call; what is "" or None is left out."""
    own_arguments = {} if arguments is None else {"arguments": arguments}
    function = {**({"name": name} if name else {}), **own_arguments}
    members = {"index": index, "id": id, "type": "function"}
    call = {member: value for member, value in members.items() if value not in (None, "")}
    return chunk({"tool_calls": [{**call, "function": function}]})


def says(text: str) -> Any:
    return chunk({"content": text})


def thinks(text: str) -> Any:
    return chunk({"reasoning_content": text})


def ends(reason: str | None = "stop") -> list[Any]:
    return [*([chunk(reason=reason)] if reason else []), COUNTED, "[DONE]"]


def parts(*found: Any) -> Any:
    return chunk({"content": list(found)})


def thinking(text: str) -> Any:
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}]}


def choice(**members: Any) -> Any:
    return head(choices=[{"index": 0, **members}])


CALLED, BOTH = called(A), called(A, B)
HEL_LO = [says("Hel"), says("lo"), chunk(reason="stop")]


def each(before: bytes, values: list[Any], after: bytes) -> list[bytes]:
    """Values as JSON, each between the same bytes."""
    return [before + json.dumps(value).encode() + after for value in values]


# streams that are framed as no client reads them
FRAMES = {
    "G15 lines of JSON": each(b"", HEL_LO, b"\n"),
    "G15 lines of JSON and [DONE]": [
        *each(b"", [says("Hel")], b"\n\n"),
        *each(b"", HEL_LO[1:], b"\n"),
        b"[DONE]",
    ],
    "G15 a list of chunks": [json.dumps(HEL_LO, indent=1).encode()],
    "G15 framed twice": [*each(b"data: data: ", HEL_LO, b"\n\n"), b"data: data: [DONE]\n\n"],
    "G15 a whole message in an event": sse(
        choice(message={"role": "assistant", "content": "Hello"}, finish_reason="stop"), "[DONE]"
    ),
    "G15 whole messages that grow": sse(
        *(choice(message={"content": text}, finish_reason=None) for text in ("H", "Hel", "Hello")), *ends()
    ),
    "G15 no empty lines": [*each(b"data: ", HEL_LO, b"\n"), b"data: [DONE]\n"],
    "G15 names, no empty lines": [*each(b"event: x\ndata:", HEL_LO, b"\r\n"), b"data: [DONE]\n\n"],
}
HALVES = raw(
    r'{"choices":[{"index":0,"delta":{"content":"A\ud83d"}}]}',
    r'{"choices":[{"index":0,"delta":{"content":"\ude00B"},"finish_reason":"stop"}]}',
)
HABITS: dict[str, tuple[list[bytes], Any]] = {
    "G1 text beside delta": (
        sse(
            choice(text="Hel", delta={"content": "Hel"}), choice(text="lo", delta={"content": "lo"}), *ends(),
        ), HELLO,
    ),
    "G1 message beside delta": (
        sse(
            choice(delta={"content": "Hel"}, message={"content": "Hel"}),
            choice(delta={"content": "lo"}, message={"content": "Hello"}), *ends(),
        ), HELLO,
    ),
    "G1 a whole message after the deltas": (
        sse(says("Hel"), says("lo"), choice(message={"content": "Hello"}), *ends()), HELLO,
    ),
    "G1 all of the text beside an empty piece": (
        sse(says("Hel"), says("lo"), choice(delta={"content": ""}, text="Hello"), *ends()), HELLO,
    ),
    "G1 two names for reasoning": (
        sse(chunk({"reasoning": "hm", "reasoning_content": "hm"}), says("Hello"), *ends()),
        ("Hello", "hm", [], "stop"),
    ),
    "G1 reasoning details beside reasoning": (
        sse(
            chunk({"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}),
            says("Hello"), *ends(),
        ), ("Hello", "hm", [], "stop"),
    ),
    "G2 stop after a call": (sse(piece(0, WHERE, "weather", "a"), *ends("stop")), CALLED),
    "G2 eos after a call": (sse(piece(0, WHERE, "weather", "a"), *ends("eos")), CALLED),
    "G2 tool_call after a call": (sse(piece(0, WHERE, "weather", "a"), *ends("tool_call")), CALLED),
    "G2 tool_calls without a call": (sse(says("Hello"), *ends("tool_calls")), HELLO),
    "G2 function_call without a call": (sse(says("Hello"), *ends("function_call")), HELLO),
    "G2 a length in another word": (sse(says("Hello"), *ends("MAX_TOKENS")), ("Hello", "", [], "length")),
    "G2 a filter in another word": (sse(says("No"), *ends("SAFETY")), ("No", "", [], "content_filter")),
    "G2 a filter with its kind": (
        sse(says("No"), *ends("content_filter: PROHIBITED_CONTENT")), ("No", "", [], "content_filter"),
    ),
    "G2 a length with its kind": (
        sse(says("Hello"), *ends("FinishReason.MAX_TOKENS")), ("Hello", "", [], "length"),
    ),
    **{
        f"G2 a length: {word}": (sse(says("Hello"), *ends(word)), ("Hello", "", [], "length"))
        for word in ("max_new_tokens", "length_limit", "max_context_length", "maxTokens", "max-tokens")
    },
    **{
        f"G2 a filter: {word}": (sse(says("No"), *ends(word)), ("No", "", [], "content_filter"))
        for word in ("content-filter", "PROHIBITED_CONTENT", "moderation", "blocked")
    },
    "G2 Cohere's filter": (sse(says("No"), *ends("ERROR_TOXIC")), ("No", "", [], "content_filter")),
    "G2 a call that is cut": (
        sse(piece(0, '{"city": "Zü', "weather", "a"), *ends("length")), "length",
    ),
    "G3 interleaved by index": (
        sse(
            piece(0, "", "weather", "a"), piece(1, "", "time", "b"), piece(0, WHERE[:5]), piece(1, WHEN[:3]),
            piece(0, WHERE[5:]), piece(1, WHEN[3:]), *ends("tool_calls"),
        ), BOTH,
    ),
    "G3 the first goes on after the second began": (
        sse(
            piece(0, WHERE[:9], "weather", "a"), piece(1, WHEN, "time", "b"), piece(0, WHERE[9:]),
            *ends("tool_calls"),
        ), BOTH,
    ),
    "G3 text within a call": (
        sse(piece(0, WHERE[:9], "weather", "a"), says("Hello"), piece(0, WHERE[9:]), *ends("tool_calls")),
        ("Hello", "", [A], "tool_calls"),
    ),
    "G3 reasoning within a call": (
        sse(piece(0, WHERE[:9], "weather", "a"), thinks("hm"), piece(0, WHERE[9:]), *ends("tool_calls")),
        ("", "hm", [A], "tool_calls"),
    ),
    "G3 all of it at once": (
        sse(
            piece(0, WHERE[:2], "weather", "a"), says("Hel"), piece(1, WHEN[:4], "time", "b"), thinks("hm"),
            says("lo"), piece(1, WHEN[4:]), piece(0, WHERE[2:]), *ends("tool_calls"),
        ), ("Hello", "hm", [A, B], "tool_calls"),
    ),
    "G5 halves that meet": (HALVES, ("A😀B", "", [], "stop")),
    "G5 a half that stays alone": (HALVES[:1] + sse(*ends()), ("A�", "", [], "stop")),
    "G5 a half within a text": (
        [*raw(r'{"choices":[{"index":0,"delta":{"content":"A\ude00B"}}]}'), *sse(*ends())],
        ("A�B", "", [], "stop"),
    ),
    "G5 halves in arguments": (
        [
            *raw(
                r'{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":'
                r'"weather","arguments":"{\"city\": \"\ud83d"}}]}}]}',
                r'{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":'
                r'"\ude00\"}"}}]}}]}',
            ), *sse(*ends("tool_calls")),
        ], ("", "", [["weather", '{"city": "😀"}']], "tool_calls"),
    ),
    "G5 halves in reasoning, text between": (
        [
            *raw(r'{"choices":[{"index":0,"delta":{"reasoning":"\ud83d"}}]}'), *sse(says("Hello")),
            *raw(r'{"choices":[{"index":0,"delta":{"reasoning":"\ude00"}}]}'), *sse(*ends()),
        ], ("Hello", "😀", [], "stop"),
    ),
    "G6 details of usage in the first chunk": (
        sse(
            {**says("Hello"), "usage": {"prompt_tokens_details": {"cached_tokens": 0}}}, chunk(reason="stop"),
            "[DONE]",
        ), HELLO,
    ),
    "G6 usage in floats": (
        sse(
            says("Hello"), chunk(reason="stop"),
            head(choices=[], usage={"prompt_tokens": 20.0, "completion_tokens": 5.0}), "[DONE]",
        ), HELLO,
    ),
    "G6 usage of another kind": (
        sse(says("Hello"), {**chunk(reason="stop"), "usage": ["many", 5]}, "[DONE]"), HELLO,
    ),
    "G6 usage by other names": (
        sse(
            says("Hello"), chunk(reason="stop"),
            head(choices=[], usage={"input_tokens": 20, "output_tokens": 5}), "[DONE]",
        ), HELLO,
    ),
    "G6 usage in a choice": (
        sse(says("Hello"), choice(delta={}, finish_reason="stop", usage=USAGE), "[DONE]"), HELLO,
    ),
    "G6 usage in x_groq": (
        sse(says("Hello"), {**chunk(reason="stop"), "x_groq": {"id": "r", "usage": USAGE}}, "[DONE]"), HELLO,
    ),
    "G6 a text and its call as two choices": (
        [json.dumps({"choices": [
            {"index": 0, "message": {"content": "Hello"}, "finish_reason": "tool_calls"},
            {"index": 1, "finish_reason": "tool_calls", "message": {"role": "assistant", "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "weather", "arguments": WHERE}},
            ]}},
        ]}).encode()], ("Hello", "", [A], "tool_calls"),
    ),
    "G6 another answer, which was not requested": (
        [json.dumps({"choices": [
            {"index": at, "message": {"content": text}, "finish_reason": "stop"}
            for at, text in enumerate(("Hello", "Salut"))
        ]}).encode()], HELLO,
    ),
    "G6 another answer at the same index": (
        [json.dumps({"choices": [
            {"index": 0, "message": {"content": text}, "finish_reason": "stop"} for text in ("Hello", "Salut")
        ]}).encode()], HELLO,
    ),
    "G6 index null": (
        sse(
            choice(index=None, delta={"content": "Hello"}),
            choice(index=None, delta={}, finish_reason="stop"),
        ), HELLO,
    ),
    "G6 a stray choice after the end": (
        sse(
            says("Hello"), chunk(reason="stop"),
            head(choices=[{"index": 1, "delta": {"content": "?"}}, {"index": [], "delta": 5}, 7]), "[DONE]",
        ), HELLO,
    ),
    "G6 odd logprobs": (
        sse(choice(delta={"content": "Hello"}, logprobs={"content": [{"token": 5}, None]}), *ends()), HELLO,
    ),
    "G6 created and id of other kinds": (
        sse({**says("Hello"), "id": 7, "created": "now", "model": None}, *ends()), HELLO,
    ),
    "G7 Mistral's parts": (
        sse(
            parts(thinking("h")), parts(thinking("m")), parts({"type": "text", "text": "Hel"}), says("lo"),
            *ends(),
        ), ("Hello", "hm", [], "stop"),
    ),
    "G7 both kinds in one": (
        sse(parts(thinking("hm"), {"type": "text", "text": "Hello"}), *ends()), ("Hello", "hm", [], "stop"),
    ),
    "G7 a text in an object": (
        sse(parts({"type": "text", "text": {"value": "Hello", "annotations": []}}), *ends()), HELLO,
    ),
    "G7 a part alone": (sse(chunk({"content": {"type": "text", "text": "Hello"}}), *ends()), HELLO),
    "G7 a reference between": (
        sse(parts("Hel"), parts({"type": "reference", "reference_ids": [1]}), parts("lo"), *ends()), HELLO,
    ),
    "G7 thinking as a text": (
        sse(parts({"type": "thinking", "thinking": "hm"}), says("Hello"), *ends()),
        ("Hello", "hm", [], "stop"),
    ),
    "G8 [DONE] without a reason": (sse(says("Hel"), says("lo"), "[DONE]"), HELLO),
    "G8 after a call": (sse(piece(0, WHERE, "weather", "a"), "[DONE]"), CALLED),
    "G8 with a reason that is null": (
        sse(says("Hello"), choice(delta={}, finish_reason=None), "[DONE]"), HELLO,
    ),
    "G8 a space behind": ([*sse(says("Hello")), b"data:  [DONE] \n\n"], HELLO),
    "G9 all at index 0, no ids": (
        sse(piece(0, WHERE, "weather"), piece(0, WHEN, "time"), piece(0, "{}", "weather"), *ends()),
        called(A, B, ["weather", "{}"]),
    ),
    "G9 the same name again": (
        sse(piece(0, WHERE, "weather"), piece(0, "{}", "weather"), *ends()),
        called(A, ["weather", "{}"]),
    ),
    "G9 the same name again, its arguments later": (
        sse(piece(0, WHERE, "weather"), piece(0, "", "weather"), piece(0, "{}"), *ends()),
        called(A, ["weather", "{}"]),
    ),
    "G9 nameless pieces of another index": (
        sse(piece(0, WHERE[:4], "weather", "a"), piece(1, WHERE[4:]), *ends()), CALLED,
    ),
    "G9 a name in pieces": (
        sse(piece(0, None, "wea", "a"), piece(0, None, "ther"), piece(0, WHERE), *ends()), CALLED,
    ),
    "G9 a name in pieces with empty arguments": (
        sse(piece(0, "", "wea", "a"), piece(0, "", "th", "a"), piece(0, WHERE, "er"), *ends()), CALLED,
    ),
    "G9 a name that grows": (
        sse(piece(0, "", "wea", "a"), piece(0, "", "weather", "a"), piece(0, WHERE), *ends()), CALLED,
    ),
    "G9 two names in pieces": (
        sse(
            piece(0, "", "wea", "a"), piece(0, "", "ther"), piece(1, "", "ti", "b"), piece(1, "", "me"),
            piece(0, WHERE), piece(1, WHEN), *ends(),
        ), BOTH,
    ),
    "G9 a name in pieces around a text": (
        sse(piece(0, None, "wea", "a"), says("Hello"), piece(0, None, "ther"), piece(0, WHERE), *ends()),
        ("Hello", "", [A], "tool_calls"),
    ),
    "G9 names of calls without ids": (
        sse(piece(0, "", "weather"), piece(0, WHERE), piece(0, "", "time"), piece(0, WHEN), *ends()), BOTH,
    ),
    "G9 names of calls with other ids": (
        sse(piece(0, WHERE, "weather", "a"), piece(0, "", "time", "b"), piece(0, WHEN), *ends()), BOTH,
    ),
    "G9 an id for each piece": (
        sse(piece(0, WHERE[:4], "weather", "a"), piece(0, WHERE[4:], id="b"), *ends()), CALLED,
    ),
    "G9 the older form": (
        sse(
            chunk({"function_call": {"name": "weather", "arguments": ""}}),
            chunk({"function_call": {"arguments": WHERE[:6]}}),
            chunk({"function_call": {"arguments": WHERE[6:]}}), *ends("function_call"),
        ), CALLED,
    ),
    "G9 one id for all": (
        sse(piece(0, WHERE, "weather", "call"), piece(1, WHEN, "time", "call"), *ends()), BOTH,
    ),
    "G9 a call sent twice": (
        sse(piece(0, WHERE, "weather", "a"), piece(0, WHERE, "weather", "a"), *ends()), CALLED,
    ),
    "G9 arguments as an object": (
        sse(chunk({"tool_calls": {"function": {"name": "time", "arguments": {"zone": "UTC+1"}}}}), *ends()),
        called(B),
    ),
    "G9 the arguments so far in each piece": (
        sse(*(piece(0, WHERE[:end], "weather", "a") for end in (1, 5, 9, None)), *ends("tool_calls")), CALLED,
    ),
    "G9 the name in each piece, and an object that begins as the whole one": (
        sse(*(piece(0, text, "weather", "a") for text in ('{"a":', ' {"a": 1}', "}")), *ends("tool_calls")),
        called(["weather", '{"a": {"a": 1}}']),
    ),
    "G9 an object that begins as the whole one": (
        sse(piece(0, '{"a":', "weather", "a"), piece(0, '{"a":1}}'), *ends("tool_calls")),
        called(["weather", '{"a": {"a": 1}}']),
    ),
    "G9 no object around the name": (
        sse(chunk({"tool_calls": [{"id": "a", "name": "weather", "arguments": WHERE}]}), *ends()), CALLED,
    ),
    "G9 calls by their index": (
        sse(
            chunk({"tool_calls": {
                "0": {"id": "a", "function": {"name": "weather", "arguments": WHERE}},
                "1": {"id": "b", "function": {"name": "time", "arguments": WHEN}},
            }}), *ends(),
        ), BOTH,
    ),
    "G9 a call without arguments": (
        sse(piece(0, None, "weather", "a"), *ends()), called(["weather", "{}"]),
    ),
    "G9 a call whose arguments are null": (
        sse(chunk({"tool_calls": [{"id": "a", "function": {"name": "time", "arguments": None}}]}), *ends()),
        called(["time", "{}"]),
    ),
    "G15 calls as lines of JSON": (
        each(b"", [piece(0, WHERE, "weather", "a"), chunk(reason="tool_calls")], b"\n"), CALLED,
    ),
    "G18 data with nothing": (
        [*sse(says("Hel")), b"data:\n\ndata: \n\ndata\n\n", *sse(says("lo"), *ends())], HELLO,
    ),
    "G18 a ping with empty data": (
        [*sse(says("Hel")), b"event: ping\ndata: \n\n", *sse(says("lo"), *ends())], HELLO,
    ),
    "G18 pong": (
        [*raw("pong"), *sse(says("Hel")), *raw("pong", "1", '"x"', "null"), *sse(says("lo"), *ends())], HELLO,
    ),
    "G18 empty objects": (
        sse({}, says("Hel"), {"type": "ping"}, {"choices": None}, says("lo"), *ends()), HELLO,
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", TRANSLATED)
@pytest.mark.parametrize("name", HABITS)
def test_a_habit_is_understood_on_each_way(relay: Relays, name: str, way: str) -> None:
    pieces, expected = HABITS[name]
    heard = hear(relay, TRANSLATED[way], Answer(pieces=pieces))
    if isinstance(expected, str):
        assert (heard.error, heard.reason) == (None, expected)
    else:
        check(heard, expected)


@pytest.mark.parametrize(
    "name",
    [
        "G6 usage in floats", "G6 usage by other names", "G6 usage in a choice", "G6 usage in x_groq",
        "G1 text beside delta",
    ],
)  # fmt: skip
@pytest.mark.parametrize("way", TRANSLATED)
def test_g6_usage_is_reported_as_far_as_it_can_be_read(relay: Relays, name: str, way: str) -> None:
    assert hear(relay, TRANSLATED[way], Answer(pieces=HABITS[name][0])).usage == (20, 5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FRAMES)
def test_g15_a_stream_is_framed_as_clients_read_it(relay: Relays, name: str, way: str) -> None:
    check(hear(relay, WAYS[way], Answer(pieces=FRAMES[name])), HELLO)


@pytest.mark.parametrize("form", ["application/json", "application/x-ndjson"])
@pytest.mark.parametrize("way", WAYS)
def test_g4_a_chunk_alone_is_no_whole_answer(relay: Relays, way: str, form: str) -> None:
    for played in (each(b"", [says("Hel")], b"\n"), each(b"", [says("Hel"), says("lo")], b"\n")):
        heard = hear(relay, WAYS[way], Answer(headers={"Content-Type": form}, pieces=played))
        assert heard.error == "up ended its answer in the middle"


FAILED = {
    "G9 arguments without a name": sse(piece(0, WHERE), *ends("tool_calls")),
    "G9 a nameless second object": sse(piece(0, WHERE, "weather", "a"), piece(0, WHEN), *ends("tool_calls")),
    "G9 a call that goes on after its end": sse(
        piece(0, WHERE, "weather", "a"), piece(1, WHEN, "time", "b"), piece(0, '"x"'), *ends("tool_calls")
    ),
    "G4 a reason that is none": sse(says("Hel"), *ends("insufficient_system_resource")),
    "G4 a reason that is none, with its kind": sse(
        says("Hel"), *ends("function_call_filter: MALFORMED_FUNCTION_CALL")
    ),
    "G6 an unrequested choice": sse(
        says("Hel"), head(choices=[{"index": 3, "delta": {"content": "x"}}]), *ends()
    ),
    "G8 nothing but [DONE]": sse("[DONE]"),
}


@pytest.mark.parametrize("way", TRANSLATED)
@pytest.mark.parametrize("name", FAILED)
def test_what_cannot_be_placed_is_an_error(relay: Relays, name: str, way: str) -> None:
    heard = hear(relay, TRANSLATED[way], Answer(pieces=FAILED[name]))
    assert heard.error is not None
    assert heard.error.startswith("up ")


@pytest.mark.parametrize("first", [[], sse(says("Hel"))], ids=["at once", "later"])
@pytest.mark.parametrize("way", WAYS)
def test_g28_an_error_in_a_field_of_its_name_keeps_its_words(relay: Relays, way: str, first: Any) -> None:
    for error in ({"code": 500, "message": "out of memory"}, {"error": {"message": "out of memory"}}):
        line = b"error: " + json.dumps(error).encode() + b"\n\n"
        assert hear(relay, WAYS[way], Answer(pieces=[*first, line])).error == "up: out of memory"


@pytest.mark.parametrize("way", [*TRANSLATED, "relayed chat streamed"])
def test_g4_a_connection_that_breaks_after_the_finish_reason_costs_nothing(relay: Relays, way: str) -> None:
    check(hear(relay, WAYS[way], Answer(pieces=sse(*HEL_LO), cut=True)), HELLO)


HALF = {
    "G4 no end": sse(says("Hel")),
    "G4 half an event": [*sse(says("Hel")), sse(says("lo"))[0][:40]],
    "G4 half a call": sse(piece(0, '{"city"', "weather", "a")),
    "G4 a count and no end": sse(says("Hel"), COUNTED),
    "G4 a reason that is null": sse(says("Hel"), choice(delta={}, finish_reason=None)),
}
FORMS: dict[str, dict[str, Any]] = {"chunked": {}, "close-delimited": {"is_bare": True}}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", HALF)
def test_g4_half_an_answer_is_never_a_success(relay: Relays, name: str, way: str, form: str) -> None:
    found = WAYS[way]
    heard = hear(relay, found, Answer(pieces=HALF[name], **FORMS[form]))
    assert heard.error == "up ended its answer in the middle"
    if found in RELAYED.values() and found.is_streamed:
        relay.provider.play(Answer(pieces=HALF[name]))
        received = relay.ask(found.path, found.body("up:m"))[2]
        assert received.startswith(HALF[name][0])
        assert received.endswith(b"\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("headers", [{}, {"X-Headrace-Strict": "true"}], ids=["relayed", "strict"])
def test_g4_a_chunk_of_a_completion_alone_is_no_whole_one(
    relay: Relays, headers: dict[str, str], is_streamed: bool
) -> None:
    chunk = {"object": "text_completion", "choices": [{"index": 0, "text": "Hel", "finish_reason": None}]}
    relay.provider.play(answer(chunk))
    body = {"model": "up:m", "prompt": "hi", "stream": is_streamed}
    status, _, received = relay.ask("/v1/completions", json.dumps(body).encode(), **headers)
    assert (status == 200) == is_streamed
    assert b"up ended its answer in the middle" in received


@pytest.mark.parametrize("form", FORMS)
def test_g4_half_a_completion_is_reported_as_half(relay: Relays, form: str) -> None:
    first = {
        "object": "text_completion",
        "choices": [{"index": 0, "text": "Hel", "finish_reason": None}],
    }
    for headers in ({}, {"X-Headrace-Strict": "true"}):
        way = Way("/v1/completions", {"stream": True}, headers)
        heard = hear(relay, way, Answer(pieces=sse(first), **FORMS[form]), with_tools=False)
        assert (heard.text, heard.error) == ("Hel", "up ended its answer in the middle")


WHOLE = {
    **head(usage=USAGE, choices=[
        {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"},
    ]),
    "object": "chat.completion",
}  # fmt: skip
CALLS = {
    **head(usage=USAGE, choices=[{"index": 0, "finish_reason": "tool_calls", "message": {
        "role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "weather", "arguments": WHERE}},
            {"id": "b", "type": "function", "function": {"name": "time", "arguments": WHEN}},
        ],
    }}]),
    "object": "chat.completion",
}  # fmt: skip
BODIES: dict[str, tuple[list[bytes], Any]] = {
    "JSON": ([json.dumps(WHOLE).encode()], HELLO),
    "JSON with calls": ([json.dumps(CALLS).encode()], ("", "hm", [A, B], "tool_calls")),
    "JSON after white space": ([b"\xef\xbb\xbf \r\n\n", json.dumps(WHOLE).encode()], HELLO),
    "a stream": (sse(says("Hel"), says("lo"), *ends()), HELLO),
    "a stream with calls": (
        sse(thinks("hm"), piece(0, WHERE, "weather", "a"), piece(1, WHEN, "time", "b"), *ends("tool_calls")),
        ("", "hm", [A, B], "tool_calls"),
    ),
}
LABELS = ["text/event-stream", "application/json", "text/plain", "text/html; charset=utf-8", "x"]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("way", WAYS)
def test_g15_the_body_decides_its_form(relay: Relays, way: str, body: str, label: str) -> None:
    pieces, expected = BODIES[body]
    found = WAYS[way]
    relay.provider.play(Answer(pieces=pieces, headers={"Content-Type": label}))
    status, headers, received = relay.ask(found.path, found.body("up:m"), **found.headers)
    heard = found.heard(status, received)
    check(heard, expected)
    assert heard.usage == (20, 5)
    is_stream = headers["content-type"].startswith("text/event-stream")
    assert is_stream == found.is_streamed
    if not is_stream:
        assert headers["content-type"] == "application/json"


def test_g15_an_error_with_200_and_any_label_is_an_error(relay: Relays) -> None:
    for way in (*RELAYED.values(), *TRANSLATED.values()):
        played = answer({"error": {"message": "its words"}}, headers={"Content-Type": "text/plain"})
        assert "its words" in (hear(relay, way, played).error or "")


def test_g5_a_half_in_an_error_is_replaced(relay: Relays) -> None:
    sent = rb'{"error": {"message": "half \ud83d of it", "code": "c\udc00", "type": "\ud800"}}'
    for way in (*RELAYED.values(), *TRANSLATED.values()):
        played = Answer(400, {"Content-Type": "application/json"}, [sent])
        heard = hear(relay, way, played)
        assert "half � of it" in (heard.error or "")
        if "responses" not in way.path:
            assert heard.status == 400


@pytest.mark.parametrize("way", WAYS)
def test_g19_a_header_of_other_bytes_does_no_harm(relay: Relays, way: str) -> None:
    odd = {"x-ratelimit-remaining-tokens": "9é\x80", "x-ratelimit-limit-tokens": "7", "retry-after": "\xff"}
    found = WAYS[way]
    played = BODIES["a stream" if found.is_streamed else "JSON"][0]
    relay.provider.play(Answer(pieces=played, headers=odd), Answer(429, odd, [b'{"error": "slow down"}']))
    for status in (200, 429):
        seen, headers, body = relay.ask(found.path, found.body("up:m"), **found.headers)
        heard = found.heard(seen, body)
        assert heard.text == ("Hello" if status == 200 else "")
        assert "x-ratelimit-remaining-tokens" not in headers
        if status == 429:
            assert heard.error
            assert heard.status in (429, 200 if "responses" in found.path else 429)


LIMITS = {
    "anthropic-ratelimit-unified-5h-reset": "1764400000", "anthropic-ratelimit-unified-7d-status": "allowed",
    "retry-after-ms": "1500", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-tokens": "6m0s",
    "x-ratelimit-limit-requests-day": "5", "retry-after": "2",
}  # fmt: skip


@pytest.mark.parametrize("way", ["relayed chat", "chat", "chat kept", "messages", "messages streamed"])
def test_g24_limits_are_passed_on_with_a_refusal(relay: Relays, way: str) -> None:
    found = WAYS[way]
    relay.provider.play(answer({"error": {"message": "slow"}}, status=429, headers=LIMITS))
    status, headers, _ = relay.ask(found.path, found.body("up:m"), **found.headers)
    assert status == 429
    assert {name: headers[name] for name in LIMITS} == LIMITS


def test_g24_limits_are_passed_on_with_an_answer(relay: Relays) -> None:
    relay.provider.play(answer(WHOLE, headers=LIMITS))
    _, headers, _ = relay.ask("/v1/chat/completions", RELAYED["relayed chat"].body("up:m"))
    assert {name: headers[name] for name in LIMITS} == LIMITS


ROLE = chunk({"role": "assistant", "content": ""})
OVERLOADED = {"error": {"message": "overloaded", "type": "overloaded_error"}}
NOTHING_YET: dict[str, Answer] = {
    "after the role": Answer(pieces=sse(ROLE, OVERLOADED)),
    "in a later piece": Answer(pieces=sse(ROLE, OVERLOADED), delay_s=0.05),
    "after a heartbeat": Answer(pieces=[b": ping\n\ndata: ping\n\n", *sse(ROLE, ROLE, OVERLOADED)]),
    "the connection ends after the role": Answer(pieces=sse(ROLE)),
    "the connection breaks after the role": Answer(pieces=sse(ROLE), cut=True),
}


@pytest.mark.parametrize("name", NOTHING_YET)
@pytest.mark.parametrize("way", ["relayed chat streamed", "chat streamed", "messages streamed", "responses"])
def test_g23_a_route_goes_on_until_the_first_content(name: str, way: str) -> None:
    found = WAYS[way]
    limit: dict[str, Any] = {} if "chat" not in way else {"max_completion_tokens": 5}
    with relays() as relay:  # a circuit breaker of its own
        relay.provider.play(NOTHING_YET[name])
        played = Answer(pieces=sse(ROLE, says("Hello"), *ends()))
        check(hear(relay, found, played, model="fast", **limit), HELLO)
    assert len(relay.provider.posts) == 2


def test_g23_a_target_with_content_is_not_requested_again(relay: Relays) -> None:
    for way in (RELAYED["relayed chat streamed"], TRANSLATED["chat streamed"]):
        relay.provider.forget()
        before = len(relay.provider.posts)
        played = Answer(pieces=sse(ROLE, says("Hel"), OVERLOADED))
        heard = hear(relay, way, played, model="fast", max_completion_tokens=5)
        assert heard.text == "Hel"
        assert "overloaded" in (heard.error or "")
        assert len(relay.provider.posts) == before + 1


@pytest.mark.parametrize("beat", ["", " ", "pong", "1", '"x"'])
def test_g18_heartbeats_are_not_passed_on(relay: Relays, beat: str) -> None:
    """Clients try to parse them; everything else is passed on byte for byte."""
    first, *rest = sse(ROLE, says("Hello"), *ends())
    noise = f"event: ping\ndata: {beat}\n\ndata:{beat}\r\n\r\n".encode()
    relay.provider.play(Answer(pieces=[noise, first, b": comment\n\n", noise, *rest]))
    way = RELAYED["relayed chat streamed"]
    assert relay.ask(way.path, way.body("up:m"))[2] == b"".join([first, b": comment\n\n", *rest])


THOUGHTS = [
    [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "Hi"}],
    [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Hi"}],
    [
        {"type": "thinking", "thinking": "h"}, {"type": "text", "text": "Hi"},
        {"type": "thinking", "thinking": "m"},
    ],
]  # fmt: skip


@pytest.mark.parametrize("content", THOUGHTS)
@pytest.mark.parametrize("way", ["chat", "chat streamed", "chat kept"])
def test_g7_thoughts_come_back_in_a_history(relay: Relays, way: str, content: list[Any]) -> None:
    history = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": content}]
    messages = [*history, {"role": "user", "content": "and?"}]
    heard = hear(relay, TRANSLATED[way], Answer(pieces=HABITS["G7 both kinds in one"][0]), messages=messages)
    assert heard.said == ("Hello", "hm", [], "stop")
    sent = relay.provider.posts[-1].body["messages"][1]
    assert (sent["content"], sent.get("reasoning_content")) == ("Hi", "hm")


@pytest.mark.parametrize("thinking", [5, None, [5], [{"type": "text"}], {}])
def test_g7_thoughts_of_no_known_shape_are_refused(relay: Relays, thinking: object) -> None:
    content = [{"type": "thinking", "thinking": thinking}]
    messages = [{"role": "assistant", "content": content}, {"role": "user", "content": "hi"}]
    way = TRANSLATED["chat"]
    status, _, body = relay.ask(way.path, way.body("up:m", messages=messages), **way.headers)
    assert (status, json.loads(body)["error"]["param"]) == (400, "messages.0.content.0")
