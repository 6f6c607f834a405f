"""Embedding models and cross-encoders of transformers over HTTP: they give what sentence-transformers gives.

`make test-sentences` has that package; without it nothing here runs.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.models.catalog import Cache, Model, prepare
from tests.conftest import serving_model
from tests.engine.torch.sentences import write_bare, write_embedder
from tests.serving import Served

sentence_transformers = pytest.importorskip("sentence_transformers")
pytest.importorskip("torch")

TANH, IDENTITY = "torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"
PROMPTS = {"prompts": {"query": "query : ", "document": "the document , "}, "default_prompt_name": "document"}
EMBEDDERS: dict[str, dict[str, Any]] = {
    "bert": {"kind": "bert"},
    "bert-cls": {"kind": "bert", "pooling": "cls_token", "is_scaled": False},
    "bert-max": {"kind": "bert", "pooling": "max_tokens", "dense": (TANH,)},
    "bert-weighted": {"kind": "bert", "pooling": "weightedmean_tokens"},
    "bert-cut": {"kind": "bert", "is_scaled": False, "settings": {"truncate_dim": 20}},
    "t5": {"kind": "t5"},
    "distilbert-sqrt": {"kind": "distilbert", "pooling": "mean_sqrt_len_tokens", "is_scaled": False},
    "xlm-roberta": {"kind": "xlm-roberta", "pooling": "cls_token"},
    "mpnet": {"kind": "mpnet", "settings": PROMPTS},
    "modernbert": {"kind": "modernbert"},
    "nomic": {"kind": "nomic"},
    "qwen3": {"kind": "qwen3", "pooling": "lasttoken", "settings": {**PROMPTS, "default_prompt_name": None}},
    "gemma": {"kind": "gemma", "dense": (IDENTITY, IDENTITY), "settings": PROMPTS},
}
RERANKERS = ("bert", "xlm-roberta", "modernbert", "qwen3")
TEXTS = [
    "a mill grinds grain",
    "The wheel turns, the stone grinds: flour!",
    "what is the law of the river ?",
    "bread " * 40,
    "xyz",
]
QUERY = "what does a mill do?"
BOUND = 1e-5


def prepared(folder: Path) -> Model:
    return prepare(str(folder), Cache(folder.parent / "cache"))


def started(folder: Path) -> AbstractContextManager[Served]:
    return serving_model(prepared(folder), precision="f32")


def embedded(served: Served, name: str, **members: Any) -> np.ndarray[Any, Any]:
    answer = served.post("/v1/embeddings", {"model": name, "input": TEXTS, **members})
    assert answer.status_code == 200, answer.text
    return np.array([row["embedding"] for row in answer.json()["data"]], np.float32)


@pytest.mark.parametrize("name", EMBEDDERS)
def test_vectors_are_those_of_sentence_transformers(name: str, tmp_path: Path) -> None:
    folder = write_embedder(tmp_path / name, **EMBEDDERS[name])
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    with started(folder) as served:
        assert embedded(served, name) == pytest.approx(theirs.encode(TEXTS), abs=BOUND)
        for prompt in EMBEDDERS[name].get("settings", {}).get("prompts", {}):
            expected = theirs.encode(TEXTS, prompt_name=prompt)
            assert embedded(served, name, prompt_name=prompt) == pytest.approx(expected, abs=BOUND)
        ranked = served.post("/v1/rerank", {"model": name, "query": QUERY, "documents": TEXTS}).json()
    assert ranked["method"] == "embeddings"
    query, documents = theirs.encode_query([QUERY]), theirs.encode_document(TEXTS)
    expected = sentence_transformers.util.cos_sim(query, documents)[0].numpy()
    assert scores(ranked) == pytest.approx(expected, abs=BOUND)


def test_without_modules_it_is_the_mean(tmp_path: Path) -> None:
    folder = write_bare(tmp_path / "bare", "bert")
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    with started(folder) as served:
        assert embedded(served, "bare", normalize=False) == pytest.approx(theirs.encode(TEXTS), abs=BOUND)
        expected = theirs.encode(TEXTS, normalize_embeddings=True)
        assert embedded(served, "bare") == pytest.approx(expected, abs=BOUND)


@pytest.mark.parametrize("kind", RERANKERS)
def test_scores_are_those_of_its_cross_encoder(kind: str, tmp_path: Path) -> None:
    folder = write_bare(tmp_path / "reranker", kind, "ForSequenceClassification")
    theirs = sentence_transformers.CrossEncoder(str(folder), device="cpu", local_files_only=True)
    with started(folder) as served:
        body = {"model": "reranker", "query": QUERY, "documents": TEXTS}
        answer = served.post("/v1/rerank", body)
        assert answer.headers["x-headrace-rerank"] == answer.json()["method"] == "cross-encoder"
    expected = theirs.predict([(QUERY, text) for text in TEXTS])
    assert np.ptp(expected) > 100 * BOUND
    assert scores(answer.json()) == pytest.approx(expected, abs=BOUND)


def scores(answer: dict[str, Any]) -> np.ndarray[Any, Any]:
    """By the documents' places in the request."""
    found = sorted(answer["results"], key=lambda result: result["index"])
    return np.array([result["relevance_score"] for result in found], np.float32)
