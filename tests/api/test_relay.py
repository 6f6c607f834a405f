"""Same dialect in and out: what the provider is sent and what the caller gets, byte for byte."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import anthropic
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.relays import (
    CALLERS,
    CHUNK,
    HI,
    KEY,
    MESSAGE,
    MESSAGES,
    STOP,
    STREAM,
    USAGE,
    WHOLE,
    Relays,
    relays,
)
from tests.serving import eventually
from tests.upstream import SSE, Answer, answer, split, sse

CHAT = "/v1/chat/completions"


ODD = (
    '{ "messages" : [{"role":"user","content":"hi \\u00fc","model":"nested"}],\t"seed":123456789012345678901,'
    ' "temperature":1.10, "model"\n: "%s", "service_tier":"flex","user":"u","metadata":{"model":"x"},'
    '"priority":3,"response_format":{"type":"json_schema","json_schema":{"name":"mine","schema":{}}},'
    '"tool_choice":{"type":"allowed_tools","allowed_tools":{}},"unheard_of":[1.0,1e5,null],"stream":%s,'
    '"stream_options":{"include_usage":true},'
    '"a":"\\"model\\":1", "model":"%s"}\n'
)
PATHS = [
    ("/v1/chat/completions", "up:m", "/v1/chat/completions"),
    ("/up/v1/chat/completions", "m", "/v1/chat/completions"),
    ("/v1/completions", "up:m", "/v1/completions"),
    ("/up/v1/completions", "m", "/v1/completions"),
    ("/v1/embeddings", "up:m", "/v1/embeddings"),
    ("/v1/messages", "an:m", "/v1/messages"),
    ("/an/v1/messages", "m", "/v1/messages"),
]


@pytest.mark.parametrize(("path", "model", "provider_path"), PATHS)
@pytest.mark.parametrize("stream", ["true", "false"])
def test_bodies_are_passed_on_but_for_the_model(
    relay: Relays, path: str, model: str, provider_path: str, stream: str
) -> None:
    played = Answer(pieces=MESSAGES if "messages" in path else STREAM.pieces)
    if stream == "false":
        played = Answer(
            headers={"Content-Type": "application/json"},
            pieces=[b' {"usage" : {},\n "choices":[ {} ],"data": [{}], "content" :[]', b', "x": 1e5}\n'],
        )
    relay.provider.play(played)
    status, headers, body = relay.ask(path, (ODD % (model, stream, model)).encode())
    seen = relay.provider.posts[-1]
    assert (status, body) == (200, b"".join(played.pieces))
    assert headers["content-type"] == (SSE if stream == "true" else "application/json")
    assert (seen.path, seen.raw.decode()) == (provider_path, ODD % ("m", stream, "m"))
    assert headers["x-headrace-backend"] == ("an" if "messages" in path else "up")
    assert headers["x-headrace-attempts"] == "1"
    assert headers["x-request-id"].startswith("req_")


events = st.lists(
    st.one_of(
        st.sampled_from([b": comment\n\n", b"\n", b"id: 7\nretry: 5\n\n", b": \n"]),
        st.text(max_size=8).map(
            lambda text: b"data: " + json.dumps({**CHUNK, "x": text}).encode() + b"\r\n\r\n"
        ),
        st.text(max_size=8).map(
            lambda text: (
                b"data: " + json.dumps({"error": None, "x": text}, ensure_ascii=False).encode() + b"\n\n"
            )
        ),
    ),
    max_size=6,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    events,
    st.lists(st.integers(0, 400), max_size=6),
    st.sampled_from([b"data: [DONE]\n\n", b"data: [DONE]", *sse(STOP), sse(STOP)[0].rstrip()]),
)
def test_streams_are_passed_on_wherever_they_are_cut(
    relay: Relays, found: Sequence[bytes], at: Sequence[int], end: bytes
) -> None:
    raw = b"".join([*sse(CHUNK), *found, end])
    relay.provider.play(Answer(pieces=split(raw, sorted(place % len(raw) for place in at)), delay_s=0.0003))
    body = {"model": "up:m", "messages": HI, "stream": True}
    assert relay.ask(CHAT, json.dumps(body).encode())[2] == raw


def test_official_clients_read_what_is_passed_on(relay: Relays) -> None:
    relay.provider.play(STREAM, answer(WHOLE), Answer(pieces=MESSAGES))
    with relay.served.client(CALLERS) as client:
        stream: Any = client.chat.completions.create(model="up:m", messages=HI, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "Grüße"
        made: Any = client.chat.completions.create(model="up:m", messages=HI)
        assert made.choices[0].message.content == "Grüße"
    with anthropic.Anthropic(base_url=relay.served.url, api_key=CALLERS, max_retries=0) as other:
        events: Any = list(other.messages.create(model="an:m", max_tokens=5, messages=HI, stream=True))
        assert [event.type for event in events] == ["message_start", "message_delta", "message_stop"]


def test_headers_are_passed_on_by_name_only(relay: Relays) -> None:
    provider_headers = {
        "openai-processing-ms": "123", "x-ratelimit-remaining-tokens": "9", "Set-Cookie": "a=b",
        "openai-organization": "ours", "X-Other": "1", "X-Request-Id": "theirs", "Connection": "keep-alive",
    }  # fmt: skip
    relay.provider.play(answer(WHOLE, headers=provider_headers))
    body = json.dumps({"model": "up:m", "messages": HI}).encode()
    _, headers, _ = relay.ask(CHAT, body, Cookie="c=d", **{"X-Mine": "1", "X-Request-Id": "mine"})
    seen = relay.provider.posts[-1].headers
    assert seen["authorization"] == f"Bearer {KEY}"
    assert not {"cookie", "x-mine", "x-request-id"} & set(seen)
    assert (headers["openai-processing-ms"], headers["x-ratelimit-remaining-tokens"]) == ("123", "9")
    assert headers["x-request-id"] == "mine"
    assert not {"set-cookie", "openai-organization", "x-other"} & set(headers)


def test_a_dialects_own_headers_go_along(relay: Relays) -> None:
    relay.provider.play(*[answer(MESSAGE)] * 2)
    body = json.dumps({"model": "an:m", "max_tokens": 5, "messages": HI}).encode()
    _, headers, _ = relay.ask("/v1/messages", body, **{"anthropic-beta": "b1", "x-api-key": CALLERS})
    relay.ask("/v1/messages", body, **{"anthropic-version": "2026-10-21"})
    first, second = relay.provider.posts[-2:]
    assert (first.headers["anthropic-version"], first.headers["anthropic-beta"]) == ("2023-06-01", "b1")
    assert second.headers["anthropic-version"] == "2026-10-21"
    assert first.headers["x-api-key"] == KEY
    assert "authorization" not in first.headers
    assert headers["request-id"] == headers["x-request-id"]


def test_tokens_are_counted_by_the_provider(relay: Relays) -> None:
    relay.provider.play(answer({"input_tokens": 7}), path="/v1/messages/count_tokens")
    body = json.dumps({"model": "an:m", "messages": HI}).encode()
    assert relay.ask("/v1/messages/count_tokens", body)[2] == b'{"input_tokens": 7}'


TRANSLATED: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({}, {"X-Headrace-Strict": "true"}),
    ({"store": True}, {}),
    ({"conversation": "new"}, {}),
    ({"conversation_id": "new"}, {}),
    ({}, {"X-Conversation-ID": "new"}),
    ({"model": "mixed"}, {}),
]


@pytest.mark.parametrize(("members", "headers"), TRANSLATED)
def test_what_has_to_be_read_is_translated(
    relay: Relays, members: dict[str, Any], headers: dict[str, str]
) -> None:
    relay.provider.play(STREAM)
    body = {"model": "up:m", "messages": HI, **members}
    status, _, raw = relay.ask(CHAT, json.dumps(body).encode(), **headers)
    assert relay.provider.posts[-1].body["stream"] is True  # a translated request always asks for one
    assert (status, json.loads(raw)["choices"][0]["message"]["content"]) == (200, "Grüße")


BAD: list[tuple[bytes, str | None]] = [
    (b"", "body"), (b"[]", "body"), (b"{", "body"), (b'{"messages": []}', "model"),
    (b'{"model": 5, "messages": [{"role": "user", "content": "x"}]}', "model"),
    (b'{"model": "up:m", "stream": "yes", "messages": [{"role": "user", "content": "x"}]}', "stream"),
    (b'{"model": "up:m", "timeout": -1, "messages": [{"role": "user", "content": "x"}]}', "timeout"),
    (b'{"model": "up:m", "timeout": 1e999, "messages": [{"role": "user", "content": "x"}]}', "timeout"),
    (b'{"model": "up:m", "timeout": true, "messages": [{"role": "user", "content": "x"}]}', "timeout"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "param"), BAD)
def test_what_is_no_request_is_refused_here(relay: Relays, content: bytes, param: str | None) -> None:
    before = len(relay.provider.posts)
    status, _, raw = relay.ask(CHAT, content)
    assert (status, json.loads(raw)["error"]["param"]) == (400, param)
    assert relay.ask(CHAT, content, **{"Content-Type": "text/plain"})[0] == 415
    assert relay.ask(CHAT, content, Authorization="Bearer wrong")[0] == 401
    unknown = json.dumps({"model": "up:other", "messages": HI}).encode()
    assert relay.ask(CHAT, unknown)[0] == 404
    assert len(relay.provider.posts) == before


def test_a_body_without_bounds_is_refused() -> None:
    with relays(max_body_bytes=100) as small:
        status, _, raw = small.ask(CHAT, b'{"model": "up:m", "x": "%s"}' % (b"x" * 100))
        assert (status, json.loads(raw)["error"]["code"]) == (413, "payload_too_large")


def test_a_large_body_is_passed_on(relay: Relays) -> None:
    body = b'{"model":"up:m","messages":[],"x":"%s"}' % (b"ab" * 2**20)
    large = b'{"x": "%s", "choices": [{}], "usage": {"prompt_tokens": 1}}' % (b"x" * 2**20)
    relay.provider.play(Answer(headers={"Content-Type": "application/json"}, pieces=[large]))
    assert relay.ask(CHAT, body)[2] == large
    assert relay.provider.posts[-1].raw == body.replace(b"up:m", b"m", 1)


CEREBRAS: list[tuple[dict[str, Any], dict[str, Any] | None]] = [
    ({}, {"max_completion_tokens": 8192}),
    ({"max_completion_tokens": 5}, {}),
    ({"max_completion_tokens": 10**6}, {"max_completion_tokens": 32_768}),
    ({"max_completion_tokens": None}, {"max_completion_tokens": 8192}),
    ({"max_tokens": 5}, None),
    ({"frequency_penalty": 0}, None),
    ({"messages": [*HI, {"role": "assistant", "content": "x", "reasoning_content": "hm"}]}, None),
]


@pytest.mark.parametrize(("members", "changed"), CEREBRAS)
def test_cerebras_is_passed_on_where_only_its_limit_changes(
    relay: Relays, members: dict[str, Any], changed: dict[str, Any] | None
) -> None:
    pieces = sse(CHUNK, {**STOP, "time_info": {"queue_time": 0.1}}, "[DONE]")
    relay.provider.play(Answer(pieces=pieces))
    telling = {"stream_options": {"include_usage": True}}
    body = {"model": "ce:m", "stream": True, "messages": HI, **telling, **members}
    status, _, raw = relay.ask(CHAT, json.dumps(body).encode())
    assert status == 200
    assert (raw == b"".join(pieces)) == (changed is not None)
    if changed is not None:
        assert relay.provider.posts[-1].body == {**body, "model": "m", **changed}


def test_each_is_metered_once(relay: Relays, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="headrace.gateway.lifetime")
    counted = {"id": "c", "choices": [], "usage": USAGE}
    relay.provider.play(Answer(pieces=sse(CHUNK, counted, "[DONE]")), answer({"error": "no"}, status=429))
    body = json.dumps({"model": "up:m", "messages": HI, "stream": True}).encode()
    for _ in range(2):
        relay.ask(CHAT, body)
    eventually(lambda: len(caplog.messages) == 2)
    first, second = caplog.messages
    assert "work=/chat/completions model=up:m provider=up attempts=1 stream=True status=200" in first
    assert "prompt_tokens=20, completion_tokens=5" in first
    assert "status=429 code=rate_limit_exceeded usage=None first_byte_s=None" in second


def test_a_connection_is_used_again(relay: Relays) -> None:
    body = json.dumps({"model": "up:m", "messages": HI, "stream": True}).encode()
    relay.provider.play(*[STREAM] * 3, Answer(pieces=STREAM.pieces, stall=True), STREAM)
    for _ in range(3):
        relay.ask(CHAT, body)
    assert len({seen.connection for seen in relay.provider.posts[-3:]}) == 1
    # what does not end after its last event is not waited for
    assert relay.ask(CHAT, body)[2] == relay.ask(CHAT, body)[2] == b"".join(STREAM.pieces)


def test_a_route_goes_on_to_the_next_before_the_first_byte(relay: Relays) -> None:
    failures = [
        answer({"error": {"message": "down"}}, status=503),
        Answer(headers={"Connection": "close"}, pieces=sse({"error": {"message": "down", "code": 503}})),
        Answer(status=0, cut=True),  # on a fresh connection: on a kept one it would be sent again
        Answer(pieces=[b": waiting\n\n"], cut=True),
    ]
    for failure in failures:
        relay.provider.play(failure, STREAM)
        body = {"model": "fast", "messages": HI, "stream": True, "max_completion_tokens": 5}
        status, headers, raw = relay.ask(CHAT, json.dumps(body).encode())
        assert (status, raw) == (200, b"".join(STREAM.pieces))
        assert (headers["x-headrace-backend"], headers["x-headrace-attempts"]) == ("ce", "2")


def test_a_route_that_fails_tells_how_many_were_asked(relay: Relays) -> None:
    relay.provider.play(*[answer({"error": {"message": "down"}}, status=500)] * 2)
    with relay.served.client(CALLERS) as client, pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="fast", messages=HI, max_completion_tokens=5)
    assert caught.value.response.headers["x-headrace-attempts"] == "2"
