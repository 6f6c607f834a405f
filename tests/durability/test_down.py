"""A database that is down: 503 for what needs it, on every endpoint, and all else goes on."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.types import Event
from tests.conftest import FakeServer
from tests.durability.api import check_refusal
from tests.postgres import PostgreSQL, postgresql
from tests.serving import Served, eventually

HI: dict[str, Any] = {"model": "fake", "input": "hi"}
CHAT: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
ITEMS = {"items": [{"role": "user", "content": "hi"}]}
METADATA = {"metadata": {"a": "b"}}

# (method, path, body): what reads or writes what is kept
STATEFUL: list[tuple[str, str, dict[str, Any] | None]] = [
    ("POST", "/v1/conversations", {}),
    ("GET", "/v1/conversations", None),
    ("GET", "/v1/conversations/{conv}", None),
    ("POST", "/v1/conversations/{conv}", METADATA),
    ("DELETE", "/v1/conversations/{conv}", None),
    ("GET", "/v1/conversations/{conv}/export", None),
    ("POST", "/v1/conversations/{conv}/fork", {"item_id": None}),
    ("POST", "/v1/conversations/{conv}/items", ITEMS),
    ("GET", "/v1/conversations/{conv}/items", None),
    ("GET", "/v1/conversations/{conv}/items/{item}", None),
    ("DELETE", "/v1/conversations/{conv}/items/{item}", None),
    ("POST", "/v1/responses", HI),
    ("POST", "/v1/responses", {**HI, "stream": True}),
    ("POST", "/v1/responses", {**HI, "background": True}),
    ("POST", "/v1/responses", {**HI, "background": True, "stream": True}),
    ("POST", "/v1/responses", {**HI, "store": False, "previous_response_id": "{resp}"}),
    ("POST", "/v1/responses", {**HI, "store": False, "conversation": "{conv}"}),
    ("POST", "/v1/responses", {**HI, "conversation": {"id": "{conv}"}}),
    ("POST", "/v1/responses/input_tokens", {**HI, "previous_response_id": "{resp}"}),
    ("POST", "/v1/responses/compact", {**HI, "previous_response_id": "{resp}"}),
    ("GET", "/v1/responses/{resp}", None),
    ("GET", "/v1/responses/{resp}?stream=true", None),
    ("DELETE", "/v1/responses/{resp}", None),
    ("POST", "/v1/responses/{resp}/cancel", None),
    ("GET", "/v1/responses/{resp}/input_items", None),
    ("POST", "/v1/chat/completions", {**CHAT, "store": True}),
    ("POST", "/v1/chat/completions", {**CHAT, "store": True, "stream": True}),
    ("POST", "/v1/chat/completions", {**CHAT, "conversation": "{conv}"}),
    ("POST", "/v1/chat/completions", {**CHAT, "conversation": "{conv}", "stream": True}),
    ("POST", "/v1/chat/completions", {**CHAT, "conversation": "new"}),
    ("GET", "/v1/chat/completions", None),
    ("GET", "/v1/chat/completions/{chat}", None),
    ("POST", "/v1/chat/completions/{chat}", METADATA),
    ("DELETE", "/v1/chat/completions/{chat}", None),
    ("GET", "/v1/chat/completions/{chat}/messages", None),
]
STATELESS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/chat/completions", {**CHAT, "stream": True}),
    ("POST", "/v1/completions", {"model": "fake", "prompt": "hi"}),
    ("POST", "/v1/messages", {**CHAT, "max_tokens": 9}),
    ("POST", "/v1/embeddings", {"model": "fake", "input": "hi"}),
    ("POST", "/v1/responses", {**HI, "store": False}),
    ("POST", "/v1/responses", {**HI, "store": False, "stream": True}),
    ("POST", "/v1/responses/input_tokens", HI),
    ("POST", "/v1/responses/compact", HI),
    ("GET", "/v1/models", None),
    ("GET", "/health", None),
]


@pytest.fixture(scope="module")
def database() -> Iterator[PostgreSQL]:
    with postgresql(is_durable=True) as server:
        yield server


def over(database: PostgreSQL) -> Config:
    return Config.model_validate({"store": {"url": database.create()}})


def send(server: Served, method: str, path: str, body: object) -> httpx2.Response:
    return server.http.request(method, path, json=body)


def made(server: Served) -> dict[str, str]:
    """One of each, by the names in the table above."""
    conversation = server.post("/v1/conversations", ITEMS).json()["id"]
    items = server.get(f"/v1/conversations/{conversation}/items").json()
    return {
        "conv": conversation,
        "item": items["data"][0]["id"],
        "resp": server.post("/v1/responses", HI).json()["id"],
        "chat": server.post("/v1/chat/completions", {**CHAT, "store": True}).json()["id"],
    }


def filled(text: str, ids: dict[str, str]) -> str:
    for name, id in ids.items():
        text = text.replace("{" + name + "}", id)
    return text


def test_what_needs_it_is_refused_and_all_else_goes_on(fake_server: FakeServer, database: PostgreSQL) -> None:
    backend = FakeBackend(["Hello", " world"])
    server = fake_server(backend, config=over(database))
    ids = made(server)
    database.stop()
    try:
        num_before = len(backend.requests)
        for method, path, body in STATEFUL:
            request_body = json.loads(filled(json.dumps(body), ids))
            check_refusal(send(server, method, filled(path, ids), request_body))
        assert len(backend.requests) == num_before, "refused before anything is generated"
        for method, path, body in STATELESS:
            response = send(server, method, path, body)
            assert response.status_code == 200, f"{path}: {response.text}"
    finally:
        database.start()
    eventually(lambda: send(server, "GET", "/v1/conversations", None).status_code == 200)
    for method, path, body in STATEFUL:
        if method == "DELETE" or "cancel" in path or "stream=true" in path:
            continue
        response = send(server, method, filled(path, ids), json.loads(filled(json.dumps(body), ids)))
        assert response.status_code == 200, f"{method} {path}: {response.text}"


def test_every_endpoint_of_what_is_kept_is_in_the_table(fake_server: FakeServer) -> None:
    stored = ("/v1/conversations", "/v1/responses", "/v1/chat/completions")
    paths = fake_server().get("/openapi.json").json()["paths"]
    known = {(method, path.partition("?")[0].count("/"), path.split("/")[-1]) for method, path, _ in STATEFUL}
    for path, methods in paths.items():
        last = path.split("/")[-1]
        for method in methods:
            if path.startswith(stored):
                ends = {end for m, count, end in known if (m, count) == (method.upper(), path.count("/"))}
                assert last in ends or (last[0] == "{" and any(end[0] == "{" for end in ends)), (method, path)


def test_over_a_websocket(fake_server: FakeServer, database: PostgreSQL) -> None:
    server = fake_server(config=over(database))

    def ask(**members: object) -> Any:
        """Send a request, and return the last frame of its answer."""
        socket.send(json.dumps({"type": "response.create", **HI, **members}))
        frame = json.loads(socket.recv(10))
        while frame["type"] not in ("error", "response.completed"):
            frame = json.loads(socket.recv(10))
        return frame

    with connect(server.url.replace("http", "ws") + "/v1/responses", proxy=None, open_timeout=60) as socket:
        first = ask(store=False)["response"]["id"]
        database.stop()
        try:
            assert server.get("/v1/conversations").status_code == 503  # from here on that is known
            refused = ask()
            assert (refused["status"], refused["error"]["code"]) == (503, "store_unavailable")
            assert ask(store=False, previous_response_id=first)["response"]["status"] == "completed"
        finally:
            database.start()
        eventually(lambda: ask()["type"] == "response.completed")


class Waiting(FakeBackend):
    """Says the first half, and the second when it may."""

    def __init__(self) -> None:
        super().__init__(["Hello", " world"])
        self.has_started, self.may_end = threading.Event(), threading.Event()

    async def _events(self, num_choices: int) -> AsyncIterator[Event]:
        async for event in super()._events(num_choices):
            yield event
            self.has_started.set()
            await asyncio.to_thread(self.may_end.wait, 30)


LATE = [
    ("/v1/chat/completions", {**CHAT, "store": True}),
    ("/v1/chat/completions", {**CHAT, "conversation": "{conv}"}),
    ("/v1/chat/completions", {**CHAT, "conversation": "{conv}", "stream": True}),
    ("/v1/responses", {**HI, "conversation": "{conv}"}),
    ("/v1/responses", {**HI, "conversation": "{conv}", "stream": True}),
]


@pytest.mark.parametrize(("path", "body"), LATE)
def test_an_answer_that_is_there_is_delivered_and_flagged(
    fake_server: FakeServer, database: PostgreSQL, path: str, body: dict[str, Any]
) -> None:
    backend = Waiting()
    server = fake_server(backend, config=over(database))
    conversation = server.post("/v1/conversations", ITEMS).json()["id"]
    request_body = json.loads(filled(json.dumps(body), {"conv": conversation}))
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(server.post, path, request_body)
        assert backend.has_started.wait(60)
        database.stop()
        try:
            backend.may_end.set()
            check_flagged(asking.result(30), is_streamed="stream" in body)
        finally:
            backend.may_end.set()
            database.start()
    eventually(lambda: server.get(f"/v1/conversations/{conversation}").status_code == 200)
    items = server.get(f"/v1/conversations/{conversation}/items").json()["data"]
    assert len(items) == 1, "nothing of that turn"
    response = server.post("/v1/chat/completions", {**CHAT, "conversation": conversation})
    assert response.status_code == 200, "it is not locked"


def check_flagged(response: httpx2.Response, *, is_streamed: bool) -> None:
    assert response.status_code == 200, response.text
    assert "Hello" in response.text
    assert " world" in response.text
    if not is_streamed:
        assert response.headers["X-Headrace-Persisted"] == "false"
        assert response.json().get("store") in (None, False)
    elif "chat.completion.chunk" in response.text:
        assert response.text.endswith(": X-Headrace-Persisted: false\n\ndata: [DONE]\n\n")
    else:
        assert '"store":false' in response.text.split("event: response.completed")[1]
