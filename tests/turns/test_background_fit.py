"""A background response that cannot fit the context is refused before anything is stored."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.backends.fake import FakeBackend
from headrace.errors import BadRequest
from headrace.types import TokenizeRequest
from tests.conftest import FakeServer


class Uncounted(FakeBackend):
    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        raise BadRequest("this provider does not tokenize")


PATH = "/v1/responses"
ROOM = 4096  # of the fake's context, in tokens, which are bytes
LONG = "x" * ROOM
USER = {"role": "user", "content": LONG}


@pytest.mark.parametrize(
    "members",
    [
        {"input": LONG},
        {"input": "é" * (ROOM // 2)},
        {"input": [USER]},
        {"input": [{"role": "user", "content": "short"}] * 2000},
        {"input": [USER, {"role": "user", "content": "hi"}], "truncation": "auto"},
        {"input": "hi", "instructions": LONG},
        {"input": LONG, "stream": True},
    ],
)
def test_a_background_response_that_cannot_fit_is_refused_and_not_stored(
    fake_server: FakeServer, members: dict[str, Any]
) -> None:
    backend = FakeBackend(["Hello"])
    server = fake_server(backend)
    conversation = server.post("/v1/conversations", {}).json()["id"]
    body = {"model": "fake", "background": True, "conversation": conversation, **members}
    response = server.post(PATH, body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "input")
    assert not backend.requests
    assert server.get(f"/v1/conversations/{conversation}/items").json()["data"] == []
    fitting = {**body, "input": "hi", "instructions": None, "stream": False}
    assert server.post(PATH, fitting).json()["status"] == "queued"


def test_a_background_response_that_fits_truncated_is_queued(fake_server: FakeServer) -> None:
    server = fake_server(FakeBackend(["Hello"]))
    half = {"role": "user", "content": "x" * (ROOM - 1000)}
    conversation = server.post("/v1/conversations", {"items": [{"type": "message", **half}] * 2}).json()["id"]
    body = {"model": "fake", "input": "hi", "background": True, "conversation": conversation}
    assert server.post(PATH, body).status_code == 400
    assert server.post(PATH, {**body, "truncation": "auto"}).json()["status"] == "queued"


def test_without_a_tokenizer_no_background_response_is_refused(fake_server: FakeServer) -> None:
    server = fake_server(Uncounted(["Hello"]))
    assert server.post(PATH, {"model": "fake", "input": LONG, "background": True}).status_code == 200
