"""Habits of providers that speak Anthropic's dialect and Ollama's, and what every caller hears of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from headrace.app import create_app
from headrace.assembly import build_providers
from headrace.config import Config
from tests.api.habits import HELLO, Expected, called, check, hear, raw
from tests.api.relays import CALLERS, KEY, Relays
from tests.backends.anthropic_wire import Named, end, named, start, text, thinking, tool_use
from tests.heard import STREAM, STRICT, TRANSLATED, Way
from tests.serving import eventually, serving
from tests.upstream import Answer, answer, scripted, sse

RELAYED = {
    "relayed": Way("/v1/messages", {}),
    "relayed streamed": Way("/v1/messages", STREAM),
}
WAYS = {
    **{name: way for name, way in TRANSLATED.items() if "messages" not in name},
    "messages": Way("/v1/messages", {}, STRICT),
    "messages streamed": Way("/v1/messages", STREAM, STRICT),
}
PATH, CHAT = "/v1/messages", "/api/chat"
AT_AN, AT_OL = {"model": "an:m", "path": PATH}, {"model": "ol:m", "path": CHAT}
NDJSON = {"Content-Type": "application/x-ndjson"}


@contextmanager
def others() -> Iterator[Relays]:
    """Providers `an` and `an2` (Anthropic's dialect) and `ol` (Ollama), at the same address."""
    with scripted() as provider:
        provider.always("/v1/models", answer({"data": [{"id": "m"}]}))
        provider.always("/api/tags", answer({"models": [{"name": "m"}]}))
        provider.always("/api/show", answer({"model_info": {"x.context_length": 16384}}))
        common = {"api_key": KEY, "timeout_s": 5, "models": ["m"], "base_url": provider.url}
        config = Config.model_validate(
            {
                "server": {"api_keys": [CALLERS]},
                "models": {"default": ""},
                "providers": {
                    "an": {**common, "kind": "anthropic"},
                    "an2": {**common, "kind": "anthropic"},
                    "ol": {**common, "kind": "ollama"},
                },
                "routes": {"both": {"targets": ["an:m", "an2:m"], "retries": 0}},
            }
        )
        with serving(create_app(config, build_providers(config))) as served:
            yield Relays(provider, served)


@pytest.fixture(scope="module")
def shared() -> Iterator[Relays]:
    with others() as found:
        yield found


def num_requests(relay: Relays) -> int:
    return sum(seen.path == PATH for seen in relay.provider.posts)


def delta(index: int, **members: Any) -> Named:
    return named("content_block_delta", index=index, delta=members)


def begin(index: int, **members: Any) -> Named:
    return named("content_block_start", index=index, content_block=members)


def use(index: int, id: str = "a", name: str = "weather", **members: Any) -> Named:
    return begin(index, type="tool_use", id=id, name=name, input={}, **members)


def part(index: int, text: str) -> Named:
    return delta(index, type="input_json_delta", partial_json=text)


def stop(index: int) -> Named:
    return named("content_block_stop", index=index)


WHERE, WHEN = '{"city": "Zürich"}', '{"zone": 1}'
A, B = ["weather", WHERE], ["time", WHEN]
TEXT = text(0, "Hel", "lo")
CALLED, BOTH = called(A), called(A, B)


ANTHROPIC: dict[str, tuple[list[bytes], Expected]] = {
    "G2 end_turn after a call": (sse(start(), *tool_use(0, "a", "weather", WHERE), *end("end_turn")), CALLED),
    "G2 tool_use without a call": (sse(start(), *TEXT, *end("tool_use")), HELLO),
    "G2 an unknown reason": (sse(start(), *TEXT, *end("done")), HELLO),
    "G3 calls side by side": (
        sse(
            start(), use(0), use(1, "b", "time"), part(0, WHERE[:5]), part(1, WHEN[:4]), part(0, WHERE[5:]),
            part(1, WHEN[4:]), stop(1), stop(0), *end("tool_use"),
        ), BOTH,
    ),
    "G3 text within a call": (
        sse(
            start(), use(0), part(0, WHERE[:5]), begin(1, type="text", text=""),
            delta(1, type="text_delta", text="Hello"), part(0, WHERE[5:]), stop(0), stop(1), *end("tool_use"),
        ), ("Hello", "", [A], "tool_calls"),
    ),
    "G3 a thought within a text": (
        sse(
            start(), begin(0, type="text", text="Hel"), *thinking(1, "hm"),
            delta(0, type="text_delta", text="lo"), stop(0), *end(),
        ), ("Hello", "hm", [], "stop"),
    ),
    "G5 halves that meet": (
        [
            *sse(start()), *raw(
                r'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"A\ud83d"}}',
                r'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\ude00B"}}',
            ), *sse(*end()),
        ], ("A😀B", "", [], "stop"),
    ),
    "G5 a half that stays alone": (
        [
            *sse(start()),
            *raw(r'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"A\ud83d"}}'),
            *sse(*end()),
        ], ("A�", "", [], "stop"),
    ),
    "G6 usage of other kinds": (
        sse(start(input_tokens="many", output_tokens=[1]), *TEXT, *end(output_tokens=None)), HELLO,
    ),
    "G8 no reason": (
        sse(start(), *TEXT, named("message_delta", delta={}, usage={}), named("message_stop")), HELLO,
    ),
    "G8 no message_delta": (sse(start(), *TEXT, named("message_stop")), HELLO),
    "G9 no end of a block": (
        sse(start(), use(0), part(0, WHERE), use(1, "b", "time"), part(1, WHEN), *end("tool_use")),
        BOTH,
    ),
    "G9 no end of a block with whole arguments": (
        sse(
            start(), begin(0, type="tool_use", id="a", name="weather", input={"city": "Zürich"}),
            *end("tool_use"),
        ), CALLED,
    ),
    "G9 all at index 0": (
        sse(
            start(), use(0), part(0, WHERE), stop(0), use(0, "b", "time"), part(0, WHEN), stop(0),
            *end("tool_use"),
        ), BOTH,
    ),
    "G9 one id for both": (
        sse(start(), use(0), part(0, WHERE), stop(0), use(1, "a", "time"), part(1, WHEN), stop(1), *end()),
        BOTH,
    ),
    "G9 a block of another kind": (
        sse(
            start(), begin(0, type="server_tool_use", id="s", name="search", input={}), part(0, '{"q": 1}'),
            stop(0), *text(1, "Hel", "lo"), *end(),
        ), HELLO,
    ),
    "G18 heartbeats": (
        [
            *raw("", "pong"), *sse(start()), b"event: ping\ndata: \n\nevent: ping\ndata: {}\n\ndata:\n\n",
            *sse(*TEXT, named("new_event"), *end()),
        ], HELLO,
    ),
    "G1 the beginning twice": (sse(start(), start(), *TEXT, *end()), HELLO),
    "G1 the end twice": (sse(start(), *TEXT, *end(), *end()), HELLO),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ANTHROPIC)
def test_anthropics_habits_are_understood_on_each_way(relay: Relays, name: str, way: str) -> None:
    pieces, expected = ANTHROPIC[name]
    check(hear(relay, WAYS[way], Answer(pieces=pieces), **AT_AN), expected)


EVENTS = [start(), *TEXT, *end()]
FRAMES = {
    "G15 no names": sse(*(value for _, value in EVENTS)),
    "G15 lines of JSON": [json.dumps(value).encode() + b"\n" for _, value in EVENTS],
    "G15 framed twice": [
        f"event: {name}\ndata: data: {json.dumps(value)}\n\n".encode() for name, value in EVENTS
    ],
    "G15 no empty lines": [f"event: {name}\ndata: {json.dumps(value)}\n".encode() for name, value in EVENTS],
}


@pytest.mark.parametrize("way", [*WAYS, *RELAYED])
@pytest.mark.parametrize("name", FRAMES)
def test_g15_anthropics_stream_is_framed_as_clients_read_it(relay: Relays, name: str, way: str) -> None:
    check(hear(relay, {**WAYS, **RELAYED}[way], Answer(pieces=FRAMES[name]), **AT_AN), HELLO)


@pytest.mark.parametrize("way", WAYS)
def test_g9_arguments_of_no_call_are_an_error(relay: Relays, way: str) -> None:
    for events in ([part(0, WHERE)], [use(0, name=""), part(0, WHERE), stop(0)]):
        heard = hear(relay, WAYS[way], Answer(pieces=sse(start(), *events, *end("tool_use"))), **AT_AN)
        assert "without its name" in (heard.error or "")


HALF = {
    "no end": sse(start(), *TEXT),
    "half an event": [*sse(start(), *TEXT), b'event: message_delta\ndata: {"type": "mess'],
    "half a call": sse(start(), use(0), part(0, '{"city"')),
    "nothing but the head": sse(start()),
}


@pytest.mark.parametrize("is_bare", [False, True], ids=["chunked", "close-delimited"])
@pytest.mark.parametrize("way", [*RELAYED, *WAYS])
@pytest.mark.parametrize("name", HALF)
def test_g4_half_a_message_is_never_a_success(relay: Relays, name: str, way: str, is_bare: bool) -> None:
    found = {**RELAYED, **WAYS}[way]
    heard = hear(relay, found, Answer(pieces=HALF[name], is_bare=is_bare), **AT_AN)
    assert "in the middle" in (heard.error or "")


@pytest.mark.parametrize("way", [*RELAYED, *WAYS])
def test_g4_a_message_with_a_stop_reason_is_complete_without_message_stop(relay: Relays, way: str) -> None:
    """Anthropic's own clients return it without an error."""
    pieces = sse(start(), *TEXT, *end())[:-1]
    check(hear(relay, {**RELAYED, **WAYS}[way], Answer(pieces=pieces), **AT_AN), HELLO)


@pytest.mark.parametrize("way", ["relayed streamed", *WAYS])
def test_g4_a_connection_that_breaks_after_the_stop_reason_costs_nothing(relay: Relays, way: str) -> None:
    pieces = sse(start(), *TEXT, *end())[:-1]
    check(hear(relay, {**RELAYED, **WAYS}[way], Answer(pieces=pieces, cut=True), **AT_AN), HELLO)


def test_g4_a_relayed_stream_without_either_ends_with_our_error(relay: Relays) -> None:
    pieces = sse(start(), *TEXT, named("message_delta", delta={"stop_reason": None}, usage={}))
    relay.provider.play(Answer(pieces=pieces), path=PATH)
    way = RELAYED["relayed streamed"]
    _, _, received = relay.ask(way.path, way.body("an:m"))
    assert received.startswith(b"".join(pieces) + b"event: error\n")


def test_g4_an_event_that_is_only_named_message_stop_ends_no_message(relay: Relays) -> None:
    """Its type counts. Each way hears the rest of the answer."""
    pieces = sse(start(), ("message_stop", {"type": "x"}), *TEXT, *end())
    for way in (RELAYED["relayed"], *WAYS.values()):
        check(hear(relay, way, Answer(pieces=pieces), **AT_AN), HELLO)
    relay.provider.play(Answer(pieces=pieces), path=PATH)
    way = RELAYED["relayed streamed"]
    assert relay.ask(way.path, way.body("an:m"))[2] == b"".join(pieces)


MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "x", "stop_reason": "tool_use",
    "stop_sequence": None, "usage": {"input_tokens": 11, "output_tokens": 7},
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "cw=="}, {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Zürich"}},
    ],
}  # fmt: skip
STREAMED = [
    start(), *thinking(0, "hm"), *text(1, "Hel", "lo"), *tool_use(2, "a", "weather", *WHERE),
    *end("tool_use"),
]  # fmt: skip
FORMS = {"JSON": [json.dumps(MESSAGE).encode()], "a stream": sse(*STREAMED)}


