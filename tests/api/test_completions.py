"""/v1/completions over the default model, through the official client."""

from __future__ import annotations

import re
from typing import Any

import openai

from headrace.models.catalog import DEFAULT_MODEL, Model
from headrace.text.tokenizer import Tokenizer
from tests.serving import Served, events

PATH = "/v1/completions"
FRANCE = "The capital of France is"


def body(prompt: str = FRANCE, **members: Any) -> dict[str, Any]:
    return {"model": DEFAULT_MODEL, "prompt": prompt, "temperature": 0, **members}


def test_sixteen_tokens_are_the_default(server: Served, default_model: Model) -> None:
    answer = server.post(PATH, body(ignore_eos=True)).json()
    assert re.fullmatch(r"cmpl-[0-9a-f]{24}", answer["id"])
    assert answer["object"] == "text_completion"
    assert set(answer["choices"][0]) == {"index", "text", "logprobs", "finish_reason"}
    assert answer["choices"][0]["finish_reason"] == "length"
    prompt = len(Tokenizer(default_model.folder).encode(FRANCE))
    assert answer["usage"]["prompt_tokens"] == prompt
    assert (answer["usage"]["completion_tokens"], answer["usage"]["total_tokens"]) == (16, prompt + 16)


def test_stream_gives_the_same_text(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=DEFAULT_MODEL, prompt=FRANCE, temperature=0, seed=1)
    stream = client.completions.create(model=DEFAULT_MODEL, prompt=FRANCE, temperature=0, seed=1, stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"


def test_usage_chunk_comes_last(server: Served) -> None:
    request = body(stream=True, stream_options={"include_usage": True}, n=2, seed=1)
    *chunks, usage, done = events(server.post(PATH, request))
    assert done == "[DONE]"
    assert all(chunk["usage"] is None for chunk in chunks)
    assert {chunk["choices"][0]["index"] for chunk in chunks} == {0, 1}
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 32
    assert "usage" not in events(server.post(PATH, body(stream=True)))[0]


def test_empty_prompt_lets_the_model_begin(server: Served) -> None:
    answer = server.post(PATH, body("")).json()
    assert answer["usage"]["prompt_tokens"] == 1
    assert answer["choices"][0]["text"]


def test_special_tokens_in_a_prompt_are_text(server: Served, default_model: Model) -> None:
    text = "<|im_start|>user\nhi<|im_end|>"
    usage = server.post(PATH, body(text, max_tokens=1)).json()["usage"]
    assert usage["prompt_tokens"] == len(Tokenizer(default_model.folder).encode(text)) > 8
