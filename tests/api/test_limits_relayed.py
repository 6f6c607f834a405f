"""Requests of keys with limits that are passed on: the limit of an answer is added where there is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.relays import CHUNK, HI, STOP, USAGE, WHOLE, Relays, relays
from tests.serving import eventually
from tests.upstream import Answer, answer, sse

CHAT, BOSS = "/v1/chat/completions", {"Authorization": "Bearer boss"}
LIMIT = 1000  # tokens a minute
STREAM = Answer(pieces=sse(CHUNK, STOP, {"id": "c", "choices": [], "usage": USAGE}, "[DONE]"))
TELLING = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture(scope="module")
def shared() -> Iterator[Relays]:
    with relays(admin_keys=["boss"]) as made:
        yield made


@pytest.fixture
def limited(shared: Relays) -> Relays:
    shared.provider.forget()
    return shared


def ask(relay: Relays, own: dict[str, str], **members: object) -> tuple[int, int, dict[str, Any]]:
    """The status, the tokens that were left when the request began, and what the provider has got."""
    body = json.dumps({"model": "up:m", "messages": HI, "own": 1, **members}).encode()
    status, headers, _ = relay.ask(CHAT, body, **own)
    return status, int(headers["x-ratelimit-remaining-tokens"]), relay.provider.posts[-1].body


def key(relay: Relays) -> dict[str, str]:
    limits = {"name": "n", "limits": {"tokens_per_minute": LIMIT}}
    made = relay.served.post("/v1/admin/keys", limits, headers=BOSS).json()
    return {"Authorization": f"Bearer {made['value']}"}


@pytest.mark.parametrize("members", [{}, TELLING, {"max_tokens": None}, {"n": 2}], ids=str)
def test_an_answer_without_a_limit_gets_what_is_left(limited: Relays, members: dict[str, Any]) -> None:
    own = key(limited)
    limited.provider.play(*[STREAM if "stream" in members else answer(WHOLE)] * 9)
    status, _, sent = ask(limited, own, **members)
    assert status == 200
    assert sent["own"] == 1, "it was not passed on"
    assert sent.get("stream") == members.get("stream")
    prompt = LIMIT - sent["max_tokens"] * members.get("n", 1)
    assert 15 <= prompt <= 60

    # What it has not used is given back: the provider has told its usage.
    eventually(lambda: ask(limited, own, max_tokens=10)[1] > LIMIT - 25 - 2 * 60)


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"x": 1}], ids=str)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_stream_is_asked_for_its_usage_which_its_caller_does_not_get(
    limited: Relays, options: dict[str, Any] | None, size: int
) -> None:
    own, raw = key(limited), b"".join(sse(CHUNK, STOP, {"id": "c", "choices": [], "usage": USAGE}, "[DONE]"))
    limited.provider.play(Answer(pieces=[raw[at : at + size] for at in range(0, len(raw), size)]))
    body = json.dumps({"model": "up:m", "messages": HI, "stream": True, "stream_options": options, "own": 1})
    status, _, content = limited.ask(CHAT, body.encode(), **own)
    assert (status, content) == (200, b"".join(sse(CHUNK, STOP, "[DONE]")))
    sent = limited.provider.posts[-1].body
    assert sent["stream_options"] == {**(options or {}), "include_usage": True}
    assert (sent["own"], 0 < sent["max_tokens"] < LIMIT) == (1, True)
    limited.provider.play(answer(WHOLE))
    eventually(lambda: ask(limited, own, max_tokens=10)[1] > LIMIT - 25 - 2 * 60)


@pytest.mark.parametrize("is_json", [False, True])
def test_the_stream_of_a_key_without_limits_is_counted_too(limited: Relays, is_json: bool) -> None:
    made = limited.served.post("/v1/admin/keys", {"name": "free"}, headers=BOSS).json()
    own = {"Authorization": f"Bearer {made['value']}"}
    limited.provider.play(answer({**WHOLE, "usage": USAGE}) if is_json else STREAM)
    body = json.dumps({"model": "up:m", "messages": HI, "stream": True}).encode()
    status, _, content = limited.ask(CHAT, body, **own)
    assert (status, b"usage" in content) == (200, False)
    assert content.endswith(b"data: [DONE]\n\n")
    assert limited.provider.posts[-1].body["stream_options"] == {"include_usage": True}
    assert counted(limited, made["id"]) == (USAGE["prompt_tokens"], USAGE["completion_tokens"])


REFUSED = {
    "FastAPI": (
        422,
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra"}]},
    ),
    "its member": (400, {"error": {"message": "include_usage is not supported"}}),
    "an exception": (500, {"error": "TypeError: unexpected keyword argument 'stream_options'"}),
    "501": (501, {"error": {"message": "stream_options is not implemented"}}),
    "words": (400, {"error": {"message": "Unknown parameter: 'stream_options'."}}),
    "200": (200, {"error": {"message": "Unknown parameter: 'stream_options'."}}),
    "200 and no error object": (200, {"code": 1210, "message": "stream_options is not allowed"}),
}


@pytest.mark.parametrize("form", [*REFUSED, "an event of a stream"])
@pytest.mark.parametrize("is_relayed", [True, False])
def test_a_provider_that_reports_no_usage_is_asked_without(form: str, is_relayed: bool) -> None:
    status, error = REFUSED.get(form, REFUSED["200"])
    refusal = answer(error, status=status) if form in REFUSED else Answer(pieces=sse(error))
    with relays(admin_keys=["boss"]) as relay:
        relay.provider.play(refusal, *[Answer(pieces=sse(CHUNK, STOP, "[DONE]"))] * 2)
        own = BOSS if is_relayed else {**BOSS, "X-Headrace-Strict": "true"}
        body = json.dumps({"model": "up:m", "messages": HI, "stream": True}).encode()
        for _ in range(2):
            found, _, content = relay.ask(CHAT, body, **own)
            assert (found, b"error" in content, b"[DONE]" in content) == (200, False, True)
        sent = ["stream_options" in post.body for post in relay.provider.posts]
        assert sent == [True, False, False]


def test_what_a_stream_without_usage_has_cost_is_in_the_usage(limited: Relays) -> None:
    """Else a restart, which reads the budget's use from there, gives it back."""
    limits = {"name": "b", "limits": {"total_tokens": LIMIT}}
    made = limited.served.post("/v1/admin/keys", limits, headers=BOSS).json()
    limited.provider.play(Answer(pieces=sse(CHUNK, STOP, "[DONE]")))
    body = json.dumps({"model": "up:m", "messages": HI, "stream": True, "max_tokens": 30}).encode()
    status, _, _ = limited.ask(CHAT, body, Authorization=f"Bearer {made['value']}")
    assert (status, counted(limited, made["id"])[1]) == (200, 30)


