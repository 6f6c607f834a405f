"""What becomes of a provider's refusal: relayed, translated, inside a stream, along a route, and in
Anthropic's shape.
"""

from __future__ import annotations

import json
from typing import Any

import anthropic
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.backends.http import Upstream
from headrace.backends.refusals import Refusal, to_error
from headrace.errors import EndpointNotFound, ModelNotFound, ServerError
from headrace.wire.errors import to_body, to_messages_body
from tests.api.relays import CALLERS, HI, KEY, STREAM, Relays
from tests.backends.ways import CHAT, STRICT, ask
from tests.upstream import Answer, answer, sse

HTML = {"Content-Type": "text/html; charset=utf-8"}
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"


WAYS = ["relayed", "relayed stream", "translated", "translated stream", "anthropic", "anthropic stream"]


def said(code: str | None, message: str = "its own words") -> dict[str, Any]:
    return {"error": {"message": message, "type": "t", "param": None, "code": code}}


FINAL = {
    "G16 401": (answer(said("invalid_api_key"), status=401), 502),
    "G16 402": (answer(said("billing"), status=402), 502),
    "G16 403": (answer(said("unsupported_country_region_territory"), status=403), 502),
    "G16 redirect": (Answer(307, {"Location": "https://elsewhere.example/v1"}), 502),
    "G16 permanent redirect": (Answer(308, {"Location": "/v2"}), 502),
    "G16 insufficient_quota": (answer(said("insufficient_quota"), status=429), 429),
    "G16 insufficient balance, in words": (answer(said(None, "Insufficient Balance"), status=402), 502),
    "G16 quota, in words": (answer(said(None, "You exceeded your current quota"), status=429), 429),
    "G16 a page with 403": (Answer(403, HTML, [PAGE]), 502),
    "G16 a page with 404": (Answer(404, HTML, [PAGE]), 404),
    "G16 a proxy that wants a password": (Answer(407, HTML, [PAGE]), 502),
    "G16 Google's bad key": (answer([said(None, "API key not valid. Please pass one.")], status=400), 502),
    "G16 xAI's bad key": (answer({"error": "Incorrect API key provided: x"}, status=400), 502),
    "G16 Anthropic's empty account": (
        answer(said(None, "Your credit balance is too low to access the Anthropic API."), status=400),
        502,
    ),
    "G16 xAI's empty account": (
        answer({"error": "Your team has used all available credits"}, status=429),
        429,
    ),
    "G16 MiniMax's empty account, without a status": (
        answer({"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}),
        502,
    ),
    "G16 MiniMax's bad key, without a status": (
        answer(
            {"base_resp": {"status_code": 1004, "status_msg": "login fail: Please carry the API secret key"}}
        ),
        502,
    ),
    "G16 a proxy's quota": (answer(said("insufficient_quota"), status=503), 503),
    "G16 a proxy's empty account": (answer(said(None, "Insufficient balance"), status=500), 502),
    "G16 Z.ai's empty account": (answer(said("1113", "余额不足或无可用资源包,请充值。"), status=429), 429),
    "G16 Google's empty account": (
        answer({"error": {"code": 429, "message": "Your prepayment credits are depleted."}}, status=429),
        429,
    ),
    "G16 SiliconFlow's empty account": (
        answer({"code": 30001, "message": "Sorry, your account balance is insufficient"}, status=429),
        429,
    ),
    "G16 OpenAI's closed account": (answer(said("billing_not_active"), status=429), 429),
    "G16 quota with a pause": (
        answer(said("insufficient_quota"), status=429, headers={"retry-after": "3"}),
        429,
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("played", "status"), FINAL.values(), ids=FINAL)
def test_what_no_retry_can_help_says_so(relay: Relays, played: Answer, status: int, way: str) -> None:
    relay.provider.play(played)
    num_before = len(relay.provider.posts)
    answer_status, headers, error = ask(relay, way)
    assert (answer_status, headers.get("x-should-retry")) == (status, "false")
    assert "retry-after" not in headers
    assert KEY not in str(error)
    assert len(relay.provider.posts) == num_before + 1


INSTEAD = {
    "HTML": Answer(headers=HTML, pieces=[PAGE]),
    "HTML that is labelled as a stream": Answer(pieces=[b"\n ", PAGE]),
    "HTML that is labelled as JSON": Answer(headers={"Content-Type": "application/json"}, pieces=[PAGE]),
    "XML": Answer(headers={"Content-Type": "text/xml"}, pieces=[b"<?xml version='1.0'?><Error/>"]),
}


@pytest.mark.parametrize("model", ["up:m", "an:m", "ce:m"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("played", INSTEAD.values(), ids=INSTEAD)
def test_g16_a_page_instead_of_an_answer_says_so(relay: Relays, played: Answer, way: str, model: str) -> None:
    relay.provider.play(played)
    status, headers, error = ask(relay, way, model)
    assert (status, headers.get("x-should-retry")) == (502, "false")
    assert "base_url" in error["message"]


QUOTA = {
    "code": 429,
    "message": "You exceeded your current quota",
    "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "33.2s"}],
}
PASSING = {
    "429": (answer(said("rate_limit_exceeded"), status=429, headers={"Retry-After": "3"}), 429, "3"),
    "503": (answer(said(None), status=503), 503, "1"),
    "500": (answer(said(None), status=500), 502, None),
    "500 with a pause": (answer(said(None), status=500, headers={"Retry-After": "4"}), 502, "4"),
    "a proxy's page": (Answer(502, HTML, [PAGE]), 502, None),
    "G24 a proxy's limit": (Answer(429, {**HTML, "Retry-After": "7"}, [PAGE]), 429, "7"),
    "G24 Google's limit": (answer([{"error": QUOTA}], status=429), 429, "34"),
    "G24 a pause in the body": (answer({"error": "slow", "retry_after": 2.5}, status=429), 429, "3"),
    "G24 a pause with its unit": (answer(said(None), status=429, headers={"Retry-After": "60s"}), 429, "60"),
    "G24 milliseconds": (answer(said(None), status=429, headers={"retry-after-ms": "1500"}), 429, "2"),
    "G24 endless milliseconds": (
        answer(said(None), status=429, headers={"retry-after-ms": "9" * 4500}),
        429,
        "2147483647",
    ),
    "G24 odd milliseconds": (answer(said(None), status=429, headers={"retry-after-ms": "-x"}), 429, "1"),
    "Groq's capacity": (answer(said("capacity_exceeded"), status=498), 503, "1"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("played", "status", "pause"), PASSING.values(), ids=PASSING)
def test_what_may_pass_may_be_tried_again(
    relay: Relays, played: Answer, status: int, pause: str | None, way: str
) -> None:
    relay.provider.play(played)
    answer_status, headers, _ = ask(relay, way)
    assert (answer_status, headers.get("x-should-retry")) == (status, None)
    assert headers.get("retry-after") == pause


def test_a_providers_own_word_on_retries_is_passed_on(relay: Relays) -> None:
    relay.provider.play(answer(said(None), status=500, headers={"x-should-retry": "false"}))
    assert ask(relay, "translated")[1]["x-should-retry"] == "false"


@pytest.mark.parametrize("way", ["translated", "translated stream", "relayed stream", "anthropic"])
@pytest.mark.parametrize("code", ["insufficient_quota", "invalid_api_key"])
def test_g16_an_error_at_the_beginning_of_a_stream_says_so_too(relay: Relays, code: str, way: str) -> None:
    relay.provider.play(Answer(pieces=sse(said(code))))
    status, headers, error = ask(relay, way)
    assert headers.get("x-should-retry") == "false"
    assert (status, "its own words" in error["message"]) == (429 if "quota" in code else 502, True)


@pytest.mark.parametrize("way", ["relayed", "translated", "anthropic"])
def test_g16_a_route_asks_the_next_and_tells_the_last(relay: Relays, way: str) -> None:
    quota = answer(said("insufficient_quota"), status=429)
    relay.provider.play(quota, quota)
    status, headers, _ = ask(relay, way, model="fast")
    assert (status, headers["x-should-retry"], headers["x-headrace-attempts"]) == (429, "false", "2")
    relay.provider.play(quota, STREAM)
    body = json.dumps({"model": "fast", "messages": HI, "stream": True}).encode()
    assert relay.ask(CHAT, body)[0] == 200


KEPT = {
    "G28 413": (413, {"error": {"message": "too big", "code": "request_too_large"}}, "request_too_large"),
    "G28 422": (422, {"error": {"message": "too big", "code": "unprocessable"}}, "unprocessable"),
    "G28 a parameter": (
        400,
        {"error": {"message": "too big", "code": "unsupported_parameter", "param": "top_k"}},
        "unsupported_parameter",
    ),
    "G28 Google's status": (
        400,
        {"error": {"code": 400, "message": "too big", "status": "INVALID_ARGUMENT"}},
        "INVALID_ARGUMENT",
    ),
    "G28 no code": (409, {"error": {"message": "too big"}}, "provider_refused"),
    "G28 a code of another type": (400, {"error": {"message": "too big", "code": [1]}}, "provider_refused"),
}


@pytest.mark.parametrize("way", ["relayed", "translated", "translated stream", "relayed stream"])
@pytest.mark.parametrize(("status", "body", "code"), KEPT.values(), ids=KEPT)
def test_status_code_and_words_are_the_providers(
    relay: Relays, status: int, body: dict[str, Any], code: str, way: str
) -> None:
    relay.provider.play(answer(body, status=status))
    answer_status, _, error = ask(relay, way)
    assert (answer_status, error["code"]) == (status, code)
    assert error["message"] == "up: too big"
    assert error["param"] == body["error"].get("param")


def test_g28_a_413_is_request_too_large_in_anthropics_shape(relay: Relays) -> None:
    relay.provider.play(answer(said(None), status=413))
    status, _, error = ask(relay, "anthropic")
    assert (status, error["type"]) == (413, "request_too_large")


@pytest.mark.parametrize("way", WAYS)
def test_a_key_of_ours_is_no_invalid_key_of_the_callers(relay: Relays, way: str) -> None:
    relay.provider.play(answer(said("invalid_api_key", f"bad key {KEY}"), status=401))
    _, _, error = ask(relay, way)
    assert error.get("code") in ("provider_authentication_error", None)
    assert "(secret)" in error["message"]


MISSING = {
    "FastAPI": answer({"detail": "Not Found"}, status=404),
    "Go": Answer(404, {"Content-Type": "text/plain"}, [b"404 page not found"]),
    "Express": Answer(404, HTML, [b"<!DOCTYPE html><html><body><pre>Cannot POST /v1/embeddings</pre>"]),
    "OpenAI": answer({"error": {"message": "Invalid URL (POST /v1/embeddings)", "code": None}}, status=404),
    "llama.cpp": answer(
        {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}, status=404
    ),
    "Headrace": answer(
        {"error": {"message": "there is nothing at POST /v1/embeddings", "code": "not_found"}}, status=404
    ),
    "nothing": Answer(404, {"Content-Type": "text/plain"}),
    "405": answer({"detail": "Method Not Allowed"}, status=405),
}


@pytest.mark.parametrize("headers", [{}, STRICT], ids=["relayed", "translated"])
@pytest.mark.parametrize("played", MISSING.values(), ids=MISSING)
def test_an_endpoint_that_is_missing_is_no_missing_model(
    relay: Relays, played: Answer, headers: dict[str, str]
) -> None:
    relay.provider.play(played)
    body = json.dumps({"model": "up:m", "input": "x"}).encode()
    status, _, raw = relay.ask("/v1/embeddings", body, **headers)
    error = json.loads(raw)["error"]
    assert (status, error["code"]) == (404, "endpoint_not_found")
    assert "up has no endpoint /embeddings" in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "The model `m` does not exist", "code": "model_not_found"}},
        {"error": "model 'm' not found, try pulling it first"},
        {"error": {"message": "Not found", "code": "model_not_found"}},
        {"error": {"message": "The API deployment for this resource does not exist."}},
    ],
)
def test_a_missing_model_is_one(relay: Relays, body: dict[str, Any]) -> None:
    relay.provider.play(answer(body, status=404))
    status, _, error = ask(relay, "translated")
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Refusal("p", 404, "Cannot POST /v1/rerank", path="/rerank"), EndpointNotFound),
        (Refusal("p", 404, "Unknown endpoint"), EndpointNotFound),
        (Refusal("p", 404, "No endpoints found that can handle the parameters."), ModelNotFound),
        (Refusal("p", 404, "model: claude-9", type="not_found_error"), ModelNotFound),
    ],
)
def test_404s_are_distinguished(refusal: Refusal, kind: type[ServerError]) -> None:
    assert type(to_error(refusal)) is kind


