"""/v1/embeddings over a scripted backend, through the official client."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import openai
import pytest

from headrace.app import create_app
from headrace.backends.fake import WIDTH, FakeBackend
from headrace.config import Config
from headrace.types import Embeddings, EmbedRequest
from tests.conftest import FakeServer
from tests.serving import Served, eventually, serving

PATH = "/v1/embeddings"
FORMS: list[tuple[Any, tuple[Any, ...]]] = [
    ("abc", ("abc",)),
    (["abc", "d"], ("abc", "d")),
    ([5, 6, 7], ((5, 6, 7),)),
    ([[5, 6], [0]], ((5, 6), (0,))),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving(create_app(Config(), [FakeBackend([])])) as served:
        yield served


def last(server: Served) -> EmbedRequest:
    assert isinstance(server.backend, FakeBackend)
    return server.backend.embedded[-1]


@pytest.mark.parametrize(("value", "inputs"), FORMS)
@pytest.mark.parametrize("encoding", ["float", "base64", None])  # the client itself asks for base64 when None
def test_vectors_come_back_in_order(server: Served, value: Any, inputs: Any, encoding: Any) -> None:
    with server.client() as client:
        format = openai.omit if encoding is None else encoding
        answer = client.embeddings.create(model="fake", input=value, encoding_format=format)
    assert last(server).inputs == inputs
    assert (answer.object, answer.model) == ("list", "fake")
    assert [(row.object, row.index) for row in answer.data] == [
        ("embedding", index) for index in range(len(inputs))
    ]
    count = sum(map(len, inputs))
    assert answer.usage.to_dict() == {"prompt_tokens": count, "total_tokens": count}
    for row, text in zip(answer.data, inputs, strict=True):
        assert np.argmax(_floats(row.embedding)) == len(text) % WIDTH


def _floats(embedding: Any) -> Any:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), "<f4")
    return np.asarray(embedding)


def test_members_reach_the_backend(server: Served) -> None:
    members = {"dimensions": 3, "pooling": "last", "normalize": False, "truncate_prompt_tokens": -1}
    answer = server.post(PATH, {"model": "fake", "input": "x", **members, "timeout": 5}).json()
    request = last(server)
    assert request.timeout_s == pytest.approx(5, abs=1)  # what is left of it
    assert replace(request, timeout_s=None, flow="") == EmbedRequest(
        "fake", ("x",), 3, "last", False, -1, owner="anonymous"
    )
    assert len(answer["data"][0]["embedding"]) == 3
    server.post(PATH, {"model": "fake", "input": "x", **dict.fromkeys(members), "encoding_format": None})
    assert replace(last(server), flow="") == EmbedRequest("fake", ("x",), owner="anonymous")


def test_most_inputs_are_answered_and_keep_their_values(server: Served) -> None:
    answer = server.post(PATH, {"model": "fake", "input": ["x"] * 2048, "dimensions": 16})
    rows = answer.json()["data"]
    assert [row["index"] for row in rows] == list(range(2048))
    assert all(row["embedding"] == [0.0, 1.0] + [0.0] * 14 for row in rows)


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("input", {"input": ""}),
    ("input", {"input": []}),
    ("input", {"input": None}),
    ("input", {"input": 5}),
    ("input", {"input": ["x"] * 2049}),
    ("input", {"input": [[1]] * 2049}),
    ("input.1", {"input": ["x", ""]}),
    ("input.1", {"input": ["x", 1]}),
    ("input.1", {"input": [1, "x"]}),
    ("input.0", {"input": [[]]}),
    ("input.1.0", {"input": [[1], [-1]]}),
    ("encoding_format", {"encoding_format": "hex"}),
    ("dimensions", {"dimensions": 0}),
    ("dimensions", {"dimensions": "8"}),
    ("pooling", {"pooling": "max"}),
    ("normalize", {"normalize": 1}),
    ("truncate_prompt_tokens", {"truncate_prompt_tokens": -2}),
    ("timeout", {"timeout": 0}),
    ("model", {"model": None}),
]


@pytest.mark.parametrize(("param", "members"), WRONG)
def test_mistake_is_400_and_names_the_member(server: Served, param: str, members: dict[str, Any]) -> None:
    with server.client() as client, pytest.raises(openai.BadRequestError) as raised:
        client.post(PATH[3:], body={"model": "fake", "input": "x", **members}, cast_to=object)
    assert (raised.value.param, raised.value.type) == (param, "invalid_request_error")


def test_members_are_sorted_out(server: Served) -> None:
    body = {"model": "fake", "input": "x", "user": "me", "novelty": 1}
    assert server.post(PATH, body).headers["x-headrace-ignored"] == "user, novelty"
    strict = server.post(PATH, body, headers={"X-Headrace-Strict": "true"})
    assert (strict.status_code, strict.json()["error"]["param"]) == (400, "novelty")
    refused = server.post(PATH, {"model": "fake", "input": "x", "input_type": "query"}).json()["error"]
    assert (refused["param"], refused["code"]) == ("input_type", "unsupported_parameter")


def test_unknown_model_is_404(server: Served) -> None:
    with server.client() as client, pytest.raises(openai.NotFoundError) as raised:
        client.embeddings.create(model="gpt-9", input="x")
    assert (raised.value.param, raised.value.code) == ("model", "model_not_found")


class Sleeper(FakeBackend):
    async def embed(self, request: EmbedRequest) -> Embeddings:
        self.num_active += 1
        try:
            await asyncio.sleep(60)
            return await super().embed(request)
        finally:
            self.num_active -= 1


def test_client_that_leaves_frees_the_backend(fake_server: FakeServer) -> None:
    backend = Sleeper([])
    server = fake_server(backend)
    with server.begin(PATH, {"model": "fake", "input": "x"}):
        eventually(lambda: backend.num_active)
    eventually(lambda: not backend.num_active)
    eventually(lambda: not server.gateway.num_active)
