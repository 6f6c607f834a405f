"""The default model's exact weights on PyTorch: beside the exact oracle, and beside our other runner."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from headrace.engine.openvino import OpenVINORunner, RunnerOptions
from headrace.engine.runner import Runner
from headrace.engine.torch.load import load_runner
from headrace.engine.torch.options import TorchOptions
from headrace.models.catalog import DEFAULT_MODEL, Cache, Model, prepare
from tests.conftest import serving_model
from tests.engine.reference import ReferenceModel
from tests.models.test_fidelity import log_softmax, paged_logits, real_text
from tests.serving import Served

WINDOW, NUM_WINDOWS = 256, 2  # tokens
QUESTIONS = (
    "What color is the sky?",
    "What is the capital of France?",
    "What is the capital of Italy?",
    "What is 2 + 2?",
    "What color is grass?",
    "What is the opposite of hot?",
    "Name the largest planet.",
    "What language is spoken in Germany?",
    "How many days are in a week?",
    "What is the first letter of the alphabet?",
)
Floats = NDArray[np.float32]


def loaded(model: Model, *, exact: bool) -> Runner:
    return load_runner(
        model.folder,
        TorchOptions("cpu", "auto" if exact else "bfloat16"),
        kv_cache_bytes=2**26,
        max_model_len=2048,
        max_num_seqs=4,
        exact=exact,
    )


@pytest.fixture(scope="module")
def windows(default_checkpoint: Model) -> list[list[int]]:
    ids = Tokenizer.from_file(str(default_checkpoint.folder / "tokenizer.json")).encode(real_text()).ids
    return [ids[start : start + WINDOW] for start in range(0, WINDOW * NUM_WINDOWS, WINDOW)]


@pytest.fixture(scope="module")
def expected(cache: Cache, windows: list[list[int]]) -> list[Floats]:
    """Log probabilities by the oracle, which reads the GGUF file itself."""
    gguf = prepare(DEFAULT_MODEL, cache).gguf
    assert gguf is not None
    oracle = ReferenceModel(gguf)
    return [log_softmax(oracle.logits(tokens)) for tokens in windows]


def divergence(found: Floats, wanted: Floats) -> float:
    """Mean KL divergence in nats a token."""
    return float(np.mean((np.exp(wanted) * (wanted - found)).sum(-1, dtype=np.float64)))


@pytest.mark.parametrize(("exact", "bound"), [(True, 1e-6), (False, 0.01)])
def test_it_has_the_distribution_of_the_file(
    exact: bool,
    bound: float,
    default_checkpoint: Model,
    cache: Cache,
    windows: list[list[int]],
    expected: list[Floats],
) -> None:
    runner = loaded(default_checkpoint, exact=exact)
    assert runner.name == "torch"
    found = [log_softmax(paged_logits(runner, tokens)) for tokens in windows]
    kl = np.mean([divergence(*pair) for pair in zip(found, expected, strict=True)])
    print(f"KL {kl:.2g} nats a token")
    assert kl <= bound


def test_both_runners_give_the_same_logprobs_of_a_prompt(
    default_checkpoint: Model, cache: Cache, windows: list[list[int]]
) -> None:
    ours = OpenVINORunner(prepare(DEFAULT_MODEL, cache).folder, RunnerOptions(64 << 20))
    runner = loaded(default_checkpoint, exact=True)
    tokens = windows[0]
    following = (np.arange(len(tokens) - 1), tokens[1:])
    first, second = (log_softmax(paged_logits(each, tokens)) for each in (runner, ours))
    assert divergence(second, first) <= 0.01
    losses = [float(-found[following].mean()) for found in (first, second)]
    assert abs(losses[1] / losses[0] - 1) <= 0.005 * 2  # fewer tokens than the fidelity test has


def answers(served: Served) -> list[str]:
    def ask(question: str) -> str:
        message = {"role": "user", "content": question}
        body = {"model": DEFAULT_MODEL, "messages": [message], "temperature": 0, "max_tokens": 6}
        return str(served.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(len(QUESTIONS)) as pool:
        return list(pool.map(ask, QUESTIONS))


def test_both_runners_answer_ten_questions_alike(default_checkpoint: Model, cache: Cache) -> None:
    both = []
    for model in (default_checkpoint, prepare(DEFAULT_MODEL, cache)):
        with serving_model(model, precision="f32") as served:
            both.append(answers(served))
    assert both[0] == both[1]


assert torch.get_default_dtype() == torch.float32
