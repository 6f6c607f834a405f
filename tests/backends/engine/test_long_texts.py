"""Texts that cannot fit, wherever a text can stand: refused before they are tokenized; what is cut to its
end is cut without reading the rest.
"""

from __future__ import annotations

from typing import Any

import pytest

from headrace.models.catalog import DEFAULT_MODEL, Model
from headrace.text.tokenizer import Tokenizer
from tests.serving import Served

HUGE = "water " * 2_000_000  # 12 MB
SAID = [{"role": "user", "content": HUGE}]
CALLED = [
    {"role": "user", "content": "Look."},
    {"role": "assistant", "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"at":"' + HUGE + '"}'}}]},
    {"role": "tool", "tool_call_id": "c", "content": "sky"},
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "members", "param"),
    [
        ("/v1/chat/completions", {"messages": SAID}, "messages"),
        ("/v1/chat/completions", {"messages": CALLED}, "messages"),
        ("/v1/chat/completions", {"messages": SAID, "stream": True}, "messages"),
        ("/v1/completions", {"prompt": HUGE}, "prompt"),
        ("/v1/completions", {"prompt": ["Hi", HUGE]}, "prompt.1"),
        ("/v1/completions", {"prompt": HUGE, "echo": True, "max_tokens": 0, "logprobs": 1}, "prompt"),
        ("/v1/embeddings", {"input": ["Hi", HUGE]}, "input.1"),
        ("/v1/responses", {"input": HUGE, "store": False}, "input"),
    ],
    ids=["chat", "arguments", "stream", "prompt", "prompts", "echo", "embeddings", "responses"],
)
def test_twelve_megabytes_are_refused_in_a_short_answer(
    server: Served, path: str, members: dict[str, Any], param: str
) -> None:
    response = server.post(path, {"model": DEFAULT_MODEL, **members})
    assert response.status_code == 400, response.text[:300]
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["param"].startswith(param)
    assert len(response.content) < 1000


@pytest.mark.parametrize(
    ("path", "members", "param"),
    [
        ("/v1/tokenize", {"prompt": HUGE}, "prompt"),
        ("/tokenize", {"text": HUGE, "return_token_strs": True}, "prompt"),
        ("/v1/tokenize", {"messages": SAID}, "messages"),
        ("/v1/messages/count_tokens", {"messages": SAID}, "messages"),
        ("/v1/responses/input_tokens", {"input": HUGE}, "input"),
    ],
    ids=["text", "texts", "chat", "anthropic", "responses"],
)
def test_what_is_only_counted_has_a_bound_of_its_own(
    server: Served, path: str, members: dict[str, Any], param: str
) -> None:
    response = server.post(path, {"model": DEFAULT_MODEL, **members})
    assert response.status_code == 400, response.text[:300]
    assert len(response.content) < 1000
    if "error" in response.json() and "code" in response.json()["error"]:
        assert response.json()["error"]["code"] == "string_above_max_length"
        assert response.json()["error"]["param"].startswith(param)


def test_what_is_longer_than_the_context_can_still_be_counted(server: Served, default_model: Model) -> None:
    text = "water " * 100_000
    tokens = server.post("/v1/tokenize", {"prompt": text, "return_token_strs": True}).json()
    tokenizer = Tokenizer(default_model.folder)
    assert tokens["tokens"] == tokenizer.encode(text)
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"])
    assert "".join(tokens["token_strs"]) == text
    assert server.post("/v1/detokenize", {"tokens": tokens["tokens"]}).json()["text"] == text
    chat = {"messages": [{"role": "user", "content": text}]}
    assert server.post("/v1/tokenize", chat).json()["count"] > len(tokens["tokens"])


@pytest.mark.parametrize("unit", ["The wheel turns. ", "#" * 80, " " * 64 + "x", "\x16"])
def test_what_fits_is_never_refused(small_server: Served, default_model: Model, unit: str) -> None:
    """However long its tokens are, and whatever of it the model has no tokens for."""
    tokenizer = Tokenizer(default_model.folder)
    text = tokenizer.decode(tokenizer.encode(unit * 300)[:240])
    text = unit * 1_000_000 + "end" if unit == "\x16" else text
    body = {"model": DEFAULT_MODEL, "prompt": text, "max_tokens": 0, "echo": True}
    answer = small_server.post("/v1/completions", body)
    assert answer.status_code == 200, answer.text[:300]
    assert answer.json()["usage"]["prompt_tokens"] == len(tokenizer.encode(text)) <= 255


@pytest.mark.parametrize("count", [1, 100])
def test_only_the_end_of_a_huge_text_is_kept(server: Served, default_model: Model, count: int) -> None:
    text = HUGE + "turns the old mill wheel, " * 200
    tokenizer = Tokenizer(default_model.folder)
    expected = tokenizer.decode(tokenizer.encode(text[-10_000:])[-count:])
    body = {"model": DEFAULT_MODEL, "prompt": text, "echo": True, "max_tokens": 0}
    answer = server.post("/v1/completions", {**body, "truncate_prompt_tokens": count})
    assert answer.status_code == 200, answer.text[:300]
    assert answer.json()["choices"][0]["text"] == expected
    assert answer.json()["usage"]["prompt_tokens"] == count
    chat = {"model": DEFAULT_MODEL, "messages": SAID, "max_tokens": 1, "truncate_prompt_tokens": count}
    said = server.post("/v1/chat/completions", chat)
    assert said.json()["usage"]["prompt_tokens"] == count
    embedded = {"model": DEFAULT_MODEL, "input": [text, "Hi"], "truncate_prompt_tokens": count}
    assert server.post("/v1/embeddings", embedded).json()["usage"]["prompt_tokens"] == count + 1


def test_all_that_fits_of_a_huge_text_is_kept(small_server: Served) -> None:
    body = {"model": DEFAULT_MODEL, "prompt": HUGE, "max_tokens": 2, "truncate_prompt_tokens": -1}
    usage = small_server.post("/v1/completions", body).json()["usage"]
    assert usage["prompt_tokens"] == 254


def test_ids_beyond_the_vocabulary_in_long_lists_are_named(server: Served, default_model: Model) -> None:
    size = Tokenizer(default_model.folder).vocabulary
    body = {"model": DEFAULT_MODEL, "prompt": "Hi", "max_tokens": 1}
    many = [*range(size), size]
    stops = server.post("/v1/completions", {**body, "stop_token_ids": many})
    assert stops.status_code == 400
    assert stops.json()["error"]["param"].startswith("stop_token_ids")
    tokens = server.post("/v1/detokenize", {"tokens": many})
    assert (tokens.status_code, tokens.json()["error"]["param"]) == (400, "tokens")
