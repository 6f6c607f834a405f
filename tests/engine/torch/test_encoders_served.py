"""Folders of embedding models and of cross-encoders over HTTP. Their numbers: test_sentences.py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from headrace import local
from headrace.app import create_app
from headrace.assembly import build_backends, build_served
from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.errors import ModelError
from headrace.models.catalog import Cache, Model, prepare
from tests.engine.torch.sentences import CONFIGS, write_bare, write_embedder
from tests.serving import SLOW_S, Served, serving

SCORING = "ForSequenceClassification"
PROMPTS = {"prompts": {"query": "query : ", "document": "document : "}, "default_prompt_name": "document"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    write_embedder(root / "embedder", "bert", settings=PROMPTS)
    write_bare(root / "reranker", "bert", "ForSequenceClassification")
    return root


def described(folder: Path) -> Model:
    return prepare(str(folder), Cache(folder.parent / "cache"))


@pytest.fixture(scope="module")
def served(folders: Path) -> Iterator[Served]:
    config = Config.model_validate({"engine": {"precision": "f32"}, "models": {"default": ""}})
    models = [described(folders / name) for name in ("embedder", "reranker")]
    with serving(create_app(config, build_backends(config, models)), silence_s=SLOW_S) as served:
        yield served


def embedded(served: Served, inputs: Any, **members: Any) -> np.ndarray[Any, Any]:
    answer = served.post("/v1/embeddings", {"model": "embedder", "input": inputs, **members})
    assert answer.status_code == 200, answer.text
    return np.array([row["embedding"] for row in answer.json()["data"]], np.float32)


def refused(served: Served, path: str, body: dict[str, Any]) -> tuple[str, str]:
    """The member and the message."""
    answer = served.post(path, body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    return error["param"], error["message"]


def test_both_are_listed_with_what_runs_them(served: Served) -> None:
    listed = {model["id"]: model for model in served.get("/v1/models?detail=true").json()["data"]}
    assert [listed[name]["kind"] for name in ("embedder", "reranker")] == ["embedding", "reranker"]
    assert (listed["embedder"]["runner"], listed["embedder"]["max_model_len"]) == ("torch", 64)


def test_a_prompt_by_its_name_is_the_text_before_the_text(served: Served) -> None:
    by_default = embedded(served, "the mill")
    assert by_default == pytest.approx(embedded(served, "the mill", prompt_name="document"), abs=1e-6)
    query = embedded(served, "the mill", prompt_name="query")
    assert abs(query - by_default).max() > 0.01
    usage = [
        served.post("/v1/embeddings", {"model": "embedder", "input": given}).json()["usage"]["prompt_tokens"]
        for given in ("the mill", [[2, 5, 3]])
    ]
    assert usage == [6, 3]  # nothing precedes token ids


def test_what_prompts_cannot_do(served: Served) -> None:
    body = {"model": "embedder", "input": "the mill", "prompt_name": "title"}
    param, message = refused(served, "/v1/embeddings", body)
    assert param == "prompt_name"
    assert "it has query, document" in message
    param, _ = refused(served, "/v1/embeddings", {**body, "input": [[2, 5, 3]], "prompt_name": "query"})
    assert param == "prompt_name"


def test_a_reranker_scores_and_does_nothing_else(served: Served) -> None:
    body = {"model": "reranker", "query": "the mill", "documents": ["the river", "a mill grinds"]}
    answer = served.post("/v1/rerank", body).json()
    assert answer["method"] == "cross-encoder"
    assert answer["usage"]["prompt_tokens"] == 2 * (2 + 3) + 2 + 3
    scores = [result["relevance_score"] for result in answer["results"]]
    assert 0 < scores[1] < scores[0] < 1
    assert "embed" in refused(served, "/v1/embeddings", {"model": "reranker", "input": "a"})[1]
    message = {"role": "user", "content": "a"}
    chat = {"model": "reranker", "messages": [message]}
    assert refused(served, "/v1/chat/completions", chat)[0] == "model"


def test_a_long_document_is_refused_or_cut(served: Served) -> None:
    body = {"model": "reranker", "query": "the mill", "documents": ["a", "the river " * 100]}
    assert refused(served, "/v1/rerank", body)[0] == "documents.1"
    answer = served.post("/v1/rerank", {**body, "truncate_prompt_tokens": -1})
    assert len(answer.json()["results"]) == 2


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "t5"])
def test_a_text_has_its_vector_whatever_is_beside_it(kind: str, tmp_path: Path) -> None:
    texts = ["the mill", "a river turns the wheel and the stone grinds grain", "the law", "bread"]
    embedder, reranker = tmp_path / "embedder", tmp_path / "reranker"
    backends = [described(write_embedder(embedder, kind)), described(write_bare(reranker, kind, SCORING))]
    config = Config.model_validate({"engine": {"precision": "f32"}, "models": {"default": ""}})
    with serving(create_app(config, build_backends(config, backends)), silence_s=SLOW_S) as both:
        alone = np.concatenate([embedded(both, text) for text in texts])
        assert embedded(both, texts) == pytest.approx(alone, abs=1e-5)

        def scores(documents: list[str]) -> list[float]:
            body = {"model": "reranker", "query": "the mill", "documents": documents}
            results = both.post("/v1/rerank", body).json()["results"]
            return [each["relevance_score"] for each in sorted(results, key=lambda one: one["index"])]

        assert scores(texts) == pytest.approx([scores([text])[0] for text in texts], abs=1e-5)


def test_no_text_is_longer_than_the_configuration_allows(folders: Path) -> None:
    config = Config.model_validate(
        {"engine": {"precision": "f32", "max_model_len": 8}, "models": {"default": ""}}
    )
    with serving(
        create_app(config, build_backends(config, [described(folders / "embedder")])), silence_s=SLOW_S
    ) as short:
        assert short.get("/v1/models/embedder").json()["max_model_len"] == 8
        body = {"model": "embedder", "input": "the river the river the river"}
        assert refused(short, "/v1/embeddings", body)[0] == "input.0"
        assert embedded(short, "the mill").shape[0] == 1


def test_they_are_loaded_and_make_room_like_others(folders: Path, tmp_path: Path) -> None:
    """Two with memory for one."""
    models = [described(folders / name) for name in ("embedder", "reranker")]
    tree: dict[str, Any] = {"paths": {"cache": tmp_path, "data": tmp_path}, "models": {"embedding": "none"}}
    needed = local.known(models[0], Config.model_validate(tree), 0, lambda *_: FakeBackend([])).memory_bytes
    config = Config.model_validate(
        {**tree, "engine": {"precision": "f32", "memory_budget": int(1.5 * needed)}}
    )
    with serving(create_app(config, build_served(config, models)), silence_s=SLOW_S) as served:

        def states() -> list[str]:
            listed = {model["id"]: model for model in served.get("/v1/models?detail=true").json()["data"]}
            assert [listed[name]["kind"] for name in ("embedder", "reranker")] == ["embedding", "reranker"]
            return [listed[name]["status"]["state"] for name in ("embedder", "reranker")]

        assert states() == ["loaded", "ready"]
        vector = embedded(served, "the mill")
        body = {"model": "reranker", "query": "the mill", "documents": ["the river"]}
        assert served.post("/v1/rerank", body).status_code == 200
        assert states() == ["ready", "loaded"]
        assert embedded(served, "the mill") == pytest.approx(vector, abs=1e-6)
        assert states() == ["loaded", "ready"]
        assert served.post("/v1/models/unload", {"model": "embedder"}).status_code == 200
        assert states() == ["ready", "ready"]


def test_a_missing_weight_is_not_replaced_by_chance(folders: Path, tmp_path: Path) -> None:
    folder = write_bare(tmp_path / "headless", "bert")
    config = json.loads((folders / "reranker" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config))
    backend = build_backends(Config(), [described(folder)])[0]
    with pytest.raises(ModelError, match=r"is not complete: its files have no classifier\."):
        asyncio.run(backend.start())


def test_pickled_layers_are_refused(tmp_path: Path) -> None:
    folder = write_embedder(tmp_path / "m", "bert", dense=("torch.nn.modules.activation.Tanh",))
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled weights are not read"):
        described(folder)


assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(("name", "kind"), [("embedder", "Model"), ("reranker", SCORING)])
def test_weights_that_are_no_numbers_are_refused_by_name(name: str, kind: str, tmp_path: Path) -> None:
    folder = write_bare(tmp_path / name, "bert", kind)
    tensors = load_file(folder / "model.safetensors")
    damaged = next(each for each in tensors if each.endswith("layer.1.output.dense.weight"))
    tensors[damaged][3, 4] = float("inf")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = Config.model_validate({"engine": {"precision": "f32"}})
    backend = build_backends(config, [described(folder)])[0]
    with pytest.raises(ModelError, match=f"'{damaged}' in model.safetensors has numbers that are infinite"):
        asyncio.run(backend.start())
