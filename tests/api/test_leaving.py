"""A caller who leaves ends what was asked of a provider, on every endpoint, passed on or translated, whole or
streamed.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from headrace.app import create_app
from headrace.assembly import build_providers
from headrace.config import Config
from tests.api.anthropics import SMALL
from tests.backends.anthropic_wire import PLAIN
from tests.backends.two_ways import TEXT
from tests.serving import Served, eventually, serving
from tests.upstream import Answer, Upstream, scripted, sse

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TEXTS = sse({"choices": [{"index": 0, "text": "x", "finish_reason": None}]})
GENERATING: list[tuple[str, dict[str, Any], list[bytes]]] = [
    ("/up/v1/chat/completions", CHAT, sse(*TEXT)),
    ("/up/v1/completions", {"model": "m", "prompt": "hi"}, TEXTS),
    ("/up/v1/messages", {**SMALL, "model": "m"}, sse(*TEXT)),
    ("/claude/v1/messages", {**SMALL, "model": "m"}, sse(*PLAIN[:4])),
    ("/claude/v1/chat/completions", CHAT, sse(*PLAIN[:4])),
    ("/v1/chat/completions", {**CHAT, "model": "fast"}, sse(*TEXT)),
]
ONCE: list[tuple[str, dict[str, Any]]] = [
    ("/up/v1/embeddings", {"model": "m", "input": "hi"}),
    ("/claude/v1/messages/count_tokens", {"model": "m", "messages": SMALL["messages"]}),
]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with scripted() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def server(upstream: Upstream) -> Iterator[Served]:
    providers = {
        "up": {"kind": "openai", "base_url": f"{upstream.url}/v1", "models": ["m"]},
        "claude": {"kind": "anthropic", "base_url": upstream.url, "api_key": "x", "models": ["m"]},
    }
    routes = {"fast": {"targets": ["up:m"]}}
    config = Config.model_validate({"providers": providers, "routes": routes})
    with serving(create_app(config, build_providers(config))) as served:
        yield served


@pytest.mark.parametrize("strict", [False, True], ids=["passed on", "translated"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("path", "body", "pieces"), GENERATING, ids=[path for path, *_ in GENERATING])
def test_provider_sees_a_hang_up_in_mid_answer_at_once(
    server: Served,
    upstream: Upstream,
    path: str,
    body: dict[str, Any],
    pieces: list[bytes],
    stream: bool,
    strict: bool,
) -> None:
    upstream.play(Answer(pieces=pieces, stall=True))
    _leave(server, upstream, path, {**body, "stream": stream}, strict=strict, reads=stream)


@pytest.mark.parametrize("strict", [False, True], ids=["passed on", "translated"])
@pytest.mark.parametrize(
    ("path", "body"),
    [*ONCE, *((path, {**body, "stream": True}) for path, body, _ in GENERATING), (GENERATING[0][0], CHAT)],
)
def test_provider_sees_a_hang_up_before_its_answer_at_once(
    server: Served, upstream: Upstream, path: str, body: dict[str, Any], strict: bool
) -> None:
    if strict and path.endswith("count_tokens"):
        assert server.post(path, body, headers={"X-Headrace-Strict": "true"}).status_code == 400
        return  # nobody is asked: only what is passed on is counted there
    upstream.play(Answer(0, stall=True))
    _leave(server, upstream, path, body, strict=strict, reads=False)


def _leave(
    server: Served, upstream: Upstream, path: str, body: dict[str, Any], *, strict: bool, reads: bool
) -> None:
    """Ask, wait for the provider to have the question, and for the answer's beginning where it `reads`."""
    num_before = len(upstream.posts)
    with server.begin(path, body, {"X-Headrace-Strict": "true"} if strict else None) as connection:
        eventually(lambda: len(upstream.posts) > num_before)
        if reads:
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    seen = upstream.posts[num_before]
    eventually(lambda: seen.closed_at is not None)
    eventually(lambda: not server.gateway.num_active)


def test_a_caller_who_closes_its_half_of_the_connection_has_left(server: Served, upstream: Upstream) -> None:
    """As behind nginx: see docs/security.md."""
    path, body, pieces = GENERATING[0]
    upstream.play(Answer(pieces=pieces, stall=True))
    num_before = len(upstream.posts)
    with server.begin(path, {**body, "stream": True}) as connection:
        eventually(lambda: len(upstream.posts) > num_before)
        connection.shutdown(socket.SHUT_WR)
        eventually(lambda: upstream.posts[num_before].closed_at is not None)
        eventually(lambda: not server.gateway.num_active)
