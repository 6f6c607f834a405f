"""Requests to a provider of their own dialect that are translated nevertheless (strict ones, those along a
mixed route, those with stored chats) lose nothing that the provider knows.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.backends.writing import BLOCK, CHAT, DOWN, HI, MESSAGES, RESPONSES, STRICT, TOOL, Written, names
from tests.upstream import answer

MARK = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
TEXT = {"type": "text", "text": "hi"}
DOCUMENT: dict[str, Any] = {
    "type": "document",
    "title": "T",
    "context": "C",
    "citations": {"enabled": True},
    "source": {"type": "content", "content": [{**TEXT, **MARK}]},
}
FOUND = {"type": "search_result", "title": "T", "source": "S", "content": [TEXT], **MARK}
USE = {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": "b"}, **MARK}
RESULT = {
    "type": "tool_result", "tool_use_id": "c1", "is_error": True, **MARK,
    "content": [{**TEXT, **MARK}, BLOCK],
}  # fmt: skip
THOUGHT = {"type": "thinking", "thinking": "Hm", "signature": "c2ln"}
CITED = {**TEXT, "citations": [{"type": "char_location", "document_index": 0}]}
HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": [DOCUMENT, FOUND, {**TEXT, **MARK}, {**BLOCK, **MARK}]},
    {"role": "assistant", "content": [THOUGHT, CITED, USE]},
    {"role": "user", "content": [RESULT, {**TEXT, **MARK}]},
]
BETAS = {"anthropic-beta": "context-1m-2025-08-07", "anthropic-version": "2023-06-01"}
BODY: dict[str, Any] = {
    "model": "an-up",
    "max_tokens": 64_000,
    "system": [{**TEXT, **MARK}, {"type": "text", "text": "more"}],
    "messages": HISTORY,
    "tools": [{**TOOL[0], **MARK, "input_examples": [{"a": "b"}], "eager_input_streaming": True}],
    "thinking": {"type": "enabled", "budget_tokens": 2000, "display": "omitted"},
    "context_management": {"edits": []},
    "service_tier": "standard_only",
    **MARK,
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "headers"),
    [("an-up", {}), ("up-an", {}), ("an:claude-opus-4-1", STRICT)],
    ids=["route", "fallback", "strict"],
)
def test_anthropics_own_members_reach_anthropic(
    written: Written, model: str, headers: dict[str, str], stream: bool
) -> None:
    if model == "up-an":
        written.play(DOWN)
    status, answer_headers, _ = written.ask(
        MESSAGES, {**BODY, "model": model, "stream": stream}, **{**headers, **BETAS}
    )
    assert (status, names(answer_headers)) == (200, [])
    sent = written.last
    for name in ("system", "messages", "tools", "thinking", "context_management", "service_tier", *MARK):
        assert sent[name] == BODY[name], name
    seen = written.requests[-1].headers
    assert {name: seen[name] for name in BETAS} == BETAS


def test_elsewhere_they_are_named_and_not_sent(written: Written) -> None:
    status, headers, _ = written.ask(MESSAGES, {**BODY, "model": "up:m"}, **BETAS)
    assert status == 200
    found = set(names(headers))
    assert found >= {"system.0.cache_control", "tools.0.cache_control", "cache_control"}
    assert {
        "messages.0.content.2.cache_control",
        "messages.2.content.0.content.0.cache_control",
        "messages.0.content.0.source.content.0.cache_control",
    } <= found
    assert "cache_control" not in str(written.last)
    assert "service_tier" not in written.last
    assert not set(BETAS) & set(written.requests[-1].headers)


def test_blocks_are_changed_only_where_anthropic_would_refuse_them(written: Written) -> None:
    """The caller's history comes from another provider, and one of its tools has a name with a dot."""
    source = {"type": "base64", "media_type": "image/jpg", "data": "/9j/4AAQSkZJRg=="}
    photo = {"type": "image", "source": source}
    unsigned = [{"type": "thinking", "thinking": "Hm"}, {"type": "redacted_thinking", "data": ""}]
    history: list[Any] = [
        {"role": "user", "content": [{**TEXT, **MARK}, {"type": "text", "text": " "}, photo]},
        {"role": "assistant", "content": [*unsigned, {**USE, "name": "a.b"}]},
        {"role": "user", "content": [{**RESULT, "tool_use_id": "c1"}]},
    ]
    body = {**BODY, "model": "an:claude-opus-4-1", "messages": history, "tools": [{**TOOL[0], "name": "a.b"}]}
    assert written.ask(MESSAGES, body)[0] == 200
    first, second, third = written.last["messages"]
    assert [block["type"] for block in first["content"]] == ["text", "image"]
    assert first["content"][1]["source"]["media_type"] == "image/jpeg"
    (use,) = second["content"]
    assert use == {**USE, "name": written.last["tools"][0]["name"]}
    assert "." not in use["name"]
    assert third["content"] == [RESULT]


