"""Every response has an id, every error OpenAI's shape, and no stack trace leaves."""

from __future__ import annotations

import json
import logging
import re

import openai
import pytest

from headrace.backends.fake import FakeBackend
from headrace.errors import EngineFailed
from tests.conftest import FakeServer
from tests.serving import events, eventually

CHAT = "/v1/chat/completions"
HI = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
SHAPE = {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", ["/v1", "/v1/embedding", "/v2/chat/completions", "/v1/chat/completions/"])
def test_unknown_path_is_404(fake_server: FakeServer, path: str) -> None:
    response = fake_server().post(path, HI)
    assert response.status_code == 404
    error = response.json()["error"]
    assert set(error) == SHAPE
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "not_found", "path")
    assert response.headers["x-request-id"]


def test_wrong_method_is_405_with_allow(fake_server: FakeServer) -> None:
    server = fake_server()
    for path, allowed in {
        CHAT: "GET, POST",
        "/v1/models": "GET",
        "/health": "GET, HEAD",
        "/v1/completions": "POST",
        "/v1/conversations/conv_1": "GET, POST, DELETE",
        "/up/v1/chat/completions": "POST",
    }.items():
        response = server.http.put(path, json={})
        assert response.status_code == 405, path
        assert response.headers["allow"] == allowed
        assert response.json()["error"]["code"] == "method_not_allowed"
        assert response.json()["error"]["param"] == "method"
        assert response.headers["x-request-id"]


def test_put_is_among_the_methods_where_it_is_one(fake_server: FakeServer) -> None:
    response = fake_server().http.post("/v1/steering/default", json={})
    assert (response.status_code, response.headers["allow"]) == (405, "GET, PUT, DELETE")


@pytest.mark.parametrize("value", ["x", "-1", "9" * 30, "%F0"])
def test_parameters_of_paths_and_queries_of_any_value_get_our_errors(
    fake_server: FakeServer, value: str
) -> None:
    server = fake_server()
    paths = server.http.get("/openapi.json").json()["paths"]
    checked = 0
    for path, operations in paths.items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", []):
                if parameter["in"] not in ("path", "query") or path.endswith("/activations/stream"):
                    continue
                target = re.sub(r"\{[^}]+\}", "1", path.replace("{" + parameter["name"] + "}", value))
                query = f"?{parameter['name']}={value}" if parameter["in"] == "query" else ""
                answer = server.http.request(method, target + query)
                assert answer.status_code in (200, 400, 403, 404, 409), (method, target + query, answer.text)
                if answer.status_code != 200:
                    assert set(answer.json()["error"]) == SHAPE
                checked += 1
    assert checked > 60


def test_unknown_model_is_404_naming_what_is_served(fake_server: FakeServer) -> None:
    with fake_server().client() as client, pytest.raises(openai.NotFoundError) as raised:
        client.completions.create(model="gpt-9", prompt="hi", stream=True)
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    assert "fake" in raised.value.message


def test_models_are_listed_and_found_with_slashes_in_their_ids(fake_server: FakeServer) -> None:
    server = fake_server(FakeBackend(["hi"]), FakeBackend(["hi"], id="org/model"))
    with server.client() as client:
        assert [model.id for model in client.models.list()] == ["fake", "org/model"]
        found = client.models.retrieve("org/model")
        assert (found.id, found.object, found.owned_by) == ("org/model", "model", "fake")
        assert server.get("/v1/models/org/model").json()["max_model_len"] == 4096
        assert client.completions.create(model="org/model", prompt="x").model == "org/model"
        with pytest.raises(openai.NotFoundError) as raised:
            client.models.retrieve("org/other")
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")


def test_every_response_has_a_request_id(fake_server: FakeServer) -> None:
    server = fake_server(FakeBackend(["a"]), FakeBackend(["b"], id="bad", error=ValueError("secret")))
    responses = [
        server.post(CHAT, HI),
        server.post(CHAT, {**HI, "stream": True}),
        server.post(CHAT, {**HI, "model": "bad"}),
        server.post(CHAT, {**HI, "model": "none"}),
        server.post(CHAT, content=b"{"),
        server.get("/nowhere"),
        server.get("/health"),
        server.get("/openapi.json"),
    ]
    assert [response.status_code for response in responses] == [200, 200, 500, 404, 400, 404, 200, 200]
    ids = [response.headers["x-request-id"] for response in responses]
    assert all(re.fullmatch(r"req_[0-9a-f]{24}", id) for id in ids)
    assert len(set(ids)) == len(ids)
    assert all(int(response.headers["openai-processing-ms"]) >= 0 for response in responses)