@pytest.mark.parametrize("label", ["application/json", "text/event-stream", "text/plain", "text/html"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", [*RELAYED, *WAYS])
def test_g15_the_body_decides_its_form(relay: Relays, way: str, form: str, label: str) -> None:
    found = {**RELAYED, **WAYS}[way]
    relay.provider.play(Answer(pieces=FORMS[form], headers={"Content-Type": label}), path=PATH)
    status, headers, received = relay.ask(found.path, found.body("an:m"), **found.headers)
    heard = found.heard(status, received)
    check(heard, ("Hello", "hm", [A], "tool_calls"))
    assert heard.usage == (11, 7)
    assert headers["content-type"].startswith("text/event-stream") == found.is_streamed


def test_g15_arguments_that_look_like_a_piece_make_no_piece_of_a_whole_answer(relay: Relays) -> None:
    arguments = {"delta": {"city": "Z"}, "finish_reason": None}
    used = {"type": "tool_use", "id": "a", "name": "weather", "input": arguments}
    for way in (*RELAYED.values(), *WAYS.values()):
        heard = hear(relay, way, answer({**MESSAGE, "content": [used]}), **AT_AN)
        assert [(name, json.loads(text)) for name, text in heard.calls] == [("weather", arguments)]
        assert heard.error is None


def test_g15_an_error_with_200_and_without_a_type_is_an_error(relay: Relays) -> None:
    for way in (*RELAYED.values(), *WAYS.values()):
        heard = hear(relay, way, answer({"error": {"message": "its words"}}), **AT_AN)
        assert "its words" in (heard.error or "")


OVERLOADED = ("error", {"type": "error", "error": {"type": "overloaded_error", "message": "its words"}})
NOTHING_YET = {
    "after the head": sse(start(), OVERLOADED),
    "after a ping": sse(start(), named("ping"), OVERLOADED),
    "after the beginning of a text": sse(start(), begin(0, type="text", text=""), OVERLOADED),
    "after an empty text": sse(
        start(), begin(0, type="text", text=""), delta(0, type="text_delta", text=""), OVERLOADED
    ),
}


@pytest.mark.parametrize("way", ["relayed streamed", "messages streamed", "chat streamed", "responses"])
@pytest.mark.parametrize("name", NOTHING_YET)
def test_g23_a_route_goes_on_until_the_first_content(name: str, way: str) -> None:
    found = {**RELAYED, **WAYS}[way]
    with others() as relay:  # a circuit breaker of its own
        played = Answer(pieces=NOTHING_YET[name]), Answer(pieces=sse(start(), *TEXT, *end()))
        check(hear(relay, found, *played, model="both", path=PATH), HELLO)
        assert num_requests(relay) == 2


@pytest.mark.parametrize("way", ["relayed streamed", "messages streamed", "chat streamed"])
def test_g23_a_target_with_content_is_not_requested_again(way: str) -> None:
    found = {**RELAYED, **WAYS}[way]
    with others() as relay:
        played = Answer(pieces=sse(start(), *TEXT[:2], OVERLOADED))
        heard = hear(relay, found, played, model="both", path=PATH)
        assert (heard.text, num_requests(relay)) == ("Hel", 1)
        assert "its words" in (heard.error or "")


def test_g27_a_model_without_an_id_is_left_out() -> None:
    odd: list[Any] = [{"name": "x"}, {"id": None}, {"id": 5}, None, "x", {"id": "", "object": "model"}]
    with scripted() as provider:
        provider.always("/v1/models", answer({"data": [*odd, {"id": "m1"}, {"id": "m2", "created": "?"}]}))
        provider.always("/api/tags", answer({"models": [*odd, {"name": "m1"}, {"name": "m2", "digest": 5}]}))
        provider.always("/api/show", answer([]))
        kinds = {"op": "openai", "an": "anthropic", "ol": "ollama"}
        providers = {
            name: {"kind": kind, "base_url": provider.url + ("/v1" if name == "op" else "")}
            for name, kind in kinds.items()
        }
        config = Config.model_validate({"models": {"default": ""}, "providers": providers})
        with serving(create_app(config, build_providers(config))) as served:
            for name in kinds:
                eventually(lambda name=name: _ids(served, name) == (_expected(name)))  # type: ignore[misc]


def _ids(served: Any, name: str) -> list[str]:
    return [entry["id"] for entry in served.http.get(f"/{name}/v1/models").json()["data"]]


def _expected(name: str) -> list[str]:
    return ["x", "m1", "m2"] if name == "ol" else ["m1", "m2"]


def line(**message: Any) -> dict[str, Any]:
    return {"model": "m", "message": {"role": "assistant", **message}, "done": False}


def last(**members: Any) -> dict[str, Any]:
    counts = {"prompt_eval_count": 11, "eval_count": 7}
    return {**line(content=""), "done": True, "done_reason": "stop", **counts, **members}


def lines(*values: object) -> list[bytes]:
    return [(value if isinstance(value, str) else json.dumps(value)).encode() + b"\n" for value in values]


def ollama_call(name: str, arguments: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}}


OLLAMA: dict[str, tuple[list[bytes], Expected]] = {
    "G2 stop after calls": (
        lines(line(content="", tool_calls=[ollama_call("weather", {"city": "Zürich"})]), last()), CALLED,
    ),
    "G2 an unknown reason": (lines(line(content="Hello"), last(done_reason="eos")), HELLO),
    "G3 text after a call": (
        lines(line(tool_calls=[ollama_call("weather", {"city": "Zürich"})]), line(content="Hello"), last()),
        ("Hello", "", [A], "tool_calls"),
    ),
    "G5 halves that meet": (
        lines(r'{"message":{"content":"A\ud83d"}}', r'{"message":{"content":"\ude00B"}}', last()),
        ("A😀B", "", [], "stop"),
    ),
    "G5 a half that stays alone": (
        lines(r'{"message":{"content":"A\ud83d"}}', last()), ("A�", "", [], "stop"),
    ),
    "G6 counts of other kinds": (
        lines(line(content="Hello"), last(prompt_eval_count="x", eval_count=[], eval_duration="long")), HELLO,
    ),
    "G8 a reason and no done": (
        lines(line(content="Hello"), {"message": {"content": ""}, "done_reason": "stop"}), HELLO,
    ),
    "G9 arguments as a text": (lines(line(tool_calls=[ollama_call("weather", WHERE)]), last()), CALLED),
    "G9 the same call twice": (
        lines(line(tool_calls=[ollama_call("time", {"zone": 1})] * 2), last()), called(B, B),
    ),
    "G15 one line, not a stream": (lines({**last(), "message": {"content": "Hello"}}), HELLO),
    "G15 lines without ends": ([b"".join(lines(line(content="Hello"), last())).replace(b"\n", b"")], HELLO),
    "G15 a list": ([json.dumps([line(content="Hello"), last()]).encode()], HELLO),
    "G15 a list of several lines": (
        [json.dumps([line(content="Hel{"), last()], indent=1).encode()], ("Hel{", "", [], "stop"),
    ),
    "G15 an object of several lines": (
        [json.dumps({**last(), "message": {"content": 'H"}'}}, indent=2).encode()], ('H"}', "", [], "stop"),
    ),
    "G15 framed twice": (
        [b"data: data: " + each + b"\n" for each in lines(line(content="Hello"), last())], HELLO,
    ),
    "G1 reasoning by another name": (
        lines(line(content="", reasoning_content="hm"), line(content="Hello"), last()),
        ("Hello", "hm", [], "stop"),
    ),
    "G18 heartbeats": (
        lines("", "pong", line(content="Hel"), "  ", ": ping", line(content="lo"), last()), HELLO,
    ),
    "G18 an empty object": (lines({}, line(content="Hello"), {"message": None}, last()), HELLO),
}  # fmt: skip


@pytest.mark.parametrize("way", TRANSLATED)
@pytest.mark.parametrize("name", OLLAMA)
def test_ollamas_habits_are_understood_on_each_way(relay: Relays, name: str, way: str) -> None:
    pieces, expected = OLLAMA[name]
    check(hear(relay, TRANSLATED[way], Answer(pieces=pieces, headers=NDJSON), **AT_OL), expected)


@pytest.mark.parametrize("way", TRANSLATED)
def test_g4_half_of_ollamas_answer_is_never_a_success(relay: Relays, way: str) -> None:
    for found in (lines(line(content="Hel")), [*lines(line(content="Hel")), b'{"message": {"con']):
        for is_bare in (False, True):
            played = Answer(pieces=found, headers=NDJSON, is_bare=is_bare)
            assert hear(relay, TRANSLATED[way], played, **AT_OL).error
