"""Surprises in what providers of each dialect send: each costs at most the piece that it is in, nothing is a
success without an end, and every caller hears the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.habits import HELLO, Expected, called, check, hear, raw
from tests.api.relays import CALLERS, Relays
from tests.api.test_provider_habits_others import (
    AT_AN,
    AT_OL,
    NDJSON,
    WAYS,
    begin,
    delta,
    last,
    line,
    lines,
    ollama_call,
    others,
    part,
    stop,
    use,
)
from tests.backends.anthropic_wire import Named, end, named, start, text
from tests.backends.two_ways import COUNTED, USAGE, chunk, head
from tests.heard import RELAYED, STREAM, TRANSLATED, Way
from tests.upstream import Answer, answer, sse

WHERE = '{"city": "Zürich"}'
A = ["weather", WHERE]
END = [chunk(reason="stop"), COUNTED, "[DONE]"]
CHAT = {**TRANSLATED, "relayed chat": RELAYED["relayed chat"]}
BOTH_RELAYED = {"relayed": Way("/v1/messages", {}), "relayed streamed": Way("/v1/messages", STREAM)}


@pytest.fixture(scope="module")
def other() -> Iterator[Relays]:
    with others() as found:
        yield found


def say(content: object) -> Any:
    return chunk({"content": content})


def of(**choice: Any) -> Any:
    return head(choices=[{"index": 0, **choice}])


def call(**members: Any) -> Any:
    return chunk({"tool_calls": [{"index": 0, "id": "a", **members}]})


def saying(data: str) -> bytes:
    return raw('{"choices":[{"index":0,"delta":{"content":' + data + "}}]}")[0]


OPENAI: dict[str, tuple[list[bytes], Expected]] = {
    "a text that is true": (sse(say(True), say("Hello"), *END), HELLO),
    "a text of numbers": (sse(say([1, 2]), say(3.5), *END), ("123.5", "", [], "stop")),
    "a text of odd parts": (sse(say(["Hel", None, False, {"content": "lo"}]), *END), HELLO),
    "parts within parts": (sse(say([[{"text": [{"text": "Hel"}]}], {"text": {"text": "lo"}}]), *END), HELLO),
    "reasoning that is true": (sse(chunk({"reasoning": True}), say("Hello"), *END), HELLO),
    "choices that are none": (
        sse(head(choices=5), head(choices="x"), head(choices=[7]), say("Hello"), *END), HELLO,
    ),
    "choices by index": (sse(head(choices={"0": {"delta": {"content": "Hello"}}}), *END), HELLO),
    "a choice alone": (sse(head(choices={"index": 0, "delta": {"content": "Hello"}}), *END), HELLO),
    "an index that begins with 1": (
        sse(head(choices=[{"index": 1, "delta": {"content": "Hello"}}]), "[DONE]"), HELLO,
    ),
    "messages in pieces": (sse(of(message={"content": "Hel"}), of(message={"content": "lo"}), *END), HELLO),
    "messages that grow": (
        sse(of(message={"content": "Hel"}), of(message={"content": "Hello"}), *END), HELLO,
    ),
    "a message as a text": (sse(of(message="Hello"), *END), HELLO),
    "a message that repeats the rest": (
        sse(say("Hel"), say("lo"), of(message={"content": "Hello"}), *END), HELLO,
    ),
    "calls that are none": (sse(chunk({"tool_calls": [5, "x", None]}), say("Hello"), *END), HELLO),
    "arguments that are a list": (
        sse(call(function={"name": "time", "arguments": [1]}), *END),
        called(["time", '{"arguments": "[1]"}']),
    ),
    "arguments that are empty at first": (
        sse(call(function={"name": "weather", "arguments": {}}), call(function={"arguments": WHERE}), *END),
        called(A),
    ),
    "no arguments but an empty object": (
        sse(call(function={"name": "weather", "arguments": {}}), *END), called(["weather", "{}"]),
    ),
    "arguments by another name": (
        sse(call(function={"name": "weather", "parameters": {"city": "Zürich"}}), *END), called(A),
    ),
    "arguments as input": (sse(call(name="weather", input={"city": "Zürich"}), *END), called(A)),
    "a call of its own kind": (
        sse(call(type="custom", custom={"name": "weather", "input": WHERE}), *END), called(A),
    ),
    "a function that is a name": (sse(call(function="weather", arguments=WHERE), *END), called(A)),
    "a reason in the delta": (sse(say("Hello"), chunk({"finish_reason": "stop"})), HELLO),
    "[done]": ([*sse(say("Hello")), *raw("[done]")], HELLO),
    "DONE": ([*sse(say("Hello")), *raw("DONE")], HELLO),
    "[DONE] in quotes": ([*sse(say("Hello")), *raw('"[DONE]"')], HELLO),
    "a byte order mark": ([b"\xef\xbb\xbf", *sse(say("Hello"), *END)], HELLO),
    "control characters as they are": (
        [saying('"a\tb\x0bc\x00d"'), *sse(*END)], ("a\tb\x0bc\x00d", "", [], "stop"),
    ),
    "a number of 5,000 digits": (
        [
            *raw('{"created":' + "9" * 5000 + ',"choices":[{"index":0,"delta":{"content":"Hello"}}]}'),
            *sse(*END),
        ], HELLO,
    ),
    "bytes that are no UTF-8": (
        [saying('"a\xffb"').decode().encode("latin-1"), *sse(*END)], ("a�b", "", [], "stop"),
    ),
    **{
        f"reasoning as {name}": (sse(chunk({name: "hm"}), say("Hello"), *END), ("Hello", "hm", [], "stop"))
        for name in ("thinking", "reasoning_text", "thinking_blocks", "thinking_content")
    },
}  # fmt: skip


def unwrapped(way: str, expected: Expected) -> Expected:
    """Messages have objects as arguments: others are wrapped in one."""
    calls = [[name, json.loads(arguments)] for name, arguments in expected[2]]
    texts = [value["arguments"] if list(value) == ["arguments"] else json.dumps(value) for _, value in calls]
    plain = [[name, text] for (name, _), text in zip(calls, texts, strict=True)]
    is_wrapped = way in ("messages", "messages streamed", "relayed")
    return expected if is_wrapped else (*expected[:2], plain, expected[3])


@pytest.mark.parametrize("way", CHAT)
@pytest.mark.parametrize("name", OPENAI)
def test_a_surprise_costs_no_more_than_its_piece(relay: Relays, name: str, way: str) -> None:
    pieces, expected = OPENAI[name]
    check(hear(relay, CHAT[way], Answer(pieces=pieces)), unwrapped(way, expected))


@pytest.mark.parametrize(
    "name", ["[done]", "DONE", "[DONE] in quotes", "a byte order mark", "bytes that are no UTF-8"]
)
def test_what_no_client_reads_is_not_passed_on(relay: Relays, name: str) -> None:
    relay.provider.play(Answer(pieces=OPENAI[name][0]))
    way = RELAYED["relayed chat streamed"]
    _, _, received = relay.ask(way.path, way.body("up:m"))
    assert received.decode().startswith("data: {")
    assert received.endswith(b"\n\ndata: [DONE]\n\n")


NOTHING = {
    "no choices": sse(head(choices=[]), "[DONE]"),
    "no choices but a count": sse(head(choices=[], usage=USAGE), "[DONE]"),
    "empty objects": sse({}, {}, "[DONE]"),
    "choices that are null": sse(head(choices=None), "[DONE]"),
    "another dialect": sse({"type": "message_start"}, {"done": True}, "[DONE]"),
}


@pytest.mark.parametrize("way", [*CHAT, "relayed chat streamed"])
@pytest.mark.parametrize("name", NOTHING)
def test_an_answer_without_a_choice_is_no_success(relay: Relays, name: str, way: str) -> None:
    found = {**CHAT, **RELAYED}[way]
    assert "in the middle" in (hear(relay, found, Answer(pieces=NOTHING[name])).error or "")


NO_ANSWERS: tuple[Any, ...] = (
    {}, {"choices": []}, {"choices": None}, {"choices": "x"}, {"data": {"choices": [{}]}}, {"output": []},
    {"choices": [{"index": 0, "message": {"content": "Hel"}, "finish_reason": "error"}]},
)  # fmt: skip


@pytest.mark.parametrize("way", [*CHAT, "relayed chat streamed"])
def test_a_body_that_is_no_answer_is_no_success(relay: Relays, way: str) -> None:
    for body in NO_ANSWERS:
        assert hear(relay, {**CHAT, **RELAYED}[way], answer(body)).error


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
def test_no_relayed_endpoint_passes_on_what_is_no_answer(relay: Relays, path: str) -> None:
    bodies: list[Any] = [{}, {"choices": [], "data": []}, {"object": "list"}]
    for body in bodies:
        relay.provider.play(answer(body))
        request = {"model": "up:m", "prompt": "hi", "input": "hi"}
        assert relay.ask(path, json.dumps(request).encode())[0] == 502


EMPTY_TEXT = begin(0, type="text", text="")
ANTHROPIC: dict[str, tuple[list[bytes], Expected]] = {
    "a text that is a number": (
        sse(start(), EMPTY_TEXT, delta(0, type="text_delta", text=5), *end()), ("5", "", [], "stop"),
    ),
    "a text in parts": (
        sse(start(), EMPTY_TEXT, delta(0, type="text_delta", text=["Hel", {"text": "lo"}]), *end()), HELLO,
    ),
    "a delta that is a text": (
        sse(start(), EMPTY_TEXT, named("content_block_delta", index=0, delta="Hello"), *end()), HELLO,
    ),
    "deltas without a type": (
        sse(
            start(), begin(0, type="thinking", thinking=""), delta(0, thinking="hm"), stop(0), use(1),
            delta(1, partial_json=WHERE), stop(1), *end("tool_use"),
        ), ("", "hm", [A], "tool_calls"),
    ),
    "a block without a type": (
        sse(start(), begin(0, text="Hel"), delta(0, type="text_delta", text="lo"), *end()), HELLO,
    ),
    "a block that is null": (
        sse(
            start(), named("content_block_start", index=0, content_block=None),
            delta(0, type="text_delta", text="Hello"), *end(),
        ), HELLO,
    ),
    "arguments as an object": (
        sse(
            start(), use(0), delta(0, type="input_json_delta", partial_json={"city": "Zürich"}), stop(0),
            *end("tool_use"),
        ), called(A),
    ),
    "input as a text": (
        sse(
            start(), begin(0, type="tool_use", id="a", name="weather", input=WHERE), stop(0),
            *end("tool_use"),
        ), called(A),
    ),
    "arguments before their block": (
        sse(start(), part(0, WHERE), use(0), stop(0), *end("tool_use")), called(A),
    ),
    "broken arguments": (
        sse(start(), use(0), part(0, '{"city": '), stop(0), *end("tool_use")),
        called(["weather", json.dumps({"arguments": '{"city": '})]),
    ),
    "a reason beside the delta": (
        sse(
            start(), *text(0, "Hello"), named("message_delta", stop_reason="max_tokens"),
            named("message_stop"),
        ), ("Hello", "", [], "length"),
    ),
    "[done] after a reason": ([*sse(start(), *text(0, "Hello"), end()[0]), *raw("[done]")], HELLO),
}  # fmt: skip


@pytest.mark.parametrize("way", [*WAYS, "relayed"])
@pytest.mark.parametrize("name", ANTHROPIC)
def test_anthropics_surprises_cost_no_more_than_their_piece(other: Relays, name: str, way: str) -> None:
    pieces, expected = ANTHROPIC[name]
    heard = hear(other, {**WAYS, **BOTH_RELAYED}[way], Answer(pieces=pieces), **AT_AN)
    if name == "broken arguments" and way not in ("messages", "relayed"):
        assert (heard.error, heard.calls) == (None, [["weather", '{"city": ']])
    else:
        check(heard, expected)


EMPTY: dict[str, list[Named]] = {
    "a beginning and an end": [start(), named("message_stop")],
    "a ping and an end": [named("ping"), named("message_stop")],
    "an end alone": [named("message_stop")],
    "pings": [named("ping"), named("ping")],
}


@pytest.mark.parametrize("way", [*WAYS, *BOTH_RELAYED])
@pytest.mark.parametrize("name", EMPTY)
def test_a_message_without_content_or_reason_is_no_success(other: Relays, name: str, way: str) -> None:
    heard = hear(other, {**WAYS, **BOTH_RELAYED}[way], Answer(pieces=sse(*EMPTY[name])), **AT_AN)
    assert "in the middle" in (heard.error or "")


@pytest.mark.parametrize("way", BOTH_RELAYED)
def test_a_body_that_is_no_message_is_no_success(other: Relays, way: str) -> None:
    bodies: list[Any] = [{}, {"content": None}, {"choices": []}, {"content": [], "stop_reason": "error"}]
    for body in bodies:
        assert hear(other, BOTH_RELAYED[way], answer(body), **AT_AN).error


def test_an_error_that_anthropics_clients_would_skip_is_written_as_one(other: Relays) -> None:
    """They know events by their names."""
    errors = (
        {"error": {"message": "its words"}},
        {"type": "error", "error": {"message": "its words"}},
        ("message", {"type": "error", "error": {"message": "its words"}}),
    )
    for error in errors:
        pieces = sse(start(), *text(0, "Hel")[:2], error)
        other.provider.play(Answer(pieces=pieces), path="/v1/messages")
        way = BOTH_RELAYED["relayed streamed"]
        _, _, received = other.ask(way.path, way.body("an:m"))
        name, data = received.rpartition(b"event: ")[2].split(b"\n")[:2]
        assert name == b"error"
        assert "its words" in json.loads(data.partition(b":")[2])["error"]["message"]


OLLAMA: dict[str, tuple[list[bytes], Expected]] = {
    "a text that is a number": (lines(line(content=5), last()), ("5", "", [], "stop")),
    "a text in parts": (lines(line(content=["Hel", {"text": "lo"}]), last()), HELLO),
    "a message as a text": (lines({"message": "Hello", "done": False}, last()), HELLO),
    "thinking that is true": (lines(line(thinking=True), line(content="Hello"), last()), HELLO),
    "reasoning": (lines(line(reasoning="hm"), line(content="Hello"), last()), ("Hello", "hm", [], "stop")),
    **{
        f"done is {done!r}": (lines(line(content="Hello"), last(done=done)), HELLO)
        for done in ("true", "True", 1)
    },
    "no done but a reason": (lines(line(content="Hello"), last(done=None)), HELLO),
    "events of a stream": (
        [
            *(b": hi\n\nevent: m\ndata: " + one + b"\n" for one in lines(line(content="Hello"), last())),
            *raw("[DONE]"),
        ], HELLO,
    ),
    "a byte order mark": ([b"\xef\xbb\xbf", *lines(line(content="Hello"), last())], HELLO),
    "a flat call": (
        lines(line(tool_calls=[{"name": "weather", "arguments": {"city": "Zürich"}}]), last()), called(A),
    ),
    "arguments that are a list": (
        lines(line(tool_calls=[ollama_call("time", [1])]), last()), called(["time", '{"arguments": "[1]"}']),
    ),
    "calls that are none": (
        lines(line(content="Hello", tool_calls=[5, "x"]), line(tool_calls="x"), last()), HELLO,
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", TRANSLATED)
@pytest.mark.parametrize("name", OLLAMA)
def test_ollamas_surprises_cost_no_more_than_their_piece(other: Relays, name: str, way: str) -> None:
    pieces, expected = OLLAMA[name]
    played = Answer(headers=NDJSON, pieces=pieces)
    check(hear(other, TRANSLATED[way], played, **AT_OL), unwrapped(way, expected))


NO_OBJECTS = ("hello", "[1]", '"x"', "{'city': 1}", "{", " \n5", '"Zürich 🌊"\n', "nul", "{x}", 'a"b\\')
BROKEN = (*NO_OBJECTS, '{"city": ', '{"a":1}{"b":2}')


@pytest.mark.parametrize("arguments", BROKEN)
def test_arguments_that_are_no_object_are_not_told_as_none(relay: Relays, arguments: str) -> None:
    """A client would run the tool with them. The wrapper comes back as the text that it contains."""
    pieces = sse(call(function={"name": "weather", "arguments": arguments}), *END)
    heard = hear(relay, TRANSLATED["messages"], Answer(pieces=pieces))
    assert [[name, json.loads(text)] for name, text in heard.calls] == [["weather", {"arguments": arguments}]]
    streamed = hear(relay, TRANSLATED["messages streamed"], Answer(pieces=pieces)).calls
    if arguments in NO_OBJECTS:
        assert [[name, json.loads(text)] for name, text in streamed] == [
            ["weather", {"arguments": arguments}]
        ]
    else:  # it has been sent before it breaks
        assert streamed == [["weather", arguments]]
    for is_streamed in (False, True):  # Ollama's callers
        relay.provider.play(Answer(pieces=pieces))
        tools = TRANSLATED["chat"].body("up:m")
        request = {**json.loads(tools), "stream": is_streamed}
        _, _, received = relay.ask("/api/chat", json.dumps(request).encode())
        found = [json.loads(one)["message"].get("tool_calls") for one in received.splitlines()]
        calls = next(filter(None, found))
        assert [one["function"]["arguments"] for one in calls] == [{"arguments": arguments}]


def test_blanks_after_a_calls_arguments_do_no_harm(relay: Relays) -> None:
    pieces = sse(
        call(function={"name": "weather", "arguments": WHERE}), call(function={"arguments": "\n"}), *END
    )
    relay.provider.play(Answer(pieces=pieces))
    request = {**json.loads(TRANSLATED["chat"].body("up:m")), "stream": True}
    status, _, received = relay.ask("/api/chat", json.dumps(request).encode())
    found = [json.loads(one) for one in received.splitlines()]
    assert status == 200
    assert [one["done"] for one in found] == [False, True]
    assert found[0]["message"]["tool_calls"][0]["function"]["arguments"] == json.loads(WHERE)


@pytest.mark.parametrize("way", [*CHAT, "relayed chat streamed"])
def test_no_count_is_too_large_to_be_kept(relay: Relays, way: str, caplog: pytest.LogCaptureFixture) -> None:
    for count in (10**30, "9" * 400, 2**63, 1e300):
        usage = {"prompt_tokens": count, "completion_tokens": count}
        pieces = sse(say("Hello"), chunk(reason="stop"), head(choices=[], usage=usage), "[DONE]")
        assert hear(relay, {**CHAT, **RELAYED}[way], Answer(pieces=pieces)).text == "Hello"
    assert relay.served.http.get("/v1/usage", headers={"Authorization": f"Bearer {CALLERS}"}).is_success
    assert not [record for record in caplog.records if record.exc_info]
