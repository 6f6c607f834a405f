from __future__ import annotations

import asyncio
import contextlib
import http.client

import openai
import pytest

from headrace.api.authentication import Keys
from headrace.config import Config, ServerConfig
from tests.conftest import FakeServer
from tests.serving import Served

CHAT = "/v1/chat/completions"
HI = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
KEYED = Config.model_validate({"server": {"api_keys": ("first-key", "zweiter-schlüssel")}})


def raw_status(server: Served, authorization: bytes) -> int:
    """With a header that httpx2 would refuse to send."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    with contextlib.closing(connection):
        connection.putrequest("GET", "/v1/models")
        connection.putheader("Authorization", authorization)
        connection.endheaders()
        return connection.getresponse().status


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong", "Basic Zmlyc3Qta2V5", "first-key", "Bearer first-key x"],
)
def test_wrong_key_is_401(fake_server: FakeServer, authorization: str | None) -> None:
    server = fake_server(config=KEYED)
    headers = {} if authorization is None else {"Authorization": authorization}
    for response in (server.post(CHAT, HI, headers=headers), server.get("/v1/models", headers)):
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert response.json()["error"]["type"] == "invalid_request_error"
    assert server.get("/v1/models/fake", headers).status_code == 401


def test_right_key_works(fake_server: FakeServer) -> None:
    server = fake_server(config=KEYED)
    with server.client("first-key") as client:
        assert client.completions.create(model="fake", prompt="x").choices[0].text == "Hello world"
    for scheme in ("bearer", "BEARER", "Bearer "):
        assert server.get("/v1/models", {"Authorization": f"{scheme} first-key"}).status_code == 200
    assert raw_status(server, "Bearer zweiter-schlüssel".encode()) == 200


def test_a_key_in_x_api_key_is_as_good(fake_server: FakeServer) -> None:
    server = fake_server(config=KEYED)
    bodies = {
        CHAT: HI,
        "/v1/completions": {"model": "fake", "prompt": "x"},
        "/v1/embeddings": {"model": "fake", "input": "x"},
        "/tokenize": {"prompt": "x"},
    }
    for key, status in (("first-key", 200), ("wrong", 401), ("", 401)):
        headers = {"x-api-key": key}
        statuses = {server.post(path, body, headers=headers).status_code for path, body in bodies.items()}
        assert statuses | {server.get("/v1/models", headers).status_code} == {status}


def test_wrong_key_raises_in_the_client(fake_server: FakeServer) -> None:
    with fake_server(config=KEYED).client("nope") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_key_is_asked_for_before_the_body_is_judged(fake_server: FakeServer) -> None:
    response = fake_server(config=KEYED).post(CHAT, content=b"{")
    assert response.status_code == 401


def test_health_and_documentation_are_open(fake_server: FakeServer) -> None:
    server = fake_server(config=KEYED)
    for path in ("/health", "/healthz", "/ping", "/ready", "/openapi.json", "/docs"):
        assert server.get(path).status_code == 200


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer anything"])
def test_without_keys_everybody_may(fake_server: FakeServer, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    assert fake_server().post(CHAT, HI, headers=headers).status_code == 200


def test_empty_bearer_is_no_key(fake_server: FakeServer) -> None:
    assert raw_status(fake_server(), b"Bearer ") == 200  # lm-eval sends it when it has no key
    assert raw_status(fake_server(config=KEYED), b"Bearer ") == 401


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("203.0.113.7", "203.0.113.8", False),
        ("::ffff:203.0.113.7", "::ffff:203.0.113.8", False),  # on a socket of both families
        ("::ffff:203.0.113.7", "203.0.113.7", True),
        ("2001:db8::7", "2001:db8::ffff:8", True),  # the last 64 bits are his to choose
        ("2001:db8::7", "2001:db8:0:1::7", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("1:2:3", "1:2:4", False),
    ],
)
def test_without_keys_an_address_is_a_caller(one: str, other: str, *, is_same: bool) -> None:
    keys = Keys(ServerConfig())
    flows = [asyncio.run(keys.authenticate(None, address)).flow for address in (one, other)]
    assert (flows[0] == flows[1]) is is_same
