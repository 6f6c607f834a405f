"""Limits of keys, through the server: what is reserved, what is settled, and what callers are told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import aiohttp
import pytest

from headrace.app import create_app
from headrace.assembly import build_backends
from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.errors import EngineFailed
from headrace.limits.memory import MemoryLimiter
from headrace.models.catalog import Model
from headrace.types import Finished, Usage
from tests.serving import Served, eventually, serving

KEYS = "/v1/admin/keys"
CHAT = "/v1/chat/completions"
BOSS = {"Authorization": "Bearer boss"}
CLIENTS = 200
SETTINGS = {"server": {"admin_keys": ["boss"]}, "prices": {"fake": {"prompt": 100, "completion": 1000}}}
END = Finished(0, "stop", Usage(4, 6))  # 10 tokens, of which the prompt "abcd" is 4


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(["x", END])


@pytest.fixture
def server(backend: FakeBackend) -> Iterator[Served]:
    failing = FakeBackend(["x"], error=EngineFailed("no"), id="failing", name="failing")
    with serving(create_app(Config.model_validate(SETTINGS), [backend, failing])) as served:
        yield served


def key(server: Served, **limits: float) -> dict[str, str]:
    """The header of a new key with these limits."""
    made = server.post(KEYS, {"name": "n", "limits": limits}, headers=BOSS)
    assert made.status_code == 200, made.text
    return {"Authorization": f"Bearer {made.json()['value']}"}


def body(**members: object) -> dict[str, object]:
    return {"model": "fake", "messages": [{"role": "user", "content": "abcd"}], "max_tokens": 6, **members}


def test_every_answer_says_what_is_left(server: Served) -> None:
    headers = key(server, requests_per_minute=3, tokens_per_minute=25)
    answer = server.post(CHAT, body(), headers=headers)
    assert answer.status_code == 200
    budget = {name: answer.headers[f"x-ratelimit-{name}"] for name in
            ("limit-requests", "remaining-requests", "limit-tokens", "remaining-tokens")}  # fmt: skip
    assert budget == {"limit-requests": "3", "remaining-requests": "2", "limit-tokens": "25",
                    "remaining-tokens": "15"}  # fmt: skip
    assert answer.headers["x-ratelimit-reset-tokens"].startswith("1m")
    with server.http.stream("POST", CHAT, json=body(stream=True), headers=headers) as stream:
        assert stream.headers["x-ratelimit-remaining-tokens"] == "5"
        stream.read()
    refused = server.post(CHAT, body(), headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert 50 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["x-ratelimit-remaining-tokens"] == "5"
    assert server.post(CHAT, body(max_tokens=1), headers=headers).status_code == 200
    assert server.post(CHAT, body(max_tokens=1), headers=headers).status_code == 429  # a fourth request
    assert "x-ratelimit-limit-tokens" not in server.post(CHAT, body(), headers=BOSS).headers


def test_an_answer_without_a_limit_gets_what_is_left(server: Served, backend: FakeBackend) -> None:
    headers = key(server, tokens_per_minute=25)
    assert server.post(CHAT, body(max_tokens=None), headers=headers).status_code == 200
    assert backend.requests[-1].sampling.max_tokens == 21
    assert server.post(CHAT, body(max_tokens=None, n=3), headers=headers).status_code == 200
    assert backend.requests[-1].sampling.max_tokens == 3  # (25 - 10 - 4) // 3
    assert server.post(CHAT, body(max_tokens=22), headers=headers).headers["x-should-retry"] == "false"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings", "/v1/messages", "/v1/responses"])
def test_every_endpoint_counts(server: Served, path: str) -> None:
    headers = key(server, requests_per_minute=1, tokens_per_minute=50)
    bodies: dict[str, dict[str, object]] = {
        "/v1/completions": {"prompt": "abcd", "max_tokens": 6},
        "/v1/embeddings": {"input": "abcd"},
        "/v1/messages": {"messages": [{"role": "user", "content": "abcd"}], "max_tokens": 6},
        "/v1/responses": {"input": "abcd", "max_output_tokens": 16},
    }
    assert server.post(path, {"model": "fake", **bodies[path]}, headers=headers).status_code == 200
    refused = server.post(path, {"model": "fake", **bodies[path]}, headers=headers)
    assert refused.status_code == 429, refused.text


def test_nothing_stays_reserved_after_an_error_a_refusal_or_a_hang_up(
    server: Served, backend: FakeBackend
) -> None:
    headers = key(server, tokens_per_minute=25, concurrent_requests=2)
    for _ in range(3):
        assert server.post(CHAT, body(model="failing"), headers=headers).status_code == 500
    for _ in range(3):
        assert server.post(CHAT, body(model="none"), headers=headers).status_code == 404
        assert server.post(CHAT, body(temperature=9), headers=headers).status_code == 400
    backend.delay_s = 30
    for _ in range(3):
        with server.http.stream("POST", CHAT, json=body(stream=True), headers=headers):
            pass
        eventually(lambda: not server.gateway.num_active)
    backend.delay_s = 0
    answer = server.post(CHAT, body(), headers=headers)
    assert answer.status_code == 200
    assert answer.headers["x-ratelimit-remaining-tokens"] == "15"
    limiter = server.app.state.limiter
    assert isinstance(limiter, MemoryLimiter)
    assert all(not account.num_running for account in limiter._accounts.values())


def test_a_budget_of_costs_is_used_up(server: Served) -> None:
    # a request costs 4 * 100 + 6 * 1000 millionths
    headers = key(server, total_cost=0.0128)
    for _ in range(2):
        assert server.post(CHAT, body(), headers=headers).status_code == 200
    refused = server.post(CHAT, body(), headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    (bucket,) = server.get("/v1/usage", headers).json()["data"]
    assert bucket["results"][0]["cost"] == pytest.approx(0.0128)


def test_a_budget_survives_a_restart(backend: FakeBackend) -> None:
    config = Config.model_validate(SETTINGS)
    with serving(create_app(config, [backend])) as first:
        headers = key(first, total_tokens=20)
        assert first.post(CHAT, body(), headers=headers).status_code == 200
    with serving(create_app(config, [backend])) as second:
        assert second.post(CHAT, body(), headers=headers).status_code == 200
        assert second.post(CHAT, body(), headers=headers).status_code == 429


def test_two_hundred_clients_get_no_more_than_a_hundred_tokens(small_model: Model) -> None:
    """With our engine, which counts prompts and answers exactly."""
    config = Config.model_validate(
        {"engine": {"kv_cache_bytes": "256MiB", "disk_cache_bytes": 0}, "server": {"admin_keys": ["boss"]}}
    )
    with serving(create_app(config, build_backends(config, [small_model]))) as served:
        headers = key(served, tokens_per_minute=100)

        async def ask(http: aiohttp.ClientSession, number: int) -> int:
            limit = {} if number % 5 == 0 else {"max_tokens": 1 + number % 9}
            sent = {"model": "small", "prompt": "the" * (4 + 4 * (number % 3)), **limit}
            async with http.post("/v1/completions", json=sent, headers=headers) as answer:
                found = await answer.json()
                assert answer.status in (200, 429), found
                return int(found["usage"]["total_tokens"]) if answer.status == 200 else 0

        async def crowd() -> list[int]:
            async with aiohttp.ClientSession(served.url, connector=aiohttp.TCPConnector(limit=0)) as http:
                return await asyncio.gather(*(ask(http, number) for number in range(CLIENTS)))

        used = asyncio.run(crowd())
        used += asyncio.run(crowd())
    assert 50 < sum(used) <= 100


@pytest.mark.parametrize("members", [{}, {"instruction": "Find what is wet. " * 20}], ids=["", "instruction"])
def test_what_a_model_is_asked_about_each_document_counts(
    small_model: Model, members: dict[str, str]
) -> None:
    """The question around a document is most of what is read."""
    config = Config.model_validate(
        {"engine": {"kv_cache_bytes": "64MiB", "disk_cache_bytes": 0}, "server": {"admin_keys": ["boss"]}}
    )
    with serving(create_app(config, build_backends(config, [small_model]))) as served:
        limit = 8000
        headers = key(served, tokens_per_minute=limit)
        body = {
            "model": small_model.name,
            "query": "water",
            "documents": ["a river", "a stone"] * 4,
            **members,
        }
        used = []
        for _ in range(8):
            answer = served.post("/v1/rerank", body, headers=headers)
            used.append(int(answer.json()["usage"]["total_tokens"]) if answer.status_code == 200 else 0)
            assert answer.status_code in (200, 429), answer.text
        assert limit / 3 < sum(used) <= limit
