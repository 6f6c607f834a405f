"""The provider of docs/adding-a-provider.md, registered in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from headrace.app import build_providers, create_app
from headrace.config import REMOTE, Config
from headrace.config.tables import Source, providers
from tests.serving import Served, eventually, serving
from tests.upstream import Answer, Upstream, answer, scripted

LINES = [{"text": "Grü"}, {"text": "ße"}, {"ended": "stop", "read": 7, "written": 2}]


def said(*lines: object, **members: object) -> Answer:
    pieces = [json.dumps(line).encode() + b"\n" for line in lines]
    return Answer(200, {"Content-Type": "application/x-ndjson"}, pieces, **members)  # type: ignore[arg-type]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with scripted() as upstream:
        upstream.always("/models", answer({"models": ["m"]}))
        yield upstream


@pytest.fixture
def server(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setitem(REMOTE, "plain", "examples.provider:PlainBackend")
    table = {"kind": "plain", "base_url": upstream.url, "api_key": "secret-of-plain"}
    found = providers({"p": table}, Source("headrace.toml", Path(), {}))
    config = Config(providers=found)
    with serving(create_app(config, build_providers(config))) as served:
        eventually(lambda: served.gateway.models())
        yield served


def test_it_answers_whole_and_streamed(server: Served, upstream: Upstream) -> None:
    upstream.play(said(*LINES), said(*LINES))
    messages = [{"role": "user", "content": "hi"}]
    with server.client() as client:
        assert [model.id for model in client.models.list()] == ["p:m"]
        given = {"model": "p:m", "messages": messages, "max_tokens": 9, "stop": ["x"], "temperature": 0.5}
        whole = client.chat.completions.create(**given)  # type: ignore[call-overload]
        chunks = list(client.chat.completions.create(**given, stream=True))  # type: ignore[call-overload]
    assert whole.choices[0].message.content == "Grüße"
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (7, 2)
    assert [chunk.choices[0].delta.content for chunk in chunks][-3:-1] == ["Grü", "ße"]
    seen = upstream.posts[0]
    assert seen.headers["authorization"] == "Bearer secret-of-plain"
    assert seen.body == {
        "model": "m",
        "turns": [["user", "hi"]],
        "limit": 9,
        "heat": 0.5,
        "until": ["x"],
    }


def test_its_failures_are_told(server: Served, upstream: Upstream) -> None:
    upstream.play(
        said(LINES[0], {"failed": "no more heat"}), said(LINES[0]), said([1]), answer({}, status=429)
    )
    ask = {"model": "p:m", "messages": [{"role": "user", "content": "hi"}]}
    told = [server.post("/v1/chat/completions", ask).json()["error"] for _ in range(4)]
    assert [error["code"] for error in told] == [*["provider_error"] * 3, "rate_limit_exceeded"]
    assert "no more heat" in told[0]["message"]
    refused = server.post("/v1/chat/completions", {**ask, "top_p": 0.5}).json()["error"]
    assert (refused["code"], refused["param"]) == ("unsupported_parameter", "top_p")
    assert len(upstream.posts) == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logit_bias", {"1": 5}),
        ("stop_token_ids", [1]),
        ("ignore_eos", True),
        ("min_tokens", 2),
        ("skip_special_tokens", False),
        ("truncate_prompt_tokens", 5),
        ("reasoning_effort", "low"),
        ("continue_final_message", True),
        ("add_generation_prompt", False),
        ("chat_template_kwargs", {"a": 1}),
    ],
)
def test_it_refuses_what_it_has_no_words_for(
    server: Served, upstream: Upstream, name: str, value: object
) -> None:
    asked = {"model": "p:m", "messages": [{"role": "user", "content": "hi"}], name: value}
    refused = server.post("/v1/chat/completions", asked).json()["error"]
    assert (refused["code"], refused["param"]) == ("unsupported_parameter", name)
    assert not upstream.posts


def test_leaving_closes_its_connection(server: Served, upstream: Upstream) -> None:
    upstream.play(said(LINES[0], stall=True))
    with server.client() as client:
        messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
        with client.chat.completions.create(model="p:m", messages=messages, stream=True) as stream:
            next(stream)
    eventually(lambda: upstream.posts[0].closed_at is not None)
    eventually(lambda: not server.gateway.num_active)
