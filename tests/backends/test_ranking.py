"""Documents scored by a provider of OpenAI's dialect, and by vectors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from headrace.backends.cerebras import CerebrasBackend
from headrace.backends.openai import OpenAIBackend
from headrace.backends.ranking import by_embeddings
from headrace.config import ProviderConfig
from headrace.encoder_types import Ranking, RerankRequest
from headrace.errors import BadRequest, ContextTooLong, EndpointNotFound, ProviderError, ServerError
from headrace.types import Embeddings, EmbedRequest
from tests.upstream import Upstream, answer, scripted

RESULTS = [{"index": 1, "relevance_score": 0.25}, {"index": 0, "relevance_score": -3, "document": "a"}]
REQUEST = RerankRequest("m", "q", ("a", "b"), truncate_prompt_tokens=9, user="me")


@pytest.fixture
def provider() -> Iterator[Upstream]:
    with scripted() as found:
        found.always("/v1/models", answer({"data": []}))
        yield found


def rerank(provider: Upstream, value: object, *, status: int = 200) -> Ranking:
    async def run() -> Ranking:
        config = ProviderConfig(kind="openai", base_url=provider.url + "/v1/rerank", timeout_s=60)
        backend = OpenAIBackend("p", config, None)
        await backend.start()
        try:
            return await backend.rerank(REQUEST)
        finally:
            await backend.aclose()

    provider.play(answer(value, status=status))
    return asyncio.run(run())


@pytest.mark.parametrize(
    ("usage", "count"),
    [
        ({"usage": {"prompt_tokens": 7}}, 7),
        ({"usage": {"total_tokens": 8}}, 8),
        ({}, None),
        ({"usage": 5}, None),
    ],
)
def test_a_providers_scores(provider: Upstream, usage: dict[str, Any], count: int | None) -> None:
    found = rerank(provider, {"results": RESULTS, **usage})
    assert found == Ranking((-3.0, 0.25), "provider", count)
    seen = provider.posts[-1]
    assert seen.path == "/v1/rerank"
    assert seen.body == {
        "model": "m", "query": "q", "documents": ["a", "b"], "top_n": 2, "truncate_prompt_tokens": 9,
        "user": "me",
    }  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [
        [], {}, {"results": 5}, {"results": RESULTS[:1]}, {"results": [RESULTS[0], {"index": 0}]},
        {"results": [RESULTS[0], {"index": 5, "relevance_score": 1}]},
        {"results": [RESULTS[0], {"index": 0, "relevance_score": "high"}]},
    ],
)  # fmt: skip
def test_an_answer_that_is_no_ranking_is_a_providers_error(provider: Upstream, value: object) -> None:
    with pytest.raises(ProviderError, match="no score for each document"):
        rerank(provider, value)


def test_a_provider_without_the_endpoint(provider: Upstream) -> None:
    with pytest.raises(EndpointNotFound):
        rerank(provider, {"detail": "Not Found"}, status=404)


def test_cerebras_has_none(provider: Upstream) -> None:
    config = ProviderConfig(kind="cerebras", base_url=provider.url + "/v1", api_key="k")
    with pytest.raises(BadRequest, match="no reranking"):
        asyncio.run(CerebrasBackend("c", config, "k").rerank(REQUEST))


def test_vectors_are_compared_with_the_querys() -> None:
    async def embed(request: EmbedRequest) -> Embeddings:
        assert request.inputs == ("q", "a", "b")
        assert request.truncate_prompt_tokens == 9
        return Embeddings(np.array([[1, 0], [0.6, 0.8], [-1, 0]], np.float32), 12)

    found = asyncio.run(by_embeddings(embed, REQUEST))
    assert found.scores == pytest.approx((0.6, -1.0))
    assert (found.method, found.prompt_tokens) == ("embeddings", 12)


@pytest.mark.parametrize(
    ("param", "member"),
    [("input.0", "query"), ("input.2", "documents.1"), ("truncate_prompt_tokens", "truncate_prompt_tokens")],
)
def test_errors_name_the_callers_members(param: str, member: str) -> None:
    async def embed(request: EmbedRequest) -> Embeddings:
        raise ContextTooLong("too long", param=param)

    with pytest.raises(ContextTooLong) as raised:
        asyncio.run(by_embeddings(embed, REQUEST))
    assert raised.value.param == member


FORMS: dict[str, Any] = {
    "a list": [{"index": 1, "score": 0.25}, {"index": 0, "score": -3}],
    "data": {"data": RESULTS},
    "other names": {"data": [{"index": "1", "score": 0.25}, {"index": 0.0, "score": -3}]},
    "odd usage": {"results": RESULTS, "usage": [5]},
}


@pytest.mark.parametrize("form", FORMS)
def test_scores_are_read_in_each_form(provider: Upstream, form: str) -> None:
    assert rerank(provider, FORMS[form]).scores == (-3, 0.25)


def test_an_error_with_200_keeps_its_words(provider: Upstream) -> None:
    for error in ({"error": "its words"}, {"error": {"message": "its words"}}):
        with pytest.raises(ServerError, match="its words"):
            rerank(provider, error)


EMBEDDED: dict[str, Any] = {
    "no index": [{"embedding": [1, 2]}, {"embedding": [3, 4]}],
    "texts as indexes": [{"index": "1", "embedding": [3, 4]}, {"index": "0", "embedding": [1, 2]}],
    "indexes of null": [{"index": None, "embedding": [1, 2]}, {"index": None, "embedding": [3, 4]}],
}


@pytest.mark.parametrize("usage", [[1], "x", None, {"prompt_tokens": [5]}, {"prompt_tokens": 10**30}])
@pytest.mark.parametrize("form", EMBEDDED)
def test_bookkeeping_costs_no_embedding(provider: Upstream, form: str, usage: Any) -> None:
    async def run() -> Embeddings:
        config = ProviderConfig(kind="openai", base_url=provider.url + "/v1", timeout_s=60)
        backend = OpenAIBackend("p", config, None)
        await backend.start()
        try:
            return await backend.embed(EmbedRequest("m", ("a", "b")))
        finally:
            await backend.aclose()

    provider.play(answer({"data": EMBEDDED[form], "usage": usage}), path="/v1/embeddings")
    found = asyncio.run(run())
    assert found.vectors.tolist() == [[1, 2], [3, 4]]
    assert found.prompt_tokens == 0
