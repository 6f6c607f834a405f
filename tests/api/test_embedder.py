"""The embedding model that is fetched at its first use, by its own name and by OpenAI's."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from headrace.app import create_app
from headrace.assembly import build_backends
from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.models.references import DEFAULT_EMBEDDER
from tests.serving import SLOW_S, Served, serving

PATH = "/v1/embeddings"
OPENAIS = "text-embedding-3-small"
LONG = "The wheel turns the millstone, which grinds the grain into flour. " * 40


def with_models(**models: object) -> Config:
    return Config.model_validate({"models": {"default": "", **models}})


@pytest.fixture(scope="module")
def embedder() -> Iterator[Served]:
    """A generative model that says nothing, and the embedding model."""
    config = with_models()
    with serving(
        create_app(config, [FakeBackend([], name="headrace"), *build_backends(config, [])]), silence_s=SLOW_S
    ) as served:
        yield served


def embed(served: Served, texts: Any, model: str = DEFAULT_EMBEDDER, **members: Any) -> np.ndarray[Any, Any]:
    with served.client() as client:
        answer = client.embeddings.create(model=model, input=texts, extra_body=members)
    assert answer.model == DEFAULT_EMBEDDER
    return np.array([row.embedding for row in answer.data], np.float32)


def test_it_is_listed_after_the_models_that_answer(embedder: Served) -> None:
    listed = embedder.get("/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["fake", DEFAULT_EMBEDDER]
    assert listed[1]["max_model_len"] == 256


def test_the_right_text_is_nearest(embedder: Served) -> None:
    documents = [
        "A miller grinds grain between two stones.",
        "Photosynthesis turns light into sugar.",
        "The parliament passed a law on tariffs.",
        "Sourdough bread needs flour, water and salt.",
    ]
    questions = [
        "What does a mill do?",
        "How do plants get energy?",
        "Who decides on customs?",
        "baking a loaf",
    ]
    vectors = embed(embedder, [*documents, *questions])
    assert vectors.shape == (8, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    nearest = (vectors[4:] @ vectors[:4].T).argmax(1)
    assert nearest.tolist() == [0, 1, 2, 3]


def test_vectors_hardly_depend_on_their_neighbours(embedder: Served) -> None:
    texts = ["x", "A headrace carries water to the mill wheel.", LONG[:1000], "Ein Mühlrad dreht sich."]
    together = embed(embedder, texts)
    alone = np.concatenate([embed(embedder, text) for text in texts])
    assert (together * alone).sum(1).min() > 0.999


def test_callers_at_once_get_their_own_vectors(embedder: Served) -> None:
    texts = [f"{word} number {number}" for number, word in enumerate(["river", "stone", "bread", "law"] * 8)]
    alone = embed(embedder, texts)
    with ThreadPoolExecutor(16) as pool:
        found = np.concatenate(list(pool.map(lambda text: embed(embedder, text), texts)))
    assert ((alone @ found.T).argmax(1) == np.arange(len(texts))).all()


def test_openais_names_lead_to_it_and_the_answer_says_so(embedder: Served) -> None:
    ours = embed(embedder, "a text")
    for name in (OPENAIS, "text-embedding-3-large", "text-embedding-ada-002"):
        assert embed(embedder, "a text", name) == pytest.approx(ours, abs=1e-6)
    answer = embedder.post(PATH, {"model": OPENAIS, "input": "a text"})
    assert (answer.json()["model"], answer.headers["x-headrace-backend"]) == (DEFAULT_EMBEDDER, "headrace")
    # they are not listed, but can be looked up
    assert embedder.get(f"/v1/models/{OPENAIS}").json()["max_model_len"] == 256


def test_token_ids_of_another_model_are_refused(embedder: Served) -> None:
    for given in ([5, 6], [[5, 6]]):
        error = embedder.post(PATH, {"model": OPENAIS, "input": given}).json()["error"]
        assert (error["param"], error["type"]) == ("input", "invalid_request_error")
        assert "check_embedding_ctx_length" in error["message"]
    assert embed(embedder, [[101, 7592, 102]]).shape == (1, 384)  # its own are taken
    error = embedder.post(PATH, {"model": DEFAULT_EMBEDDER, "input": [[30522]]}).json()["error"]
    assert error["param"] == "input.0"


def test_dimensions_are_cut_and_scaled_again(embedder: Served) -> None:
    whole, cut = embed(embedder, "a text"), embed(embedder, "a text", dimensions=64)
    assert cut.shape == (1, 64)
    assert cut == pytest.approx(whole[:, :64] / np.linalg.norm(whole[:, :64]), abs=1e-5)
    unscaled = embed(embedder, "a text", normalize=False)
    assert np.linalg.norm(unscaled) > 2
    assert unscaled / np.linalg.norm(unscaled) == pytest.approx(whole, abs=1e-5)
    error = embedder.post(PATH, {"model": OPENAIS, "input": "x", "dimensions": 1536}).json()["error"]
    assert error["param"] == "dimensions"


def test_pooling(embedder: Served) -> None:
    mean = embed(embedder, "a text about mills")
    assert embed(embedder, "a text about mills", pooling="mean") == pytest.approx(mean, abs=1e-6)
    for pooling in ("cls", "last"):
        assert (embed(embedder, "a text about mills", pooling=pooling) * mean).sum() < 0.99


def test_a_long_text_is_refused_or_cut_where_that_is_requested(embedder: Served) -> None:
    refused = embedder.post(PATH, {"model": DEFAULT_EMBEDDER, "input": ["x", LONG]})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "input.1")
    assert "256" in error["message"]
    assert "truncate_prompt_tokens" in error["message"]
    cut = embedder.post(PATH, {"model": DEFAULT_EMBEDDER, "input": ["x", LONG], "truncate_prompt_tokens": -1})
    assert cut.json()["usage"]["prompt_tokens"] == 3 + 256
    assert embed(embedder, LONG, truncate_prompt_tokens=12).shape == (1, 384)
    nothing = embedder.post(PATH, {"model": DEFAULT_EMBEDDER, "input": "x", "truncate_prompt_tokens": 2})
    assert nothing.json()["error"]["param"] == "truncate_prompt_tokens"


def test_a_huge_text_is_refused_unread(embedder: Served) -> None:
    for text in ("\u4f60" * 2_000_000, " " * 4_000_000 + "x", "a" * 4_000_000):
        answer = embedder.post(PATH, {"model": DEFAULT_EMBEDDER, "input": text})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_it_generates_nothing(embedder: Served) -> None:
    hello = [{"role": "user", "content": "hello"}]
    for path, member in (("chat/completions", "messages"), ("responses", "input")):
        answer = embedder.post(f"/v1/{path}", {"model": DEFAULT_EMBEDDER, member: hello, "max_tokens": 5})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
    answer = embedder.post("/v1/completions", {"model": OPENAIS, "prompt": "x", "logprobs": 1})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")


def test_both_can_be_switched_off() -> None:
    config = with_models(openai_embeddings=False)
    with serving(create_app(config, build_backends(config, [])), silence_s=SLOW_S) as served:
        assert served.post(PATH, {"model": OPENAIS, "input": "x"}).status_code == 404
        assert [model["id"] for model in served.get("/v1/models").json()["data"]] == [DEFAULT_EMBEDDER]
    config = with_models(embedding="none")
    with serving(create_app(config, build_backends(config, [])), silence_s=SLOW_S) as served:
        assert served.get("/v1/models").json()["data"] == []
        assert served.post(PATH, {"model": DEFAULT_EMBEDDER, "input": "x"}).status_code == 404


def test_a_route_and_a_listed_model_come_first() -> None:
    config = Config.model_validate(
        {"models": {"default": ""}, "routes": {"text-embedding-3-large": {"targets": ["fake"]}}}
    )
    backends = [FakeBackend([], name="headrace"), FakeBackend([], name="headrace", id=OPENAIS)]
    with serving(create_app(config, [*backends, *build_backends(config, [])]), silence_s=SLOW_S) as served:
        for name, answers in (("text-embedding-3-large", "fake"), (OPENAIS, OPENAIS)):
            assert served.post(PATH, {"model": name, "input": [1, 2]}).json()["model"] == answers


def test_where_it_cannot_be_fetched_the_answer_is_503_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for key in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(key, raising=False)
    config = Config.model_validate({"models": {"default": ""}, "paths": {"cache": str(tmp_path)}})
    with (
        serving(create_app(config, build_backends(config, [])), silence_s=SLOW_S) as served,
        served.client() as client,
    ):
        for _ in range(2):
            with pytest.raises(openai.InternalServerError) as raised:
                client.embeddings.create(model=OPENAIS, input="x")
            error = raised.value
            assert (error.status_code, error.code) == (503, "model_unavailable")
            assert "127.0.0.1" in error.message
            assert int(error.response.headers["retry-after"]) > 0
