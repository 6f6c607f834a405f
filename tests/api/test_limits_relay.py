"""Limits of keys for requests that are passed on to a provider in their own dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.relays import HI, STREAM, USAGE, WHOLE, Relays, relays
from tests.distance import distant
from tests.upstream import Answer, answer
from tests.valkey import valkey

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
LAST = Answer(pieces=STREAM.pieces, stall=True)  # the connection stays open after the last event


@pytest.fixture(scope="module")
def limited() -> Iterator[Relays]:
    with relays(admin_keys=["boss"]) as found:
        yield found


def key(found: Relays, **limits: int) -> dict[str, str]:
    boss = {"Authorization": "Bearer boss"}
    made = found.served.post("/v1/admin/keys", {"name": "n", "limits": limits}, headers=boss)
    return {"Authorization": f"Bearer {made.json()['value']}"}


def chat_body(**members: object) -> bytes:
    return json.dumps({"model": "up:m", "messages": HI, **members}).encode()


def test_the_providers_own_count_settles_what_was_reserved(limited: Relays) -> None:
    headers = key(limited, tokens_per_minute=100)
    for left in ("75", "50"):
        limited.provider.play(answer(WHOLE))
        status, _, _ = limited.ask(CHAT, chat_body(max_tokens=20), **headers)
        assert status == 200
        probe = limited.served.post(CHAT, content=chat_body(max_tokens=10**6), headers=headers)
        assert probe.status_code == 429
        assert probe.headers["x-ratelimit-remaining-tokens"] == left
    assert json.loads(limited.provider.posts[-1].raw)["max_tokens"] == 20
    status, found, _ = limited.ask(CHAT, chat_body(max_tokens=60), **headers)
    assert (status, found["x-ratelimit-remaining-tokens"]) == (429, "50")
    assert USAGE["total_tokens"] == 25


def test_an_answer_without_a_limit_is_limited_to_what_is_left(limited: Relays) -> None:
    headers = key(limited, tokens_per_minute=1000)
    limited.provider.play(STREAM)
    status, found, _ = limited.ask(CHAT, chat_body(stream=True), **headers)
    assert (status, found["x-ratelimit-limit-tokens"]) == (200, "1000")
    sent = json.loads(limited.provider.posts[-1].raw)
    assert 900 < (sent.get("max_tokens") or sent["max_completion_tokens"]) < 1000


def test_a_stream_whose_provider_reports_no_usage_costs_what_it_reserved(limited: Relays) -> None:
    headers = key(limited, tokens_per_minute=100, concurrent_requests=1)
    limited.provider.play(STREAM)
    status, found, _ = limited.ask(CHAT, chat_body(stream=True, max_tokens=30), **headers)
    assert status == 200
    first = int(found["x-ratelimit-remaining-tokens"])
    assert 20 < first <= 70
    limited.provider.play(STREAM)
    _, found, _ = limited.ask(CHAT, chat_body(stream=True, max_tokens=1), **headers)
    assert int(found["x-ratelimit-remaining-tokens"]) < first


@pytest.mark.parametrize(
    ("path", "members"),
    [
        (CHAT, {"max_tokens": -1}),  # some providers take it for no limit
        (CHAT, {"max_tokens": -1000, "n": 50}),
        (CHAT, {"max_tokens": 5, "max_completion_tokens": 1e6}),
        (CHAT, {"max_tokens": 5, "max_completion_tokens": -1}),
        (CHAT, {"max_tokens": 20, "n": 100}),
        ("/v1/completions", {"prompt": ["a"] * 100, "max_tokens": 20}),
        ("/v1/completions", {"prompt": [[1, 2]] * 100, "max_tokens": 20}),
        ("/v1/completions", {"prompt": "a", "max_tokens": 20, "best_of": 100}),
        ("/v1/completions", {"prompt": "a", "max_tokens": -1, "best_of": 100}),
    ],
)
def test_no_body_gets_more_than_its_key_has(limited: Relays, path: str, members: dict[str, object]) -> None:
    """No request reaches the provider: its answers may be longer, or the body does not say how long."""
    headers = key(limited, tokens_per_minute=1000)
    own = {"prompt": members["prompt"]} if "prompt" in members else {"messages": HI}
    before = len(limited.provider.posts)
    answered = limited.served.post(path, {"model": "up:m", **own, **members}, headers=headers)
    assert answered.status_code in (400, 429), answered.text
    assert len(limited.provider.posts) == before


def test_a_whole_answer_says_what_its_own_usage_leaves(limited: Relays) -> None:
    """Not what is left beside its reservation, which is over: without max_tokens that would be nothing."""
    headers = key(limited, tokens_per_minute=1000)
    limited.provider.play(answer(WHOLE))
    status, found, _ = limited.ask(CHAT, chat_body(), **headers)
    assert (status, found["x-ratelimit-remaining-tokens"]) == (200, "975")


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_caller_who_has_read_an_answer_may_send_the_next_request(tmp_path: Path, is_streamed: bool) -> None:
    """What an answer had reserved is free before its end is sent, also where Redis is far away."""
    with (
        valkey(tmp_path) as server,
        distant(server.port) as port,
        relays(redis_url=f"redis://127.0.0.1:{port}/0", admin_keys=["boss"]) as found,
    ):
        headers = key(found, concurrent_requests=1)
        for _ in range(12):
            found.provider.play(STREAM if is_streamed else answer(WHOLE))
            status, _, body = found.ask(CHAT, chat_body(stream=is_streamed), **headers)
            assert status == 200, body


def test_a_stream_is_settled_before_its_last_event(limited: Relays) -> None:
    """Its provider leaves the connection open, so that the end of the answer comes later."""
    headers = key(limited, concurrent_requests=1)
    for _ in range(5):
        limited.provider.play(LAST)
        with limited.served.http.stream(
            "POST", CHAT, content=chat_body(stream=True), headers={**headers, **JSON}
        ) as stream:
            assert stream.status_code == 200, stream.read()
            for line in stream.iter_lines():
                if line == "data: [DONE]":
                    break
            limited.provider.play(answer(WHOLE))
            status, _, body = limited.ask(CHAT, chat_body(), **headers)
            assert status == 200, body
