import pytest

from headrace.backends.fake import FakeBackend
from headrace.config import Config
from tests.api.relays import HI, WHOLE, relays
from tests.conftest import FakeServer
from tests.upstream import answer

PAGE = "https://chat.example"
CHAT = "/v1/chat/completions"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,x-mine",
}
BODY = {"model": "fake", "messages": HI}


def shared(*origins: str, **server: object) -> Config:
    return Config.model_validate({"server": {"cors_origins": origins, **server}})


def test_no_page_may_call_unless_the_configuration_says_so(fake_server: FakeServer) -> None:
    server = fake_server()
    preflight = server.http.options(CHAT, headers={"Origin": PAGE, **PREFLIGHT})
    assert preflight.status_code == 405
    for response in (preflight, server.post(CHAT, BODY, headers={"Origin": PAGE})):
        assert not [name for name in response.headers if name.startswith("access-control")]
        assert "vary" not in response.headers


def test_a_preflight_is_answered(fake_server: FakeServer) -> None:
    server = fake_server(config=shared(PAGE, "http://localhost:5173", api_keys=["k"]))
    preflight = server.http.options(CHAT, headers={"Origin": PAGE, **PREFLIGHT})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert preflight.headers["access-control-allow-credentials"] == "true"
    assert preflight.headers["access-control-allow-headers"] == "authorization,x-mine"
    assert preflight.headers["x-request-id"]
    refused = server.http.options(CHAT, headers={"Origin": "https://other.example", **PREFLIGHT})
    assert (refused.status_code, refused.headers.get("access-control-allow-origin")) == (400, None)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("origin", [PAGE, "https://other.example", None])
def test_answers_can_be_read_by_the_pages_that_are_named(
    fake_server: FakeServer, origin: str | None, stream: bool
) -> None:
    server = fake_server(config=shared(PAGE))
    sent = {"Origin": origin} if origin else {}
    headers = server.post(CHAT, {**BODY, "stream": stream}, headers=sent).headers
    assert headers.get("access-control-allow-origin") == (PAGE if origin == PAGE else None)
    assert "Origin" in headers["vary"]
    if origin == PAGE:
        assert "x-request-id" in headers["access-control-expose-headers"]


def test_all_pages_are_served_without_cookies(fake_server: FakeServer) -> None:
    server = fake_server(config=shared("*"))
    headers = server.post(CHAT, BODY, headers={"Origin": PAGE, "Cookie": "a=b"}).headers
    assert headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in headers


def test_a_page_can_read_what_went_wrong(fake_server: FakeServer) -> None:
    server = fake_server(FakeBackend([], refusal=RuntimeError("no")), config=shared(PAGE, api_keys=["k"]))
    key = {"Authorization": "Bearer k"}
    origin = {"Origin": PAGE}
    failures = [
        server.post(CHAT, BODY, headers={**origin, **key}),
        server.post(CHAT, BODY, headers=origin),
        server.post(CHAT, {}, headers={**origin, **key}),
        server.get("/nowhere", origin),
    ]
    assert [failure.status_code for failure in failures] == [500, 401, 400, 404]
    assert {failure.headers["access-control-allow-origin"] for failure in failures} == {PAGE}
    assert all(failure.headers["x-request-id"] for failure in failures)


def test_a_page_can_read_what_is_passed_on() -> None:
    with relays(cors_origins=[PAGE]) as relay:
        relay.provider.play(
            answer(WHOLE, headers={"Access-Control-Allow-Origin": "https://theirs"}),
            answer({"error": {"message": "no"}}, status=429),
        )
        for status in (200, 429):
            got, headers, _ = relay.ask(CHAT, b'{"model": "up:m", "messages": []}', Origin=PAGE)
            assert (got, headers["access-control-allow-origin"]) == (status, PAGE)


def test_security_headers_are_sent_unless_they_are_off(fake_server: FakeServer) -> None:
    for response in (
        fake_server().get("/health"), fake_server().get("/docs"), fake_server().post(CHAT, {}),
        fake_server().post(CHAT, {**BODY, "stream": True}),
    ):  # fmt: skip
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["permissions-policy"] == "camera=(), microphone=(), geolocation=()"
    off = fake_server(config=shared(security_headers=False)).get("/health").headers
    assert not {"x-content-type-options", "x-frame-options", "referrer-policy"} & set(off)
