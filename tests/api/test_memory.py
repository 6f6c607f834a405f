"""The memory of bodies in flight is bounded on every route, and released however a request ends."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from websockets.sync.client import ClientConnection, connect

from headrace.api.request import TRIM_AFTER, Budget, Charge
from headrace.app import create_app
from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.errors import BadRequest, Overloaded
from headrace.free_memory import trim
from headrace.types import ModelInfo
from headrace.wire.limits import MAX_CONTAINERS
from tests.api.relays import relays
from tests.serving import Served, eventually, serving
from tests.upstream import Answer

MB = 10**6
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


def chat(size: int, **members: Any) -> dict[str, Any]:
    return {"model": "fake", "messages": [{"role": "user", "content": "x" * size}], **members}


def served(backend: FakeBackend, limit: str = "2MB") -> Any:
    config = Config.model_validate({"server": {"max_inflight_bytes": limit}})
    return serving(create_app(config, [backend]))


def used(server: Served) -> int:
    budget: Budget = server.app.state.budget
    return budget.used


def is_refused(response: httpx2.Response) -> bool:
    """Whether it is the refusal for lack of memory, in OpenAI's shape or Anthropic's."""
    message = response.json()["error"]["message"]
    return response.status_code == 503 and "Retry-After" in response.headers and "memory" in message


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat(600_000)),
        (CHAT, chat(600_000, stream=True)),
        ("/v1/messages", {**chat(600_000), "max_tokens": 5}),
        (RESPONSES, {"model": "fake", "input": "x" * 600_000, "store": False}),
        ("/v1/completions", {"model": "fake", "prompt": "x" * 600_000}),
        ("/v1/embeddings", {"model": "fake", "input": "x" * 600_000}),
        ("/v1/tokenize", {"model": "fake", "prompt": "x" * 600_000}),
    ],
)
def test_a_body_beyond_the_memory_there_is_may_come_again_later(path: str, body: dict[str, Any]) -> None:
    with served(FakeBackend(["Hello"])) as server:
        response = server.post(path, body)
        assert is_refused(response)
        assert used(server) == 0
        assert server.post(CHAT, chat(100_000)).status_code == 200


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_it_is_counted_while_a_request_runs_and_free_when_it_ends(stream: bool) -> None:
    with served(FakeBackend(["Hello", " world"], delay_s=0.3)) as server:
        with server.http.stream("POST", CHAT, json=chat(300_000, stream=True)) as running:
            assert used(server) > 4 * 300_000
            assert is_refused(server.post(CHAT, chat(300_000, stream=stream)))
            running.read()
        eventually(lambda: used(server) == 0)
        assert server.post(CHAT, chat(300_000, stream=stream)).status_code == 200
        eventually(lambda: used(server) == 0)


def started(server: Served, body: bytes, sent: int) -> socket.socket:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall((head + f"Content-Length: {len(body)}\r\n\r\n").encode() + body[:sent])
    return connection


@pytest.mark.parametrize("share", [0.5, 1.0], ids=["amid its body", "after it"])
def test_it_is_free_when_the_caller_leaves(share: float) -> None:
    with served(FakeBackend(["Hello"], delay_s=30.0)) as server:
        body = json.dumps(chat(300_000)).encode()
        with started(server, body, int(len(body) * share)):
            eventually(lambda: used(server) > 4 * 300_000 * share * 0.9)
        eventually(lambda: used(server) == 0)


@pytest.mark.parametrize("failing", [{"error": RuntimeError("odd")}, {"refusal": BadRequest("no")}])
def test_it_is_free_when_the_request_fails(failing: dict[str, Any]) -> None:
    with served(FakeBackend(["Hello"], **failing)) as server:
        assert server.post(CHAT, chat(300_000)).status_code in (400, 500)
        assert server.post(CHAT, content=b"[" * 300_000).status_code == 400
        assert server.post(CHAT, content=b"x" * 300_000).status_code == 400
        eventually(lambda: used(server) == 0)


def turn(connection: ClientConnection, **members: Any) -> Any:
    frame = {"type": "response.create", "model": "fake", "input": "x" * 100_000, "store": False, **members}
    connection.send(json.dumps(frame))
    while (event := json.loads(connection.recv(10)))["type"] not in ("response.completed", "error"):
        pass
    return event


def test_what_a_websocket_remembers_counts_until_it_ends() -> None:
    with served(FakeBackend(["Hello"])) as server:
        with connect(server.url.replace("http", "ws") + RESPONSES, proxy=None, open_timeout=60) as connection:
            first = turn(connection)["response"]["id"]
            eventually(lambda: 400_000 < used(server) < 500_000)
            second = turn(connection, previous_response_id=first)["response"]["id"]
            eventually(lambda: 800_000 < used(server) < 1_000_000)
            turn(connection, previous_response_id=second)
            eventually(lambda: 1_200_000 < used(server) < 1_400_000)
            turn(connection)  # goes on from nothing
            eventually(lambda: 400_000 < used(server) < 500_000)
        eventually(lambda: used(server) == 0)


def test_a_websocket_forgets_what_others_need_the_memory_for() -> None:
    with served(FakeBackend(["Hello"])) as server:
        url = server.url.replace("http", "ws") + RESPONSES
        with connect(url, proxy=None, open_timeout=60) as connection:
            id = turn(connection)["response"]["id"]
            eventually(lambda: 400_000 < used(server) < 500_000)
            assert server.post(CHAT, chat(450_000)).status_code == 200  # with the memory of the WebSocket
            eventually(lambda: used(server) == 0)
            event = turn(connection, previous_response_id=id)
            assert event["error"]["code"] == "previous_response_not_found"
            assert turn(connection)["type"] == "response.completed"


def test_what_is_parsed_counts_too() -> None:
    with served(FakeBackend(["Hello"])) as server:
        lists: dict[str, Any] = {"a": [[]] * (MAX_CONTAINERS - 100)}
        assert is_refused(server.post(CHAT, chat(1, chat_template_kwargs=lists)))
        assert used(server) == 0


class Unbounded(FakeBackend):
    """A backend whose context has no known length, so that no prompt is refused for its length."""

    def models(self) -> list[ModelInfo]:
        return [replace(info, max_model_len=None) for info in super().models()]


def test_a_response_in_the_background_keeps_it_until_it_has_ended() -> None:
    with served(Unbounded(["Hello"], delay_s=0.5)) as server:
        body = {"model": "fake", "input": "x" * 300_000, "background": True}
        assert server.post(RESPONSES, body).json()["status"] == "queued"
        assert used(server) > 4 * 300_000
        assert is_refused(server.post(CHAT, chat(300_000)))
        eventually(lambda: used(server) == 0)


def test_what_is_passed_on_to_a_provider_counts_as_well() -> None:
    body = json.dumps({"model": "up:m", "messages": [{"role": "user", "content": "x" * 300_000}]}).encode()
    with relays(max_inflight_bytes="1MB") as relay:
        status, headers, _ = relay.ask(CHAT, body)
        assert (status, headers["Retry-After"]) == (503, "1")
        assert used(relay.served) == 0
    with relays(max_inflight_bytes="2MB") as relay:
        relay.provider.play(Answer(stall=True))
        with relay.begin(CHAT, body):
            eventually(lambda: used(relay.served) > 4 * 300_000)
            status, headers, _ = relay.ask(CHAT, body)
            assert (status, headers["Retry-After"]) == (503, "1")
        eventually(lambda: used(relay.served) == 0)


def test_a_charge_that_was_refused_takes_nothing() -> None:
    budget = Budget(100)
    first, second = Charge(budget), Charge(budget)
    first.take(60)
    with pytest.raises(Overloaded):
        second.take(50)
    second.take(40)
    moved = first.moved()
    first.release()
    assert budget.used == 100
    moved.release()
    moved.release()
    second.release()
    assert budget.used == 0


def test_no_limit_refuses_nothing() -> None:
    charge = Charge(Budget(0))
    charge.take(10**15)
    charge.release()


def test_memory_of_large_bodies_goes_back_to_the_system() -> None:
    body = b'{"model": "fake", "x": [' + b'"abc",' * 350_000
    with served(FakeBackend(["Hello"]), limit="512MB") as server:
        budget: Budget = server.app.state.budget
        for _ in range(3):
            assert server.post(CHAT, content=body).status_code == 400
        assert 0 < budget.released < TRIM_AFTER
        for _ in range(2):
            assert server.post(CHAT, content=body).status_code == 400
        eventually(lambda: budget.released == 0)
    trim()  # fails on no system
