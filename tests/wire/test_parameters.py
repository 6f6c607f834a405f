"""What becomes of members: honoured, refused, let through while neutral, ignored and named."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.config import Config
from tests.conftest import FakeServer

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "hi"}
SMALL: dict[str, dict[str, Any]] = {
    CHAT: {"model": "fake", "messages": [USER]},
    COMPLETIONS: {"model": "fake", "prompt": "hi"},
}
NEUTRAL: dict[str, Any] = {
    "frequency_penalty": 0,
    "presence_penalty": 0.0,
    "repetition_penalty": 1.0,
    "logit_bias": {},
    "tools": [],
    "tool_choice": "none",
    "response_format": {"type": "text"},
    "echo": False,
}
CHAT_NEUTRAL: dict[str, Any] = {
    **NEUTRAL,
    "logprobs": False,
    "top_logprobs": 0,
    "functions": [],
    "function_call": "auto",
    "modalities": ["text"],
    "store": False,
}
COMPLETION_NEUTRAL: dict[str, Any] = {**NEUTRAL, "suffix": "", "best_of": 1}
HARMLESS: dict[str, Any] = {
    "user": "me",
    "prompt_cache_key": "k",
    "safety_identifier": "s",
}
COMPLETION_HARMLESS: dict[str, Any] = {**HARMLESS, "metadata": {"a": "b"}, "store": True}
NULLS = (
    *(
        "stream",
        "stream_options",
        "max_tokens",
        "temperature",
        "top_p",
        "n",
        "stop",
        "seed",
        "top_k",
        "min_p",
    ),
    *("ignore_eos", "min_tokens", "logprobs", "tools", "logit_bias", "user", "suffix", "anything"),
)


def named(value: str | None) -> list[str]:
    return value.split(", ") if value else []


@pytest.mark.parametrize(("path", "members"), [(CHAT, CHAT_NEUTRAL), (COMPLETIONS, COMPLETION_NEUTRAL)])
def test_neutral_values_are_accepted_without_a_word(
    fake_server: FakeServer, path: str, members: dict[str, Any]
) -> None:
    response = fake_server().post(path, {**SMALL[path], **members}, headers={"X-Headrace-Strict": "true"})
    assert response.status_code == 200, response.text
    assert "x-headrace-ignored" not in response.headers


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_nulls_mean_not_given(fake_server: FakeServer, path: str) -> None:
    response = fake_server().post(path, {**SMALL[path], **dict.fromkeys(NULLS)})
    assert response.status_code == 200, response.text
    assert "x-headrace-ignored" not in response.headers


@pytest.mark.parametrize(("path", "members"), [(CHAT, HARMLESS), (COMPLETIONS, COMPLETION_HARMLESS)])
@pytest.mark.parametrize("stream", [False, True])
def test_harmless_members_are_ignored_and_named(
    fake_server: FakeServer, path: str, members: dict[str, Any], stream: bool
) -> None:
    server = fake_server()
    body = {**SMALL[path], **members, "stream": stream}
    assert named(server.post(path, body).headers["x-headrace-ignored"]) == list(members)
    strict = server.post(path, body, headers={"X-Headrace-Strict": "true"})
    assert strict.status_code == 200


def test_metadata_of_a_chat_that_is_not_stored_is_named(fake_server: FakeServer) -> None:
    server = fake_server()
    body = {**SMALL[CHAT], "metadata": {"a": "b"}}
    assert named(server.post(CHAT, {**body, "user": "me"}).headers["x-headrace-ignored"]) == [
        "metadata",
        "user",
    ]
    assert "x-headrace-ignored" not in server.post(CHAT, {**body, "store": True}).headers


def test_unknown_members_are_named_and_in_strict_mode_refused(fake_server: FakeServer) -> None:
    server = fake_server()
    body = {**SMALL[CHAT], "client_metadata": {}, "größe, \n": 1}
    response = server.post(CHAT, body)
    assert response.headers["x-headrace-ignored"] == "client_metadata, gr%C3%B6%C3%9Fe%2C%20%0A"
    for strict in ("true", "1", "TRUE"):
        refused = server.post(CHAT, body, headers={"X-Headrace-Strict": strict})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "client_metadata"


def test_strictness_of_the_configuration_yields_to_the_header(fake_server: FakeServer) -> None:
    server = fake_server(config=Config.model_validate({"server": {"strict": True}}))
    body = {**SMALL[CHAT], "novelty": 1}
    assert server.post(CHAT, body).status_code == 400
    assert server.post(CHAT, body, headers={"X-Headrace-Strict": "false"}).status_code == 200


def test_unknown_members_of_messages_are_named(fake_server: FakeServer) -> None:
    said: dict[str, Any] = {
        "role": "assistant",
        "content": "x",
        "refusal": "no",
        "annotations": [{"type": "url_citation"}],
        "reasoning": None,
    }
    parts = [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]
    options = {"include_usage": True, "include_obfuscation": False}
    body = {
        **SMALL[CHAT],
        "messages": [USER, said, {"role": "user", "content": parts}],
        "stream": True,
        "stream_options": options,
    }
    server = fake_server()
    assert named(server.post(CHAT, body).headers["x-headrace-ignored"]) == [
        "messages.1.refusal",
        "messages.1.annotations",
        "messages.2.content.0.cache_control",
    ]
    strict = server.post(CHAT, body, headers={"X-Headrace-Strict": "true"})
    assert strict.json()["error"]["param"] == "messages.2.content.0.cache_control"


def test_our_own_answer_can_be_sent_back_in_strict_mode(fake_server: FakeServer) -> None:
    server = fake_server()
    answer = server.post(CHAT, SMALL[CHAT]).json()["choices"][0]["message"]
    body = {"model": "fake", "messages": [USER, answer, USER]}
    assert server.post(CHAT, body, headers={"X-Headrace-Strict": "true"}).status_code == 200


def test_header_stays_small_whatever_is_sent(fake_server: FakeServer) -> None:
    body = {**SMALL[CHAT], **{"x" * 200 + str(i): 1 for i in range(1000)}}
    response = fake_server().post(CHAT, body)
    assert response.status_code == 200
    assert len(response.headers["x-headrace-ignored"]) <= 1024


@pytest.mark.parametrize(
    "content", ["two\nparts", [{"type": "text", "text": "two"}, {"type": "text", "text": "parts"}]]
)
def test_text_parts_are_joined_by_a_newline(fake_server: FakeServer, content: object) -> None:
    server = fake_server()
    roles = ("system", "developer", "user", "assistant")
    messages = [{"role": role, "content": content} for role in roles]
    messages.append({"role": "tool", "content": content, "tool_call_id": "a"})
    assert server.post(CHAT, {"model": "fake", "messages": messages}).status_code == 200
    conversation = server.backend.conversations[0]  # type: ignore[attr-defined]  # a FakeBackend
    assert [message.role for message in conversation.messages] == [*roles, "tool"]
    assert {message.text for message in conversation.messages} == {"two\nparts"}


def test_members_reach_the_backend(fake_server: FakeServer) -> None:
    server = fake_server()
    members = {"max_completion_tokens": 7, "temperature": 0, "top_p": 0.5, "seed": -5, "stop": "END", "n": 2}
    extensions = {"top_k": -1, "min_p": 0.1, "ignore_eos": True, "min_tokens": 3, "max_tokens": 7}
    server.post(CHAT, {**SMALL[CHAT], **members, **extensions})
    request = server.backend.requests[0]  # type: ignore[attr-defined]  # a FakeBackend
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.seed) == (7, 0, 0.5, -5)
    assert (sampling.stop, request.n, sampling.top_k, sampling.min_p) == (("END",), 2, 0, 0.1)
    assert (sampling.ignore_eos, sampling.min_tokens) == (True, 3)


def test_defaults_are_openais(fake_server: FakeServer) -> None:
    server = fake_server()
    server.post(CHAT, SMALL[CHAT])
    server.post(COMPLETIONS, SMALL[COMPLETIONS])
    chat, completion = server.backend.requests  # type: ignore[attr-defined]  # a FakeBackend
    assert (chat.sampling.max_tokens, completion.sampling.max_tokens) == (None, 16)
    assert (chat.n, chat.sampling.temperature, chat.sampling.stop) == (1, None, ())