def test_the_last_message_is_trimmed_with_its_mark(written: Written) -> None:
    partial = {"role": "assistant", "content": [{"type": "text", "text": "So ", **MARK}]}
    body = {"model": "an:claude-opus-4-1", "max_tokens": 9, "messages": [*HI, partial]}
    assert written.ask(MESSAGES, body, **STRICT)[0] == 200
    assert written.last["messages"][-1]["content"] == [{"type": "text", "text": "So", **MARK}]


def test_what_no_dialect_has_is_not_sent(written: Written) -> None:
    """Tools that Anthropic runs, their blocks, and members that nobody knows."""
    server_use = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    body = {
        **BODY,
        "mcp_servers": [{"type": "url", "name": "x", "url": "https://a.b"}],
        "tools": [*BODY["tools"], {"type": "web_search_20250305", "name": "web_search"}],
        "messages": [
            *HI,
            {"role": "assistant", "content": [server_use, {**TEXT, **MARK, "novelty": 1}]},
            *HI,
        ],
    }
    status, headers, _ = written.ask(MESSAGES, body)
    assert status == 200
    expected = ["mcp_servers", "messages.1.content.0", "messages.1.content.1.novelty", "tools.1"]
    assert sorted(names(headers)) == expected
    assert written.last["messages"][1]["content"] == [{**TEXT, **MARK}]
    assert "mcp_servers" not in written.last


ADVICE: dict[str, Any] = {
    "prompt_cache_key": "k", "prompt_cache_retention": "24h", "service_tier": "flex",
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "members"),
    [(CHAT, {"messages": HI}), (CHAT, {"messages": HI, "store": True}), (RESPONSES, {"input": "hi"})],
    ids=["chat", "stored chat", "response"],
)
def test_openais_own_members_reach_its_dialect(written: Written, path: str, members: Any) -> None:
    headers = {} if "store" in members else STRICT
    status, answer_headers, _ = written.ask(path, {"model": "own:m", **members, **ADVICE}, **headers)
    assert (status, names(answer_headers)) == (200, [])
    assert {name: written.last[name] for name in ADVICE} == ADVICE


def test_a_provider_that_refuses_one_is_asked_without(written: Written) -> None:
    words = {"error": {"message": "property 'prompt_cache_key' is unsupported"}}
    written.play(answer(words, status=400))
    status, headers, _ = written.ask(CHAT, {"model": "up-an", "messages": HI, **ADVICE})
    assert (status, headers["x-headrace-backend"], names(headers)) == (200, "up", ["prompt_cache_key"])
    assert "prompt_cache_key" not in written.last
    assert written.last["service_tier"] == "flex"


def test_elsewhere_openais_are_named(written: Written) -> None:
    for model in ("an:claude-opus-4-1", "ol:m", "ce:m"):
        status, headers, _ = written.ask(CHAT, {"model": model, "messages": HI, "store": True, **ADVICE})
        assert (status, sorted(names(headers))) == (200, sorted(ADVICE)), model
        assert not set(ADVICE) & set(written.last), model


def test_the_user_of_embeddings_reaches_the_provider(written: Written) -> None:
    vectors = {"data": [{"index": 0, "embedding": [1.0]}], "usage": {"prompt_tokens": 1}}
    written.play(answer(vectors), path="/v1/embeddings")
    assert written.ask("/v1/embeddings", {"model": "up:m", "input": "x", "user": "me"}, **STRICT)[0] == 200
    assert written.last["user"] == "me"
