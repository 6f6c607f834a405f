"""What goes wrong on /v1/messages, and what becomes of it when its caller leaves."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any, Protocol

import anthropic
import httpx2
import pytest

from headrace.api.messages import MessagesWriter
from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.errors import (
    BadRequest,
    ContextTooLong,
    Overloaded,
    ProviderError,
    ProviderKeyRefused,
    ProviderLimited,
    ServerError,
    TimedOut,
)
from headrace.gateway.gateway import Gateway
from headrace.types import Conversation, Event, GenerateRequest, Message
from headrace.wire.anthropic.answer import Frames
from tests.api.anthropics import COUNT, MESSAGES, SMALL, frames, reading
from tests.conftest import FakeServer
from tests.serving import Served, eventually, live_stream

TOOL: dict[str, Any] = {"name": "weather", "input_schema": {"type": "object"}}
REQUEST = GenerateRequest("fake", Conversation((Message("user", "hi"),)))


class Fake(Protocol):
    def __call__(self, *script: str | Event, config: Config | None = None, **members: Any) -> Served: ...


@pytest.fixture
def fake(fake_server: FakeServer) -> Fake:
    """Call it with a FakeBackend's script and other members to get a server over it."""

    def start(*script: str | Event, config: Config | None = None, **members: Any) -> Served:
        return fake_server(FakeBackend(script, **members), config=config)

    return start