@pytest.mark.parametrize("played", [FINAL["G16 401"][0], FINAL["G16 insufficient_quota"][0]])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["up:m", "an:m"])
def test_g16_the_official_clients_ask_once(relay: Relays, played: Answer, model: str, stream: bool) -> None:
    url = relay.served.url
    for ask_once in (
        lambda: openai.OpenAI(base_url=f"{url}/v1", api_key=CALLERS, max_retries=2).chat.completions.create(
            model=model, messages=HI, stream=stream
        ),
        lambda: openai.OpenAI(base_url=f"{url}/v1", api_key=CALLERS, max_retries=2).responses.create(
            model=model, input="hi", stream=stream
        ),
        lambda: anthropic.Anthropic(base_url=url, api_key=CALLERS, max_retries=2).messages.create(
            model=model, messages=HI, stream=stream, max_tokens=9
        ),
    ):
        relay.provider.forget()
        relay.provider.play(*[played] * 3)
        num_before = len(relay.provider.posts)
        with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)):
            ask_once()
        assert len(relay.provider.posts) == num_before + 1


MEMBERS = ("error", "errors", "detail", "message", "code", "type", "param", "status", "loc", "msg")
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20)
    | st.sampled_from([KEY, "context_length_exceeded", "insufficient_quota", "Not Found"])
    | st.sampled_from(["\ud83d", "x" * 2000]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(MEMBERS),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
STATUSES = [
    300,
    301,
    400,
    401,
    402,
    403,
    404,
    405,
    408,
    409,
    413,
    422,
    429,
    451,
    499,
    500,
    502,
    503,
    504,
    529,
]


@settings(max_examples=500, deadline=None)
@given(VALUES, st.sampled_from(STATUSES), st.text(max_size=8))
def test_whatever_a_provider_says_becomes_an_error_without_secrets(
    value: Any, status: int, header: str
) -> None:
    upstream = Upstream("p", "http://x", headers={"Authorization": f"Bearer {KEY}"}, timeout_s=1)
    error = upstream.error_of_body(
        status, json.dumps(value), {"Retry-After": header}, path="/chat/completions"
    )
    assert 400 <= error.status < 600
    assert error.status != 401
    written = json.dumps([to_body(error), to_messages_body(error, "r"), error.headers])
    assert KEY not in written
    assert len(written) < 10_000
    assert all(text.isascii() for text in error.headers.values())