@pytest.mark.parametrize("priority", [-5, -(2**62), "-5", -1e9])
def test_a_priority_before_others_is_passed_on_for_keys_that_may_hurry_only(
    limited: Relays, priority: object
) -> None:
    body = json.dumps({"model": "up:m", "messages": HI, "priority": priority}).encode()
    limited.provider.play(answer(WHOLE), answer(WHOLE))
    status, _, _ = limited.ask(CHAT, body, **BOSS)
    assert (status, limited.provider.posts[-1].body["priority"]) == (200, priority)
    posts = len(limited.provider.posts)
    status, _, _ = limited.ask(CHAT, body, **key(limited))
    assert status == (200 if isinstance(priority, int) else 400)
    assert all("priority" not in post.body for post in limited.provider.posts[posts:])


def counted(relay: Relays, id: str) -> tuple[int, int]:
    """The tokens of prompts and answers in a key's usage."""

    def results() -> list[dict[str, int]]:
        page = relay.served.get(f"/v1/usage?api_key_id={id}", BOSS).json()
        return page["data"][0]["results"] if page["data"] else []

    eventually(lambda: bool(results()))
    (found,) = results()
    return found["input_tokens"], found["output_tokens"]


def test_usage_beside_text_reaches_the_caller(limited: Relays) -> None:
    last = {**STOP, "usage": USAGE}
    limited.provider.play(Answer(pieces=sse({**CHUNK, "usage": None}, last, "[DONE]")))
    body = json.dumps({"model": "up:m", "messages": HI, "stream": True}).encode()
    _, _, content = limited.ask(CHAT, body, **key(limited))
    assert content == b"".join(sse({**CHUNK, "usage": None}, last, "[DONE]"))


@pytest.mark.parametrize(
    "members", [{"n": "2"}, {"n": True}, {"stream": True, "stream_options": "x"}], ids=str
)
def test_what_cannot_be_counted_is_not_passed_on(limited: Relays, members: dict[str, Any]) -> None:
    before = len(limited.provider.posts)
    body = json.dumps({"model": "up:m", "messages": HI, **members}).encode()
    status, _, _ = limited.ask(CHAT, body, **key(limited))
    assert (status, len(limited.provider.posts)) == (400, before)
