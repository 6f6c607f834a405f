"""/v1/responses over a WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from headrace.api import websocket
from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.types import Event
from tests.api.responses_client import KEYS, PATH, WEATHER, Turns, call, said, strict
from tests.conftest import FakeServer
from tests.serving import Served, eventually
from tests.wire.stream_order import check_stream

LAST = ("response.completed", "response.incomplete", "response.failed")
HI = {"type": "response.create", "model": "fake", "input": "hi"}


@contextmanager
def connected(server: Served, key: str = "one") -> Iterator[ClientConnection]:
    url = server.url.replace("http", "ws") + PATH
    with connect(
        url, additional_headers={"Authorization": f"Bearer {key}"}, proxy=None, open_timeout=60
    ) as socket:
        yield socket


def ask(socket: ClientConnection, **body: Any) -> list[Any]:
    """The frames of one turn."""
    socket.send(json.dumps({**HI, **body}))
    frames = [json.loads(socket.recv(10))]
    while "status" not in frames[-1] and frames[-1]["type"] not in LAST:
        frames.append(json.loads(socket.recv(10)))
    if "status" not in frames[-1]:
        check_stream(frames)
    return frames


def test_turns_go_on_from_each_other(fake_server: FakeServer) -> None:
    backend = Turns(call(), ["warm"], ["stored"])
    with connected(fake_server(backend)) as socket:
        wanted = ask(socket, store=False, tools=[WEATHER])[-1]["response"]
        answer = [{"type": "function_call_output", "call_id": "call_1", "output": "20"}]
        second = ask(socket, store=False, input=answer, previous_response_id=wanted["id"])[-1]["response"]
        assert said(backend) == [("user", "hi"), ("assistant", ""), ("tool", "20")]
        last = ask(socket, input="more", previous_response_id=second["id"])[-1]["response"]
        assert last["store"] is True
        assert said(backend)[-2:] == [("assistant", "warm"), ("user", "more")]


def test_what_was_stored_holds_all_that_was_not(fake_server: FakeServer) -> None:
    server = fake_server()
    with connected(server) as socket:
        first = ask(socket, store=False)[-1]["response"]["id"]
        second = ask(socket, input="two", previous_response_id=first)[-1]["response"]["id"]
    with strict(server) as client, pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first)
    with strict(server) as client:
        items = client.responses.input_items.list(second, order="asc").data
        texts = [item.to_dict()["content"][0]["text"] for item in items]  # type: ignore[index]  # messages
        assert texts == ["hi", "Hello world", "two"]


@pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")
def test_clients_own_connection(fake_server: FakeServer) -> None:
    with strict(fake_server()) as client, client.responses.connect() as connection:
        connection.response.create(model="fake", input="hi")
        for event in connection:
            if event.type == "response.completed":
                assert event.response.output_text == "Hello world"
                break


@pytest.mark.parametrize("stored", [True, False])
def test_unknown_predecessor_is_an_error_frame(fake_server: FakeServer, stored: bool) -> None:
    with connected(fake_server()) as socket:
        (error,) = ask(socket, store=stored, previous_response_id="resp_" + "0" * 48)
        assert (error["type"], error["status"]) == ("error", 400)
        assert error["error"]["code"] == "previous_response_not_found"
        assert error["error"]["param"] == "previous_response_id"
        assert ask(socket)[-1]["type"] == "response.completed"


def test_failed_continuation_forgets_what_it_went_on_from(fake_server: FakeServer) -> None:
    backend = FakeBackend(["Hello"])
    server = fake_server(backend)
    with connected(server) as socket:
        id = ask(socket, store=False)[-1]["response"]["id"]
        bad = [{"type": "function_call_output", "call_id": "none", "output": "x"}]
        (error,) = ask(socket, store=False, previous_response_id=id, input=bad)
        assert error["status"] == 400
        (error,) = ask(socket, store=False, previous_response_id=id)
        assert error["error"]["code"] == "previous_response_not_found"
    with connected(server) as socket:
        id = ask(socket, store=False)[-1]["response"]["id"]
        backend.error = RuntimeError("broken")
        assert ask(socket, store=False, previous_response_id=id)[-1]["type"] == "response.failed"
        backend.error = None
        (error,) = ask(socket, store=False, previous_response_id=id)
        assert error["error"]["code"] == "previous_response_not_found"


def test_another_connection_does_not_know_what_is_not_stored(fake_server: FakeServer) -> None:
    server = fake_server()
    with connected(server) as socket:
        id = ask(socket, store=False)[-1]["response"]["id"]
    with connected(server) as socket:
        assert ask(socket, store=False, previous_response_id=id)[-1]["status"] == 400


def test_one_turn_at_a_time(fake_server: FakeServer) -> None:
    backend = FakeBackend(["tick "] * 20, delay_s=0.05)
    with connected(fake_server(backend)) as socket:
        socket.send(json.dumps(HI))
        eventually(lambda: backend.num_active)
        socket.send(json.dumps(HI))
        frames = [json.loads(socket.recv(10))]
        while frames[-1]["type"] != "response.completed":
            frames.append(json.loads(socket.recv(10)))
        (error,) = [frame for frame in frames if frame["type"] == "error"]
        assert error["error"]["code"] == "response_in_progress"
        check_stream([frame for frame in frames if frame is not error])


def test_next_turn_may_follow_at_once(fake_server: FakeServer) -> None:
    with connected(fake_server()) as socket:
        for _ in range(100):
            assert ask(socket, store=False)[-1]["type"] == "response.completed"
            assert ask(socket, previous_response_id="resp_gone")[-1]["error"]["code"] == (
                "previous_response_not_found"
            )


@pytest.mark.parametrize(
    ("frame", "param", "code"),
    [
        ("no json", None, "invalid_json"),
        ("[]", None, "invalid_json"),
        ('{"type": "response.steer"}', "type", "invalid_value"),
        ('{"type": "response.create"}', "model", "missing_required_parameter"),
        (json.dumps({**HI, "background": True}), "background", "unsupported_parameter"),
        (json.dumps({**HI, "stream_id": "a"}), "stream_id", "unsupported_parameter"),
        (json.dumps({**HI, "generate": False}), "generate", "unsupported_parameter"),
        (json.dumps({**HI, "input": [{"role": "user", "content": 7}]}), "input.0.content", "invalid_value"),
        pytest.param(json.dumps({**HI, "input": "\ud800"}), None, "invalid_json", id="half a surrogate pair"),
        pytest.param(json.dumps({**HI, "x\udc00": 1}), None, "invalid_json", id="half a pair in a name"),
        pytest.param(json.dumps({**HI, "input": [[]] * 40_000}), "input", "invalid_value", id="40,000 lists"),
        pytest.param("[" * 100_000, "body", "invalid_value", id="100,000 brackets"),
    ],
)
def test_frame_is_refused(fake_server: FakeServer, frame: str, param: str | None, code: str) -> None:
    with connected(fake_server()) as socket:
        socket.send(frame)
        error = json.loads(socket.recv(10))
        assert (error["status"], error["error"]["param"], error["error"]["code"]) == (400, param, code)
        assert ask(socket)[-1]["type"] == "response.completed"


def test_frame_that_is_too_large_is_refused(fake_server: FakeServer) -> None:
    config = Config.model_validate({"server": {"max_body_bytes": 1000}})
    with connected(fake_server(config=config)) as socket:
        (error,) = ask(socket, input="x" * 1000)
        assert (error["status"], error["error"]["code"]) == (413, "payload_too_large")


def test_frames_count_as_memory_in_flight(fake_server: FakeServer) -> None:
    server = fake_server(config=Config.model_validate({"server": {"max_inflight_bytes": "1MB"}}))
    with connected(server) as socket:
        (error,) = ask(socket, input="x" * 300_000)
        assert (error["status"], error["error"]["code"]) == (503, "server_is_overloaded")
        assert ask(socket, input="x" * 200_000)[-1]["type"] == "response.completed"
        eventually(lambda: server.app.state.budget.used == 0)


def test_key_is_asked_for(fake_server: FakeServer) -> None:
    server = fake_server(config=Config.model_validate({"server": {"api_keys": KEYS}}))
    with pytest.raises(InvalidStatus) as caught, connected(server, "bad"):
        pass
    assert caught.value.response.status_code == 401
    assert json.loads(caught.value.response.body or b"")["error"]["code"] == "invalid_api_key"
    with connected(server, "one") as socket:
        id = ask(socket)[-1]["response"]["id"]
    with connected(server, "two") as socket:
        assert ask(socket, previous_response_id=id)[-1]["status"] == 400
    url = server.url.replace("http", "ws") + PATH
    with connect(url, additional_headers={"x-api-key": "one"}, proxy=None, open_timeout=60) as socket:
        assert ask(socket, previous_response_id=id)[-1]["type"] == "response.completed"


def test_leaving_frees_the_backend(fake_server: FakeServer) -> None:
    backend = FakeBackend(["tick "] * 1000, delay_s=0.01)
    server = fake_server(backend)
    with connected(server) as socket:
        socket.send(json.dumps(HI))
        id = json.loads(socket.recv(10))["response"]["id"]
    eventually(lambda: not backend.num_active)
    with strict(server) as client:
        eventually(lambda: not server.gateway.num_active)
        eventually(lambda: client.responses.retrieve(id).status == "cancelled")


def test_connection_lasts_for_an_hour(fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "LIMIT_S", 0.2)
    with connected(fake_server()) as socket:
        error = json.loads(socket.recv(10))
        assert error["error"]["code"] == "websocket_connection_limit_reached"
        with pytest.raises(ConnectionClosed):
            socket.recv(10)


def test_refusal_of_the_backend_is_an_error_frame(fake_server: FakeServer) -> None:
    script: list[str | Event] = []
    backend = FakeBackend(script, error=asyncio.QueueFull())
    with connected(fake_server(backend)) as socket:
        (error,) = ask(socket)
        assert (error["status"], error["error"]["message"]) == (500, "the server had an error")
