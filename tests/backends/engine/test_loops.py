"""Answers without a limit: one that goes round in circles ends, and a limit may be the server's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from headrace.app import create_app
from headrace.assembly import build_backends
from headrace.config import Config
from headrace.models.catalog import Model
from tests.conftest import serving_model
from tests.serving import Served, serving

REQUEST: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0}
LONGEST = 500


@pytest.fixture(scope="module")
def looping(small_model: Model) -> Iterator[Served]:
    with serving_model(small_model, max_model_len=LONGEST, loop_tokens=40) as served:
        yield served


@pytest.fixture(scope="module")
def word(looping: Served) -> dict[str, Any]:
    """A bias that makes the model say one word, for ever."""
    model = looping.backend.models()[0].id
    tokens = looping.post("/v1/tokenize", {"model": model, "prompt": "the"}).json()["tokens"]
    return {"model": model, "logit_bias": {str(tokens[0]): 100}}


def ended(served: Served, **members: Any) -> tuple[int, str]:
    answer = served.post("/v1/chat/completions", {**REQUEST, **members})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return body["usage"]["completion_tokens"], body["choices"][0]["finish_reason"]


def test_a_loop_ends_an_answer_without_a_limit(looping: Served, word: dict[str, Any]) -> None:
    count, reason = ended(looping, **word)
    assert (40 <= count <= 90, reason) == (True, "length")
    again, _ = ended(looping, **word, n=2)
    assert again == 2 * count
    response = looping.post("/v1/responses", {"input": "hi", "temperature": 0, "store": False, **word}).json()
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}


def test_text_of_a_loop_comes_whole(looping: Served, word: dict[str, Any]) -> None:
    body = looping.post("/v1/chat/completions", {**REQUEST, **word, "logprobs": True}).json()
    choice, count = body["choices"][0], body["usage"]["completion_tokens"]
    assert choice["message"]["content"] == "the" * count
    assert len(choice["logprobs"]["content"]) == count


@pytest.mark.parametrize(
    "members",
    [
        {"max_tokens": 150},
        {"detect_loops": False, "max_tokens": 150},
        {"ignore_eos": True, "max_tokens": 150, "detect_loops": True},
        {"min_tokens": 100, "max_tokens": 150, "detect_loops": True},
        {"guided_regex": "(the){150}", "detect_loops": True},
    ],
    ids=str,
)
def test_what_was_asked_for_is_not_cut(
    looping: Served, word: dict[str, Any], members: dict[str, Any]
) -> None:
    count, _ = ended(looping, **word, **members)
    assert count >= 150


def test_a_loop_may_be_looked_for_within_a_limit(looping: Served, word: dict[str, Any]) -> None:
    assert ended(looping, **word, max_tokens=300, detect_loops=True)[0] <= 90


def test_it_can_be_switched_off(looping: Served, word: dict[str, Any]) -> None:
    count, reason = ended(looping, **word, detect_loops=False)
    assert (count > 400, reason) == (True, "length")


def test_the_server_may_have_a_limit_of_its_own(small_model: Model, word: dict[str, Any]) -> None:
    config = Config.model_validate(
        {
            "engine": {"kv_cache_bytes": "64MiB", "disk_cache_bytes": 0, "max_model_len": LONGEST},
            "server": {"max_tokens_default": 30},
        }
    )
    with serving(create_app(config, build_backends(config, [small_model]))) as served:
        assert ended(served, **word) == (30, "length")
        assert ended(served, **word, max_tokens=60) == (60, "length")
        assert ended(served, **word, n_predict=-1) == (30, "length")
        assert ended(served, **word, min_tokens=45) == (45, "length")
