"""Our engine as a backend: what the model's own files decide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from headrace.models.catalog import DEFAULT_MODEL, Model
from headrace.text.templates import FALLBACK, ChatTemplate
from headrace.text.tokenizer import Tokenizer
from headrace.types import Message
from tests.conftest import serving_model
from tests.serving import Served

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
PICKY = "{% if 'secret' in messages[-1].content %}{{ raise_exception('no secrets') }}{% endif %}" + FALLBACK


@pytest.fixture(scope="module")
def picky(small_model: Model) -> Iterator[Served]:
    """A model of another name, with a BOS and a template that refuses a word."""
    model = replace(small_model, name="org/picky", chat_template=PICKY, add_bos=True)
    with serving_model(model, max_model_len=256) as served:
        yield served


def body(content: str, **members: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {"model": "org/picky", "messages": messages, "max_tokens": 2, **members}


@pytest.mark.parametrize("stream", [True, False])
def test_template_that_refuses_is_a_400(picky: Served, stream: bool) -> None:
    response = picky.post(CHAT, body("a secret", stream=stream))
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "chat_template_error", "messages")
    assert "no secrets" in error["message"]
    assert picky.gateway.num_active == 0
    assert picky.post(CHAT, body("hi")).status_code == 200


def test_a_model_without_a_template_serves_all_but_chat(small_model: Model) -> None:
    with serving_model(replace(small_model, name="base", chat_template=None), max_model_len=256) as base:
        messages = [{"role": "user", "content": "hi"}]
        for path in (CHAT, "/v1/messages", "/v1/tokenize"):
            refused = base.post(path, {"model": "base", "messages": messages, "max_tokens": 2})
            assert refused.status_code == 400
            assert "no chat template" in refused.json()["error"]["message"]
        assert refused.json()["error"]["code"] == "chat_template_error"
        assert base.post("/v1/responses", {"model": "base", "input": "hi"}).status_code == 400
        answer = base.post(COMPLETIONS, {"model": "base", "prompt": "hi", "max_tokens": 2})
        assert answer.status_code == 200
        assert base.post("/v1/tokenize", {"model": "base", "prompt": "hi"}).status_code == 200
        assert base.post("/v1/embeddings", {"model": "base", "input": "hi"}).status_code == 200


def test_models_bos_is_counted_once(picky: Served, small_model: Model) -> None:
    tokenizer = Tokenizer(small_model.folder)
    rendered = ChatTemplate(PICKY).render((Message("user", "hi"),))
    usage = picky.post(CHAT, body("hi")).json()["usage"]
    assert usage["prompt_tokens"] == 1 + len(tokenizer.encode(rendered))
    usage = picky.post(COMPLETIONS, {"model": "org/picky", "prompt": "hi"}).json()["usage"]
    assert usage["prompt_tokens"] == 1 + len(tokenizer.encode("hi"))


def test_context_is_the_smaller_of_the_models_and_the_configured(picky: Served) -> None:
    assert picky.get("/v1/models/org/picky").json()["max_model_len"] == 256


def test_recommended_sampling_can_be_switched_off(exact_server: Served) -> None:
    assert exact_server.get(f"/v1/models/{DEFAULT_MODEL}").json()["sampling_defaults"] == {}
    request = {"model": DEFAULT_MODEL, "prompt": "Once", "seed": 4}
    texts = [
        exact_server.post(COMPLETIONS, {**request, **members}).json()["choices"][0]["text"]
        for members in ({}, {"temperature": 1, "top_p": 1}, {"temperature": 0.2, "top_p": 0.9})
    ]
    assert texts[0] == texts[1] != texts[2]