ERRORS: list[tuple[ServerError, type[anthropic.APIStatusError], int, str]] = [
    (BadRequest("no"), anthropic.BadRequestError, 400, "invalid_request_error"),
    (ContextTooLong("prompt is too long: very"), anthropic.BadRequestError, 400, "invalid_request_error"),
    (ProviderLimited("slow"), anthropic.RateLimitError, 429, "rate_limit_error"),
    (ProviderKeyRefused("key"), anthropic.InternalServerError, 502, "api_error"),
    (ProviderError("oh"), anthropic.InternalServerError, 502, "api_error"),
    (Overloaded("full"), anthropic.InternalServerError, 503, "overloaded_error"),
    (TimedOut("late"), anthropic.InternalServerError, 504, "timeout_error"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("error", "kind", "status", "type"), ERRORS)
def test_refusals_are_errors_of_the_client(
    fake: Fake, error: ServerError, kind: Any, status: int, type: str, stream: bool
) -> None:
    with reading(fake("x", refusal=error)) as client, pytest.raises(kind) as raised:
        client.messages.create(**SMALL, stream=stream)
    failure = raised.value
    assert (failure.status_code, failure.type, failure.api_message) == (status, type, error.message)
    assert failure.request_id == failure.body["request_id"] == failure.response.headers["x-request-id"]


def test_an_error_in_a_stream_is_an_event(fake: Fake) -> None:
    server = fake("Hel", "lo", error=ProviderLimited("slow down"))
    events = frames(server.post(MESSAGES, {**SMALL, "stream": True}))
    assert [name for name, _ in events][-2:] == ["content_block_delta", "error"]
    assert events[-1][1]["error"] == {"type": "rate_limit_error", "message": "slow down"}
    with reading(server) as client, pytest.raises(anthropic.APIStatusError, match="slow down"):
        for _ in client.messages.create(**SMALL, stream=True):
            pass


def test_a_bug_is_reported_without_its_trace(fake: Fake) -> None:
    response = fake("x", refusal=RuntimeError("secret")).post(MESSAGES, SMALL)
    assert (response.status_code, response.json()["error"]["type"]) == (500, "api_error")
    server = fake("x", error=RuntimeError("secret"))
    assert frames(server.post(MESSAGES, {**SMALL, "stream": True}))[-1][1]["error"]["type"] == "api_error"
    assert "secret" not in response.text


def test_a_stream_that_takes_too_long_ends_in_an_error(fake: Fake) -> None:
    config = Config.model_validate({"server": {"request_timeout_s": 0.2}})
    response = fake("a", *["b"] * 50, delay_s=0.1, config=config).post(MESSAGES, {**SMALL, "stream": True})
    assert frames(response)[-1][1]["error"]["type"] == "timeout_error"


@pytest.mark.parametrize("header", ["Authorization", "x-api-key"])
def test_keys_are_taken_from_either_header(fake: Fake, header: str) -> None:
    server = fake("x", config=Config.model_validate({"server": {"api_keys": ("k",)}}))
    scheme = "Bearer " if header == "Authorization" else ""
    for path in (MESSAGES, COUNT):
        assert server.post(path, SMALL, headers={header: f"{scheme}k"}).status_code == 200
        for wrong in ({header: f"{scheme}nope"}, {}):
            refused = server.post(path, SMALL, headers=wrong)
            assert refused.status_code == 401
            assert refused.json()["error"]["type"] == "authentication_error"
    with reading(server, "no") as client, pytest.raises(anthropic.AuthenticationError):
        client.messages.create(**SMALL)


@pytest.mark.parametrize(
    ("method", "path", "status", "type"),
    [
        ("GET", MESSAGES, 405, "invalid_request_error"),
        ("PUT", COUNT, 405, "invalid_request_error"),
        ("GET", f"/fake{MESSAGES}", 405, "invalid_request_error"),
        ("POST", f"{MESSAGES}/batches", 404, "not_found_error"),
        ("GET", f"/fake{MESSAGES}/batches/1", 404, "not_found_error"),
    ],
)
def test_what_is_not_there_is_reported_in_anthropics_shape(
    fake: Fake, method: str, path: str, status: int, type: str
) -> None:
    response = fake("x").http.request(method, path)
    error_body = response.json()
    assert (response.status_code, error_body["type"], error_body["error"]["type"]) == (status, "error", type)
    assert response.headers["request-id"] == error_body["request_id"] == response.headers["x-request-id"]
    assert ("allow" in response.headers) is (status == 405)


BAD: list[tuple[str, dict[str, Any]]] = [
    ("max_tokens", {"max_tokens": None}),
    ("max_tokens", {"max_tokens": 0}),
    ("temperature", {"temperature": 1.5}),
    ("messages", {"messages": []}),
    ("messages.0.role", {"messages": [{"role": "tool", "content": "x"}]}),
    ("messages.0.content", {"messages": [{"role": "user"}]}),
    ("messages.0.content.0", {"messages": [{"role": "user", "content": [{"text": "x"}]}]}),
    ("messages.0.content.0", {"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}),
    ("tool_choice", {"tool_choice": {"type": "any"}}),
    ("tool_choice.name", {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "nope"}}),
    ("tools.1.name", {"tools": [TOOL, TOOL]}),
    ("tools.0.input_schema", {"tools": [{"name": "f"}]}),
    ("thinking.budget_tokens", {"thinking": {"type": "enabled"}}),
    ("system.0.type", {"system": [{"type": "image"}]}),
]


@pytest.mark.parametrize(("path", "members"), BAD)
def test_faults_of_the_body_are_named(fake: Fake, path: str, members: dict[str, Any]) -> None:
    response = fake("x").post(MESSAGES, {**SMALL, **members})
    assert response.status_code == 400
    error_body = response.json()
    assert (error_body["type"], error_body["error"]["type"]) == ("error", "invalid_request_error")
    assert error_body["error"]["message"].startswith(f"{path}: "), error_body


def test_what_is_no_json_and_no_model(fake: Fake) -> None:
    server = fake("x")
    refused = server.post(MESSAGES, content=b"{")
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
    with reading(server) as client, pytest.raises(anthropic.NotFoundError):
        client.messages.create(**{**SMALL, "model": "nope"})


def test_leaving_before_the_answer_frees_the_backend(fake_server: FakeServer) -> None:
    backend = FakeBackend(["tick "] * 1000, delay_s=0.02)
    server = fake_server(backend)
    with pytest.raises(httpx2.ReadTimeout):
        server.http.post(MESSAGES, json=SMALL, timeout=0.3)
    eventually(lambda: not backend.num_active)
    eventually(lambda: not server.gateway.num_active)


def test_leaving_in_mid_stream_frees_the_backend(fake_server: FakeServer) -> None:
    backend = FakeBackend(["tick "] * 1000, delay_s=0.02)
    server = fake_server(backend)
    with server.http.stream("POST", MESSAGES, json={**SMALL, "stream": True}) as response:
        pieces = response.iter_bytes()
        next(pieces)
        assert backend.num_active == 1
    eventually(lambda: not backend.num_active)
    eventually(lambda: not server.gateway.num_active)


def test_a_silent_stream_is_kept_alive_by_pings() -> None:
    sent: list[bytes] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message.get("body", b""))

    async def never() -> MutableMapping[str, Any]:
        await asyncio.Future()
        return {}

    async def run() -> None:
        generation = await Gateway([FakeBackend(["tick"] * 2, delay_s=0.5)]).start(REQUEST)
        stream = live_stream(generation, Frames(generation.info), writer=MessagesWriter, keep_alive_s=0.2)
        await stream({"type": "http"}, never, send)

    asyncio.run(run())
    body = b"".join(sent)
    assert body.startswith(b'event: ping\ndata: {"type":"ping"}\n\n')
    assert body.count(b"event: ping") >= 3
