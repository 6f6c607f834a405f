"""What /v1/responses refuses, naming what is at fault."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.backends.fake import FakeBackend
from headrace.config import Config
from tests.api.responses_client import PATH
from tests.conftest import FakeServer

HI = {"model": "fake", "input": "hi"}
ID = "resp_" + "0" * 48
CONVERSATION = "conv_" + "0" * 48
NOT_FOUND = "previous_response_not_found"
PREVIOUS = f"Previous response with id '{ID}' not found."
# body, status, param, code, a part of the message
REFUSED: list[tuple[dict[str, Any], int, str, str, str]] = [
    ({"input": "hi"}, 400, "model", "missing_required_parameter", "model"),
    ({"model": "fake"}, 400, "input", "missing_required_parameter", "input"),
    ({**HI, "model": "nope"}, 404, "model", "model_not_found", "nope"),
    ({**HI, "previous_response_id": ID}, 400, "previous_response_id", NOT_FOUND, PREVIOUS),
    ({**HI, "previous_response_id": "x"}, 400, "previous_response_id", "invalid_value", "Expected an ID"),
    ({**HI, "conversation": CONVERSATION}, 404, "conversation", "conversation_not_found", CONVERSATION),
    ({**HI, "conversation": "x"}, 400, "conversation", "invalid_value", "Expected an ID"),
    (
        {**HI, "conversation": CONVERSATION, "previous_response_id": ID},
        400, "previous_response_id", "invalid_value", "conversation",
    ),
    (
        {**HI, "background": True, "store": False},
        400, "background", "invalid_value", "background can only be used when `store` is true",
    ),
    ({**HI, "stream_options": {"include_usage": True}}, 400, "stream_options", "invalid_value", "stream"),
    ({**HI, "include": ["nothing"]}, 400, "include", "invalid_value", "nothing"),
    ({**HI, "metadata": {"a": "b" * 513}}, 400, "metadata.a", "invalid_value", "512"),
    ({**HI, "max_output_tokens": 0}, 400, "max_output_tokens", "invalid_value", "1"),
    ({**HI, "truncation": "some"}, 400, "truncation", "invalid_value", "auto"),
    ({**HI, "input": [{"type": "nonsense"}]}, 400, "input.0", "invalid_value", "item"),
    ({**HI, "prompt": {"id": "pmpt_1"}}, 400, "prompt", "unsupported_parameter", "prompt"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "param", "code", "message"), REFUSED)
def test_body_is_refused(
    fake_server: FakeServer, body: dict[str, Any], status: int, param: str, code: str, message: str
) -> None:
    backend = FakeBackend(["never"])
    response = fake_server(backend).post(PATH, body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (status, param, code), error
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"
    assert not backend.requests


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("stream=maybe", "stream"),
        ("starting_after=3", "starting_after"),
        ("stream=true&starting_after=-1", "starting_after"),
        ("stream=true&starting_after=" + "9" * 30, "starting_after"),
        ("include[]=nothing", "include"),
    ],
)
def test_query_is_refused(fake_server: FakeServer, query: str, param: str) -> None:
    server = fake_server()
    id = server.post(PATH, HI).json()["id"]
    response = server.get(f"{PATH}/{id}?{query}")
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_refusal_lets_the_conversation_go(fake_server: FakeServer) -> None:
    server = fake_server()
    conversation = server.post("/v1/conversations", {}).json()["id"]
    lost = [{"type": "item_reference", "id": "msg_nowhere"}]
    assert server.post(PATH, {**HI, "input": lost, "conversation": conversation}).status_code == 404
    orphan = [{"type": "function_call_output", "call_id": "c", "output": "x"}]
    assert server.post(PATH, {**HI, "input": orphan, "conversation": conversation}).status_code == 400
    assert server.post(PATH, {**HI, "conversation": conversation}).status_code == 200


def test_database_that_is_away_stops_only_what_needs_it(fake_server: FakeServer) -> None:
    nowhere = {"url": "postgresql+asyncpg://nobody@127.0.0.1:1/nothing"}
    backend = FakeBackend(["Hello"])
    server = fake_server(backend, config=Config.model_validate({"store": nowhere}))
    for body in (HI, {**HI, "background": True}, {**HI, "store": False, "previous_response_id": ID}):
        response = server.post(PATH, body)
        assert response.status_code == 503, body
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["error"]["code"] == "store_unavailable"
    assert not backend.requests
    assert server.get(f"{PATH}/{ID}").status_code == 503
    assert server.post(PATH, {**HI, "store": False}).json()["status"] == "completed"
