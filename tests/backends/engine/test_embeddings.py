"""Embeddings against a plain float32 forward pass, and beside running generations."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import pytest
from numpy.typing import NDArray

from headrace.models.catalog import DEFAULT_MODEL, Cache, Model, prepare
from headrace.text.tokenizer import Tokenizer
from tests.engine.plain import PlainModel
from tests.engine.reference import ReferenceModel
from tests.serving import Served, eventually

TEXTS = [
    "A headrace carries water to the mill wheel.",
    "Ein Mühlrad dreht sich.",
    "def wheel(water): return water * 2",
    "x",
    "The wheel turns the millstone, which grinds the grain into flour. " * 12,
]
POOLINGS = ["mean", "last", "cls"]


@pytest.fixture(scope="module")
def texts(default_model: Model) -> list[list[int]]:
    tokenizer = Tokenizer(default_model.folder)
    return [tokenizer.encode(text) for text in TEXTS]


def pooled(states: NDArray[np.float32], pooling: str) -> NDArray[np.float64]:
    rows = {"mean": states, "last": states[-1:], "cls": states[:1]}[pooling]
    vector = rows.astype(np.float64).mean(0)
    return np.asarray(vector / np.linalg.norm(vector))


def distance(found: NDArray[np.float32], expected: NDArray[Any]) -> float:
    """The largest cosine distance between rows, which all have length 1."""
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    return float((1 - (found * expected).sum(1, dtype=np.float64)).max())


def embed(client: openai.OpenAI, texts: Any, **extra: Any) -> NDArray[np.float32]:
    answer = client.embeddings.create(model=DEFAULT_MODEL, input=texts, extra_body=extra)
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    return np.array([item.embedding for item in answer.data], np.float32)


def test_vectors_are_those_of_a_float32_forward_pass_over_the_files_weights(
    server: Served, cache: Cache, texts: list[list[int]]
) -> None:
    """The NumPy oracle, which knows neither our graph nor our int8 weights."""
    gguf = prepare(DEFAULT_MODEL, cache).gguf
    assert gguf is not None
    oracle = ReferenceModel(gguf)
    states = [oracle.states(tokens) for tokens in texts]
    with server.client() as client:
        for pooling in POOLINGS:
            expected = np.stack([pooled(one, pooling) for one in states])
            assert distance(embed(client, TEXTS, pooling=pooling), expected) < 1e-2


def test_exact_vectors_are_those_of_the_plain_model(
    exact_server: Served, default_model: Model, cache: Cache, texts: list[list[int]]
) -> None:
    """The same graph without our engine; where PyTorch computes, the oracle: both have the file's weights."""
    gguf = prepare(DEFAULT_MODEL, cache).gguf
    assert gguf is not None
    plain = ReferenceModel(gguf) if default_model.gguf is None else PlainModel(default_model.folder)
    states = [plain.states(tokens) for tokens in texts]
    with exact_server.client() as client:
        for pooling in POOLINGS:
            expected = np.stack([pooled(one, pooling) for one in states])
            assert distance(embed(client, TEXTS, pooling=pooling), expected) < 1e-5


def test_exact_vectors_do_not_depend_on_the_batch(exact_server: Served, texts: list[list[int]]) -> None:
    with exact_server.client() as client:
        alone = np.concatenate([embed(client, text) for text in TEXTS])
        together = embed(client, [*TEXTS, *reversed(TEXTS)])
        ids = embed(client, texts)
    for other in (together[:5], together[:4:-1], ids):
        assert distance(other, alone) < 1e-5


def test_dimensions_cut_and_renormalize(server: Served) -> None:
    with server.client() as client:
        whole = embed(client, TEXTS[:2], normalize=False)
        cut = embed(client, TEXTS[:2], dimensions=64)
        assert cut.shape == (2, 64)
        expected = whole[:, :64] / np.linalg.norm(whole[:, :64], axis=1, keepdims=True)
        assert cut == pytest.approx(expected, abs=2e-3)
        width = whole.shape[1]
        with pytest.raises(openai.BadRequestError) as refused:
            embed(client, "x", dimensions=width + 1)
        assert refused.value.param == "dimensions"
        with pytest.raises(openai.BadRequestError) as refused:
            embed(client, "x", prompt_name="query")
        assert refused.value.param == "prompt_name"


def test_base64_is_the_same_little_endian_floats(server: Served) -> None:
    body = {"model": DEFAULT_MODEL, "input": TEXTS[0]}
    as_text = server.post("/v1/embeddings", {**body, "encoding_format": "base64"}).json()["data"][0][
        "embedding"
    ]
    as_list = server.post("/v1/embeddings", {**body, "encoding_format": "float"}).json()["data"][0][
        "embedding"
    ]
    assert np.frombuffer(base64.b64decode(as_text), "<f4").tolist() == pytest.approx(as_list, abs=2e-3)


def test_an_input_that_is_too_long_is_named(server: Served) -> None:
    with server.client() as client, pytest.raises(openai.BadRequestError) as refused:
        embed(client, [TEXTS[0], "water " * 20_000, TEXTS[1]])
    assert (refused.value.param, refused.value.code) == ("input.1", "context_length_exceeded")
    with server.client() as client:
        vectors = embed(client, ["water " * 20_000], truncate_prompt_tokens=8)
    assert vectors.shape[0] == 1


def test_ids_beyond_the_vocabulary_are_named(server: Served) -> None:
    with server.client() as client, pytest.raises(openai.BadRequestError) as refused:
        embed(client, [[1, 2], [3, 10**6]])
    assert refused.value.param == "input.1"


def test_two_thousand_inputs_run_beside_a_conversation(server: Served) -> None:
    inputs = [[1000 + number, 2000 + number, 3000] for number in range(2048)]
    with server.client() as client, ThreadPoolExecutor(1) as pool:
        embedding = pool.submit(
            client.embeddings.create, model=DEFAULT_MODEL, input=inputs, encoding_format="base64", timeout=600
        )
        answer = client.chat.completions.create(
            model=DEFAULT_MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=8
        )
        assert answer.choices[0].message.content
        assert not embedding.done(), "the conversation went first"
        result = embedding.result()
    assert len(result.data) == 2048
    assert result.usage.prompt_tokens == result.usage.total_tokens == 3 * 2048
    eventually(lambda: server.backend.engine.pool.num_held == 0)  # type: ignore[attr-defined]  # the engine's
