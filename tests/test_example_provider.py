"""The provider of docs/adding-a-provider.md, in a package of its own that registers it as is said there."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from headrace.app import create_app
from headrace.assembly import build_providers
from headrace.backends.ollama import OllamaBackend
from headrace.config import Config, load
from headrace.errors import ConfigError
from tests.serving import Served, eventually, serving
from tests.upstream import Answer, Upstream, answer, scripted

ROOT = Path(__file__).parent.parent
TOOL = {"type": "function", "function": {"name": "f"}}
FORMAT = {"type": "json_schema", "name": "x", "schema": {"type": "object"}}
LINES = [{"text": "Grü"}, {"text": "ße"}, {"ended": "stop", "read": 7, "written": 2}]


def said(*lines: object, **members: object) -> Answer:
    pieces = [json.dumps(line).encode() + b"\n" for line in lines]
    return Answer(200, {"Content-Type": "application/x-ndjson"}, pieces, **members)  # type: ignore[arg-type]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with scripted() as upstream:
        upstream.always("/models", answer({"models": ["m"]}))
        yield upstream


def install(folder: Path, lines: str, source: str) -> None:
    """A package as pip leaves it: its module, and beside it what it says of itself. `lines`: of
    entry_points.txt.
    """
    (folder / "headrace_plain.py").write_text(source)
    info = folder / "headrace_plain-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: headrace-plain\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(lines)


def registered() -> str:
    """What docs/adding-a-provider.md has a package say, as entry_points.txt."""
    blocks = re.findall("```toml\n(.*?)```", (ROOT / "docs" / "adding-a-provider.md").read_text(), re.S)
    groups = tomllib.loads(blocks[0])["project"]["entry-points"]
    return "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in groups.items()
    )


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the installed package."""
    install(tmp_path, registered(), (ROOT / "examples" / "provider.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("headrace_plain", None)


@pytest.fixture
def server(upstream: Upstream, package: Path) -> Iterator[Served]:
    file = package / "headrace.toml"
    file.write_text(
        f'[providers.p]\nkind = "plain"\nbase_url = "{upstream.url}"\napi_key = "secret-of-plain"\n'
    )
    config = load(flags={}, environment={}, file=file).config
    with serving(create_app(config, build_providers(config))) as served:
        eventually(lambda: served.gateway.router.models())
        yield served


def test_it_answers_whole_and_streamed(server: Served, upstream: Upstream) -> None:
    upstream.play(said(*LINES), said(*LINES))
    messages = [{"role": "user", "content": "hi"}]
    with server.client() as client:
        assert [model.id for model in client.models.list()] == ["p:m"]
        members = {"model": "p:m", "messages": messages, "max_tokens": 9, "stop": ["x"], "temperature": 0.5}
        whole = client.chat.completions.create(**members)  # type: ignore[call-overload]
        chunks = list(client.chat.completions.create(**members, stream=True))  # type: ignore[call-overload]
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


def test_its_failures_are_reported(server: Served, upstream: Upstream) -> None:
    upstream.play(
        said(LINES[0], {"failed": "no more heat"}), said(LINES[0]), said([1]), answer({}, status=429)
    )
    ask = {"model": "p:m", "messages": [{"role": "user", "content": "hi"}]}
    errors = [server.post("/v1/chat/completions", ask).json()["error"] for _ in range(4)]
    assert [error["code"] for error in errors] == [*["provider_error"] * 3, "rate_limit_exceeded"]
    assert "no more heat" in errors[0]["message"]
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
    request = {"model": "p:m", "messages": [{"role": "user", "content": "hi"}], name: value}
    refused = server.post("/v1/chat/completions", request).json()["error"]
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


def test_what_it_does_not_carry_is_named_or_refused_in_every_dialect(
    server: Served, upstream: Upstream
) -> None:
    upstream.play(said(*LINES), said(*LINES))
    hi = [{"role": "user", "content": "hi"}]
    chat = {"model": "p:m", "messages": [{**hi[0], "name": "ann"}], "user": "me", "novelty": 1}
    answer = server.post("/v1/chat/completions", chat)
    assert answer.headers["x-headrace-ignored"] == "user, messages.0.name, novelty"
    messages = {"model": "p:m", "messages": hi, "max_tokens": 9}
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    answer = server.post("/v1/messages", {**messages, **thinking})
    assert answer.status_code == 200
    assert answer.headers["x-headrace-ignored"] == "thinking, thinking.budget_tokens"
    assert len(upstream.posts) == 2
    response = {"model": "p:m", "input": "hi"}
    refused = [
        ("/v1/chat/completions", {**chat, "tools": [TOOL]}, "tools"),
        ("/v1/chat/completions", {**chat, "response_format": {"type": "json_object"}}, "response_format"),
        ("/v1/messages", {**messages, "tools": [{"name": "f", "input_schema": {}}]}, "tools"),
        ("/v1/responses", {**response, "text": {"format": FORMAT}}, "text.format"),
        ("/v1/responses", {**response, "reasoning": {"effort": "low"}}, "reasoning.effort"),
        ("/v1/completions", {"model": "p:m", "prompt": "hi"}, "prompt"),
    ]
    for path, body, param in refused:
        answered = server.post(path, body)
        assert answered.status_code == 400, path
        if path != "/v1/messages":
            assert answered.json()["error"]["param"] == param
        else:
            assert param in answered.json()["error"]["message"]
    assert len(upstream.posts) == 2


def configured(folder: Path, kind: str) -> Config:
    file = folder / "headrace.toml"
    file.write_text(f"[providers.p]\nkind = {kind!r}\n")
    return load(flags={}, environment={}, file=file).config


def test_a_package_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "[headrace.providers]\nbroken = headrace_plain:Nothing\n", "")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="'broken' need headrace_plain:Nothing"):
        build_providers(configured(tmp_path, "broken"))
    with pytest.raises(ConfigError, match="'fake', 'broken'"):
        configured(tmp_path, "unheard-of")
    sys.modules.pop("headrace_plain", None)


def test_a_kind_of_headraces_own_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "[headrace.providers]\nollama = headrace_plain:Nothing\n", "")
    monkeypatch.syspath_prepend(tmp_path)
    (backend,) = build_providers(configured(tmp_path, "ollama"))
    assert isinstance(backend, OllamaBackend)
