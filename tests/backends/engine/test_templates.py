"""A model's chat template, as callers meet it: parts of a message, and templates that are broken."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.models.catalog import Cache, prepare
from tests.conftest import serving_model
from tests.models.tiny import CHATML, write_tiny
from tests.serving import Served

USER = {"role": "user", "content": "hi"}
BROKEN = {
    "syntax": "{% for message in messages %}",
    "raising": "{{ raise_exception('never') }}",
    "endless": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "huge": "{{ 'x' * 10**11 }}",
    "another file": "{% include 'chat.jinja' %}",
    "itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "unknown": "{{ messages | nosuchfilter }}",
}


@pytest.fixture(params=BROKEN)
def broken(
    request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> Iterator[Served]:
    path = write_tiny(tmp_path / "broken.gguf", chat_template=BROKEN[request.param])
    caplog.set_level(logging.WARNING)
    with serving_model(prepare(str(path), Cache(tmp_path / "cache")), kv_cache_bytes="16MiB") as served:
        yield served


CHATS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [USER]},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": [USER], "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": [USER]},
    "/v1/tokenize": {"messages": [USER]},
}
OTHERS: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "ab", "max_tokens": 2},
    "/v1/embeddings": {"input": "ab"},
    "/v1/tokenize": {"prompt": "ab"},
}


def test_a_broken_template_is_a_400_in_chat_and_nothing_else(
    broken: Served, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        for path, body in CHATS.items():
            answer = broken.post(path, {"model": "broken", **body})
            assert answer.status_code == 400, (path, answer.text)
            assert "template" in answer.json()["error"]["message"]
            if "messages" not in path:
                assert answer.json()["error"]["code"] == "chat_template_error"
        for path, body in OTHERS.items():
            assert broken.post(path, {"model": "broken", **body}).status_code == 200, path
    assert broken.get("/health").status_code == 200
    warnings = [record for record in caplog.get_records("setup") if "cannot chat" in record.message]
    assert len(warnings) == 1


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("tiny")
    path = write_tiny(folder / "tiny.gguf", chat_template=CHATML)
    with serving_model(prepare(str(path), Cache(folder / "cache")), kv_cache_bytes="16MiB") as served:
        yield served


def parts(*texts: str, type: str = "text") -> list[dict[str, str]]:
    return [{"type": type, "text": text} for text in texts]


def tokens_of(served: Served, path: str, body: dict[str, Any]) -> int:
    answer = served.post(path, {"model": "tiny", **body})
    assert answer.status_code == 200, answer.text
    usage: dict[str, int] = answer.json()["usage"]
    return usage.get("prompt_tokens") or usage["input_tokens"]


@pytest.mark.parametrize("role", ["user", "system", "assistant", "tool"])
def test_l13_parts_of_a_text_are_lines(tiny: Served, role: str) -> None:
    def tokens_of(content: object) -> list[int]:
        calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
        before = [USER, {"role": "assistant", "content": "", "tool_calls": calls}] if role == "tool" else []
        extra = {"tool_call_id": "c"} if role == "tool" else {}
        said = [*before, {"role": role, "content": content, **extra}, USER]
        tokens: list[int] = tiny.post("/v1/tokenize", {"model": "tiny", "messages": said}).json()["tokens"]
        return tokens

    assert tokens_of(parts("What is 2", "3 plus 1?")) == tokens_of("What is 2\n3 plus 1?")
    assert tokens_of(parts("one")) == tokens_of("one")
    assert tokens_of(parts("", "two", "")) == tokens_of("\ntwo\n")


def test_l13_in_responses_and_messages_too(tiny: Served) -> None:
    joined, apart = "What is 2\n3 plus 1?", ("What is 2", "3 plus 1?")
    said: dict[str, Any] = {"role": "user", "content": parts(*apart, type="input_text")}
    short = {"max_output_tokens": 16, "store": False}
    assert tokens_of(tiny, "/v1/responses", {"input": [said], **short}) == tokens_of(
        tiny, "/v1/responses", {"input": joined, **short}
    )
    for path in ("/v1/messages/count_tokens", "/v1/responses/input_tokens"):
        name = "messages" if "messages" in path else "input"
        kind = "text" if "messages" in path else "input_text"
        counts = {
            tiny.post(path, {"model": "tiny", name: [{"role": "user", "content": content}]}).json()[
                "input_tokens"
            ]
            for content in (joined, parts(*apart, type=kind))
        }
        assert len(counts) == 1


RENDERED = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("keep", [None, 100, 3])
def test_l17_special_tokens_of_a_prompt_may_be_special(tiny: Served, keep: int | None) -> None:
    members = {"max_tokens": 1, "temperature": 0, "truncate_prompt_tokens": keep, "echo": True}

    def complete(**more: Any) -> tuple[int, str]:
        answer = tiny.post("/v1/completions", {"model": "tiny", "prompt": RENDERED, **members, **more})
        assert answer.status_code == 200, answer.text
        return answer.json()["usage"]["prompt_tokens"], answer.json()["choices"][0]["text"]

    tokens = tiny.post("/v1/tokenize", {"model": "tiny", "messages": [USER]}).json()["tokens"]
    special, text = complete(parse_special=True)
    assert special == len(tokens) if keep is None else min(keep, len(tokens))
    assert complete(prompt=tokens)[1] == text
    plain, _ = complete()
    assert complete(parse_special=False)[0] == plain
    assert plain == keep if keep == 3 else plain > special


@pytest.mark.parametrize(
    "prompt", ["\ufdd0", "a\ufdd0\ue001b<|im_end|>\ufdd0", "<|im_end|><|im_", "", "<|im_end|>"]
)
def test_l17_any_text_may_be_parsed(tiny: Served, prompt: str) -> None:
    body = {"model": "tiny", "prompt": prompt, "parse_special": True, "max_tokens": 1, "echo": True}
    answer = tiny.post("/v1/completions", body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["text"].startswith(prompt)
