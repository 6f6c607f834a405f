"""/v1/rerank over a scripted backend: Jina's and Cohere's shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from headrace.app import create_app
from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.encoder_types import RerankRequest
from headrace.features import Feature
from tests.serving import Served, serving

PATH = "/v1/rerank"
BODY: dict[str, Any] = {"model": "fake", "query": "q", "documents": ["a", "ccc", {"text": "bb"}]}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    """It scores a document by its length."""
    without = FakeBackend([], name="other", id="plain")
    without.features -= {Feature.RERANK, Feature.INSTRUCTION, Feature.INPUT_TRUNCATION}
    with serving(create_app(Config(), [FakeBackend([]), without])) as served:
        yield served


def last(server: Served) -> RerankRequest:
    assert isinstance(server.backend, FakeBackend)
    return server.backend.ranked[-1]


@pytest.mark.parametrize("path", [PATH, "/rerank", "/v2/rerank", "/fake/v1/rerank"])
def test_the_most_relevant_comes_first(server: Served, path: str) -> None:
    answer = server.post(path, BODY)
    body = answer.json()
    assert body.pop("id").startswith("rerank-")
    assert body == {
        "object": "list",
        "model": "fake",
        "method": "provider",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
        "results": [
            {"index": 1, "relevance_score": 3.0, "document": {"text": "ccc"}},
            {"index": 2, "relevance_score": 2.0, "document": {"text": "bb"}},
            {"index": 0, "relevance_score": 1.0, "document": {"text": "a"}},
        ],
    }
    assert (answer.headers["x-headrace-rerank"], answer.headers["x-headrace-backend"]) == ("provider", "fake")


def test_some_results_without_their_texts(server: Served) -> None:
    body = server.post(PATH, {**BODY, "top_n": 2, "return_documents": False}).json()
    assert body["results"] == [{"index": 1, "relevance_score": 3.0}, {"index": 2, "relevance_score": 2.0}]
    assert len(server.post(PATH, {**BODY, "top_n": 99}).json()["results"]) == 3
    equal = server.post(PATH, {**BODY, "documents": ["xx", "yy", "zz"]}).json()["results"]
    assert [result["index"] for result in equal] == [0, 1, 2]


def test_members_reach_the_backend(server: Served) -> None:
    members = {"instruction": "i", "truncate_prompt_tokens": 5, "timeout": 9}
    server.post(PATH, {**BODY, **members})
    request = last(server)
    assert request.timeout_s == pytest.approx(9, abs=1)
    expected = RerankRequest("fake", "q", ("a", "ccc", "bb"), "i", 5, owner="anonymous")
    assert replace(request, timeout_s=None, flow="") == expected


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("query", {"query": ""}),
    ("query", {"query": None}),
    ("query", {"query": ["q"]}),
    ("documents", {"documents": []}),
    ("documents", {"documents": "a"}),
    ("documents", {"documents": ["a"] * 1025}),
    ("documents.1", {"documents": ["a", ""]}),
    ("documents.1", {"documents": ["a", 5]}),
    ("documents.0.text", {"documents": [{"title": "a"}]}),
    ("top_n", {"top_n": 0}),
    ("top_n", {"top_n": 1.5}),
    ("return_documents", {"return_documents": "yes"}),
    ("instruction", {"instruction": ""}),
    ("truncate_prompt_tokens", {"truncate_prompt_tokens": -2}),
    ("max_tokens_per_doc", {"max_tokens_per_doc": 100}),
    ("rank_fields", {"rank_fields": ["title"]}),
    ("model", {"model": None}),
]


@pytest.mark.parametrize(("param", "members"), WRONG)
def test_mistake_is_400_and_names_the_member(server: Served, param: str, members: dict[str, Any]) -> None:
    answer = server.post(PATH, {**BODY, **members})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error")


def test_members_without_effect_are_named(server: Served) -> None:
    body = {**BODY, "user": "me", "documents": [{"text": "a", "title": "t"}], "novelty": 1}
    answer = server.post(PATH, body)
    assert answer.headers["x-headrace-ignored"] == "documents.0.title, user, novelty"
    strict = server.post(PATH, body, headers={"X-Headrace-Strict": "true"})
    assert (strict.status_code, strict.json()["error"]["param"]) == (400, "documents.0.title")


def test_a_backend_without_the_feature_refuses(server: Served) -> None:
    refused = server.post("/other/v1/rerank", {**BODY, "model": "plain", "instruction": "i"}).json()["error"]
    assert (refused["param"], refused["code"]) == ("instruction", "unsupported_parameter")


def test_unknown_model_is_404(server: Served) -> None:
    answer = server.post(PATH, {**BODY, "model": "gpt-9"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_most_documents_are_answered(server: Served) -> None:
    documents = ["x" * (1 + index % 7) for index in range(1024)]
    results = server.post(PATH, {**BODY, "documents": documents}).json()["results"]
    assert sorted(result["index"] for result in results) == list(range(1024))
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True)
