"""Failures of the relay are reported as those of translated answers; a caller who leaves frees everything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from starlette.requests import Request

from headrace.api.answers import StreamWriter
from headrace.api.relay import RelayedRequest
from headrace.backends.openai import OpenAIBackend
from headrace.config import ProviderConfig
from headrace.gateway.gateway import Gateway
from headrace.relay_types import RelayRequest, Verbatim
from tests.api.relays import CHUNK, HI, KEY, MESSAGES, STOP, WHOLE, Relays, relays
from tests.serving import eventually
from tests.upstream import Answer, answer, scripted, sse

CHAT = "/v1/chat/completions"
ASK = {"model": "up:m", "messages": HI}
STREAMED = {**ASK, "stream": True}
NAMES = {"up:m": CHAT, "an:m": "/v1/messages"}


@pytest.fixture(scope="module")
def shared() -> Iterator[Relays]:
    with relays(timeout_s=60) as found:
        yield found


@pytest.fixture(scope="module")
def impatient() -> Iterator[Relays]:
    """Its providers may be silent for half a second only."""
    with relays(timeout_s=0.5) as found:
        yield found


def ask(relay: Relays, body: dict[str, Any], path: str = CHAT, **headers: str) -> tuple[int, Any, bytes]:
    return relay.ask(path, json.dumps(body).encode(), **headers)


def last_event(raw: bytes) -> Any:
    data = [line for line in raw.decode().split("\n") if line.startswith("data: {")][-1]
    return json.loads(data.removeprefix("data: "))


REFUSAL = {"error": {"message": f"its own words ({KEY})", "type": "t", "code": None}}
FAILURES = {
    **{
        f"status {status}": answer(REFUSAL, status=status, headers={"Retry-After": "7"})
        for status in (400, 401, 402, 403, 404, 408, 409, 422, 429, 500, 502, 503, 529)
    },
    "too long": answer({"error": {"message": "maximum context length is 5"}}, status=400),
    "a page": Answer(502, {"Content-Type": "text/html"}, [b"<html>Bad Gateway</html>"]),
    "a redirect": Answer(307, {"Location": "http://127.0.0.1:1/"}),
    "nothing": Answer(status=0, cut=True),
    "no time": Answer(opening_s=60),
    "a page with 200": Answer(pieces=[b"<html></html>"]),
    "an empty body": Answer(),
    "a list": Answer(pieces=sse([])),
    "not even a whole event": Answer(pieces=[b"data: {"], cut=True),
    "an error with 200": answer({"error": {"message": "its words", "type": "rate_limit_error"}}),
    "an error in a stream": Answer(pieces=sse({"error": {"message": "its words", "code": 503}})),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("body", [ASK, STREAMED], ids=["whole", "streamed"])
def test_an_error_before_the_first_byte_is_reported_as_where_it_is_translated(
    shared: Relays, impatient: Relays, body: dict[str, Any], name: str
) -> None:
    if name == "an error in a stream" and body is ASK:
        return  # without a stream, the body is no error
    relay = impatient if name == "no time" else shared
    relay.provider.forget()
    relay.provider.play(*[FAILURES[name]] * 4)  # a request that a reused connection lost is sent twice
    passed_on, translated = ask(relay, body), ask(relay, body, **{"X-Headrace-Strict": "true"})
    mine, other = (json.loads(response[2])["error"] for response in (passed_on, translated))
    assert (passed_on[0], mine["type"], mine["code"]) == (translated[0], other["type"], other["code"])
    assert passed_on[1].get("retry-after") == translated[1].get("retry-after")
    assert KEY not in mine["message"]
    if "200" not in name and name not in ("a list", "an empty body", "not even a whole event"):
        assert mine == other
    assert ("words" in mine["message"]) == ("status" in name or "an error" in name)


@pytest.mark.parametrize("headers", [{}, {"X-Headrace-Strict": "true"}], ids=["passed on", "translated"])
def test_an_answer_that_breaks_off_costs_nothing(headers: dict[str, str]) -> None:
    """As every request that a provider has failed."""
    boss = {"Authorization": "Bearer boss"}
    with relays(admin_keys=["boss"]) as relay:
        limits = {"name": "n", "limits": {"tokens_per_minute": 1000}}
        made = relay.served.post("/v1/admin/keys", limits, headers=boss).json()
        own = {"Authorization": f"Bearer {made['value']}", **headers}
        body = json.dumps({**STREAMED, "max_tokens": 500}).encode()
        relay.provider.play(Answer(pieces=sse(CHUNK), cut=True))
        broken = relay.ask(CHAT, body, **own)
        assert last_event(broken[2])["error"]["code"] == "provider_error"
        relay.provider.play(Answer(pieces=sse(CHUNK, STOP, "[DONE]")))

        def has_all_tokens() -> bool:
            status, found, _ = relay.ask(CHAT, body, **own)
            return status == 200 and int(found["x-ratelimit-remaining-tokens"]) > 440

        eventually(has_all_tokens)  # the tokens are given back after the answer's last piece


def test_anthropics_callers_get_errors_in_its_shape(relay: Relays, impatient: Relays) -> None:
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "its words"}}
    cases = [
        (relay, answer(overloaded, status=529), False, 503),
        (relay, Answer(pieces=sse(("error", overloaded))), True, 503),
        (impatient, Answer(opening_s=60), True, 504),
    ]
    for server, played, stream, status in cases:
        server.provider.play(played)
        body = {"model": "an:m", "max_tokens": 5, "messages": HI, "stream": stream}
        found, headers, raw = ask(server, body, "/v1/messages")
        error = json.loads(raw)
        assert (found, error["type"], set(error["error"])) == (status, "error", {"type", "message"})
        assert headers["request-id"] == error["request_id"]


@pytest.mark.parametrize("model", NAMES)
def test_an_error_in_mid_stream_is_passed_on(relay: Relays, model: str) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "its words"}}
    begin = sse(CHUNK) if model == "up:m" else MESSAGES[:1]
    relay.provider.play(Answer(pieces=[*begin, *sse(("error", error))]))
    body = {**STREAMED, "model": model, "max_tokens": 5}
    assert ask(relay, body, NAMES[model])[2] == b"".join([*begin, *sse(("error", error))])


@pytest.mark.parametrize("error", ["its words", {"code": 503}, {"message": f"its words {KEY}", "code": 429}])
def test_an_error_of_another_shape_or_with_a_secret_is_sent_in_ours(relay: Relays, error: object) -> None:
    relay.provider.play(Answer(pieces=sse(CHUNK, {"error": error}, CHUNK)))
    _, _, raw = ask(relay, STREAMED)
    assert raw.startswith(sse(CHUNK)[0])
    assert raw.endswith(b"\n\ndata: [DONE]\n\n")
    assert set(last_event(raw)["error"]) == {"message", "type", "param", "code"}
    assert KEY.encode() not in raw


@pytest.mark.parametrize("model", NAMES)
@pytest.mark.parametrize("stall", [True, False])
@pytest.mark.parametrize("rest", [b"", b'data: {"id": ', b"data: {}\n"])
def test_a_connection_that_breaks_ends_the_stream_after_its_last_whole_event(
    shared: Relays, impatient: Relays, model: str, rest: bytes, stall: bool
) -> None:
    relay = impatient if stall else shared
    relay.provider.forget()
    begin = sse(CHUNK) if model == "up:m" else MESSAGES[:1]
    relay.provider.play(Answer(pieces=[*begin, rest], cut=not stall, stall=stall))
    _, _, raw = ask(relay, {**STREAMED, "model": model, "max_tokens": 5}, NAMES[model])
    assert raw.startswith(b"".join(begin))
    message = last_event(raw)["error"]["message"]
    assert ("in time" if stall else "broke") in message
    assert raw.count(b"data: ") == (3 if model == "up:m" else 2)


def test_a_body_that_breaks_off_is_an_error(relay: Relays) -> None:
    raw = json.dumps(WHOLE).encode()
    relay.provider.play(Answer(headers={"Content-Type": "application/json"}, pieces=[raw[:20]], cut=True))
    status, _, body = ask(relay, ASK)
    assert (status, json.loads(body)["error"]["code"]) == (502, "provider_error")


def test_a_timeout_holds_before_and_after_the_first_byte(relay: Relays) -> None:
    relay.provider.play(Answer(opening_s=60))
    status, headers, raw = ask(relay, {**STREAMED, "timeout": 0.3})
    assert (status, json.loads(raw)["error"]["code"]) == (504, "request_timeout")
    assert headers["x-should-retry"] == "false"
    relay.provider.play(Answer(pieces=sse(CHUNK), stall=True))
    status, _, raw = ask(relay, {**STREAMED, "timeout": 0.9})
    assert (status, last_event(raw)["error"]["code"]) == (200, "request_timeout")
    eventually(lambda: all(seen.closed_at for seen in relay.provider.posts[-2:]))


def test_a_server_that_shuts_down_lets_end_what_runs() -> None:
    with relays() as relay:
        relay.provider.play(Answer(pieces=sse(CHUNK), stall=True))
        with relay.begin(CHAT, json.dumps(STREAMED).encode()) as caller:
            caller.settimeout(60)
            received = caller.recv(1000)
            asyncio.run_coroutine_threadsafe(relay.served.gateway.drain(0.05), relay.served.loop).result(60)
            while b"[DONE]" not in received:
                received += caller.recv(1000)
        assert b"server_is_overloaded" in received
        assert ask(relay, ASK)[0] == 503


LEAVING = [(CHAT, "up:m"), ("/v1/completions", "up:m"), ("/v1/embeddings", "up:m"), ("/v1/messages", "an:m")]


@pytest.mark.parametrize(("path", "model"), LEAVING)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("played", [Answer(opening_s=60), Answer(pieces=sse(CHUNK), stall=True)])
def test_the_provider_sees_a_hang_up_at_once(
    relay: Relays, path: str, model: str, stream: bool, played: Answer
) -> None:
    before = len(relay.provider.posts)
    relay.provider.play(played)
    with relay.begin(path, json.dumps({"model": model, "stream": stream}).encode()) as caller:
        eventually(lambda: len(relay.provider.posts) > before)
        if played.pieces and stream:
            caller.settimeout(60)
            assert caller.recv(1000).startswith(b"HTTP/1.1 200")
    seen = relay.provider.posts[-1]
    eventually(lambda: seen.closed_at)


def test_a_slow_stream_is_kept_alive_between_events() -> None:
    sent: list[bytes] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message.get("body", b"") if message["type"] == "http.response.body" else b"(head)")

    async def never() -> MutableMapping[str, Any]:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def run(address: str) -> None:
        config = ProviderConfig(kind="openai", base_url=address + "/v1")
        backend = OpenAIBackend("up", config, None)
        gateway = Gateway([backend], remote=["up"])
        await backend.start()
        body = Verbatim(json.dumps({"model": "m", "stream": True}).encode())
        request = RelayRequest("openai", "/chat/completions", body, "m", True)
        plan = gateway.relayable(request, "up")
        assert plan is not None
        relayed = RelayedRequest(gateway, request, plan, StreamWriter(send), [], keep_alive_s=0.02)
        await relayed.run(Request({"type": "http"}, never))
        await backend.aclose()
        assert gateway.num_active == 0

    first, second = sse(CHUNK, STOP)
    with scripted() as provider:
        provider.play(Answer(pieces=[first, second[:9], second[9:], b"data: [DONE]\n\n"], delay_s=0.1))
        asyncio.run(run(provider.url))
    beats = [piece for piece in sent if piece == StreamWriter.keep_alive_frame]
    assert len(beats) > 3
    assert [piece for piece in sent if piece != StreamWriter.keep_alive_frame] == [
        b"(head)", first, second, b"data: [DONE]\n\n", b"",
    ]  # fmt: skip


def test_a_slow_answer_begins_before_its_first_event() -> None:
    with relays() as slow:
        slow.provider.play(Answer(500, pieces=[b"{}"], opening_s=1.2))
        with slow.begin(CHAT, json.dumps(STREAMED).encode()) as caller:
            caller.settimeout(60)
            head = caller.recv(1000)
            assert head.endswith(b"\r\n\r\n"), "an event came with the head"
            assert b"text/event-stream" in head
            assert b"x-headrace-backend: up" in head
            assert b"provider_error" in caller.recv(1000)