@pytest.mark.parametrize("header", ["X-Request-ID", "X-Correlation-ID"])
def test_sane_ids_are_taken_over(fake_server: FakeServer, header: str) -> None:
    server = fake_server()
    for id in ("abc-123", "00-4bf92f35-00f0/67:1@x=+", "x" * 128):
        response = server.get("/nowhere", {header: id})
        assert response.headers["x-request-id"] == id
    for id in ("", "a b", "x" * 129, "a\tb", '<script>"', "caf\xe9"):
        response = server.get("/nowhere", {header: id.encode("latin-1")})  # type: ignore[dict-item]
        assert response.headers["x-request-id"].startswith("req_")


def test_request_id_wins_and_correlation_id_is_returned(fake_server: FakeServer) -> None:
    response = fake_server().get("/health", {"X-Request-ID": "one", "X-Correlation-ID": "two"})
    assert (response.headers["x-request-id"], response.headers["x-correlation-id"]) == ("one", "two")


@pytest.mark.parametrize("error", [RuntimeError("secret"), OSError("secret"), KeyError("secret")])
def test_no_stack_trace_leaves(
    fake_server: FakeServer, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    server = fake_server(FakeBackend(["Hello"], error=error))
    response = server.post(CHAT, HI)
    assert response.status_code == 500
    assert set(response.json()["error"]) == SHAPE
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text
    assert "Traceback" in caplog.text
    assert "secret" in caplog.text
    assert server.post(CHAT, HI).status_code == 500, "the server goes on"


@pytest.mark.parametrize("error", [RuntimeError("secret"), OSError("secret"), EngineFailed("out of memory")])
def test_error_in_a_stream_is_an_object_then_done(fake_server: FakeServer, error: Exception) -> None:
    server = fake_server(FakeBackend(["Hello"], error=error))
    response = server.post(CHAT, {**HI, "stream": True})
    *_, word, failure, done = events(response)
    assert response.status_code == 200
    assert word["choices"][0]["delta"] == {"content": "Hello"}
    assert set(failure) == {"error"}
    assert set(failure["error"]) == SHAPE
    assert failure["error"]["type"] == "server_error"
    assert "secret" not in response.text
    assert done == "[DONE]"
    eventually(lambda: server.gateway.num_active == 0)


def test_client_raises_on_an_error_in_a_stream(fake_server: FakeServer) -> None:
    failing = FakeBackend(["Hello"], error=EngineFailed("out of memory"))
    with fake_server(failing).client() as client:
        stream = client.completions.create(model="fake", prompt="x", stream=True)
        received = []
        with pytest.raises(openai.APIError, match="out of memory") as raised:
            received += [chunk.choices[0].text for chunk in stream]
    assert raised.value.code == "engine_failed"


def test_access_log_has_no_content(fake_server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    body = {"model": "fake", "messages": [{"role": "user", "content": "my secret"}]}
    fake_server().post(CHAT, body, headers={"Authorization": "Bearer key-secret"})
    assert f"POST {CHAT} 200" in caplog.text
    assert "secret" not in caplog.text


def test_health_needs_no_model_and_tells_when_a_backend_died(fake_server: FakeServer) -> None:
    backend = FakeBackend(["Hello"])
    server = fake_server(backend)
    for path in ("/health", "/healthz", "/ping", "/ready"):
        assert (server.get(path).status_code, server.get(path).json()) == (200, {"status": "ok"})
    backend.is_alive = False
    for path in ("/health", "/healthz", "/ping", "/ready"):
        assert (server.get(path).status_code, server.get(path).json()) == (503, {"status": "failed"})
    assert not backend.requests


def test_answers_are_utf_8_json(fake_server: FakeServer) -> None:
    server = fake_server(FakeBackend(["né ", "漢字 ", "🧑‍🚀"]))
    response = server.post(CHAT, HI)
    assert response.headers["content-type"] == "application/json"
    assert json.loads(response.content)["choices"][0]["message"]["content"] == "né 漢字 🧑‍🚀"
    stream = server.post(CHAT, {**HI, "stream": True})
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "漢字" in stream.content.decode()
