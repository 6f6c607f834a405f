"""What becomes of members end to end, once for each pair of a caller's and a provider's dialect: one is
refused by the caller's own name, one is named as ignored, and one is in what the provider is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.api.test_responses_backends import KINDS, world
from tests.backends.test_ollama import END, GENERATE, lines
from tests.upstream import Answer

HI = [{"role": "user", "content": "hi"}]
MARKED = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
BODIES: dict[str, dict[str, Any]] = {
    "chat/completions": {"model": "m", "messages": HI},
    "completions": {"model": "m", "prompt": "hi"},
    "responses": {"model": "m", "input": "hi"},
    "messages": {"model": "m", "messages": HI, "max_tokens": 9},
}


@dataclass(frozen=True)
class Pair:
    """`refused` has one member that is; of `named` and `carried` together, `ignored` is in the header, and
    `sent(body)` is true of what the provider gets. `strict`: else the request would be passed on as it is.
    """

    caller: str
    provider: str
    refused: dict[str, Any]
    named: dict[str, Any]
    ignored: str | None
    carried: dict[str, Any]
    sent: Callable[[Any], bool]
    strict: bool = False


PAIRS = [
    Pair(
        "chat/completions", "openai", {"guided_regex": "a"}, {"detect_loops": True}, "detect_loops",
        {"min_p": 0.25}, lambda body: body["min_p"] == 0.25, strict=True,
    ),
    Pair(
        "chat/completions", "anthropic", {"seed": 1}, {"prompt_cache_key": "k"}, "prompt_cache_key",
        {"top_k": 5}, lambda body: body["top_k"] == 5,
    ),
    Pair(
        "chat/completions", "ollama", {"logit_bias": {"5": 1}}, {"user": "me"}, "user",
        {"seed": 3}, lambda body: body["options"]["seed"] == 3,
    ),
    Pair(
        "completions", "ollama", {"best_of": 2}, {"user": "me"}, "user",
        {"suffix": "z"}, lambda body: body["suffix"] == "z",
    ),
    Pair(
        "responses", "openai", {"guided_grammar": "start: \"a\""}, {"detect_loops": True}, "detect_loops",
        {"top_k": 5}, lambda body: body["top_k"] == 5, strict=True,
    ),
    Pair(
        "responses", "anthropic", {"frequency_penalty": 1}, {"service_tier": "flex"}, "service_tier",
        {"top_p": 0.5}, lambda body: body["top_p"] == 0.5,
    ),
    Pair(
        "responses", "ollama", {"min_tokens": 2}, {"user": "me"}, "user",
        {"presence_penalty": 1}, lambda body: body["options"]["presence_penalty"] == 1,
    ),
    Pair(
        "messages", "openai", {"seed": 1}, {"system": MARKED}, "system.0.cache_control",
        {"metadata": {"user_id": "me"}}, lambda body: body["user"] == "me",
    ),
    Pair(
        "messages", "anthropic", {"logit_bias": {"5": 1}}, {}, None,
        {"thinking": {"type": "disabled"}}, lambda body: "hi" in str(body["messages"]), strict=True,
    ),
    Pair(
        "messages", "ollama", {"messages": [*HI, {"role": "assistant", "content": "yes"}]},
        {"metadata": {"user_id": "me"}}, "metadata",
        {"stop_sequences": ["END"]}, lambda body: body["options"]["stop"] == ["END"],
    ),
]  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.caller}-{pair.provider}")
def test_members_of_one_dialect_at_a_provider_of_another(pair: Pair) -> None:
    make, path, _, says, *_ = KINDS[pair.provider]
    answer: Answer = says()
    if pair.caller == "completions":
        path, answer = GENERATE, lines({"response": "x", **END})
    headers = {"X-Headrace-Strict": "true"} if pair.strict else {}
    with world(make) as (upstream, server):
        upstream.play(answer, path=path)
        url, body = f"/v1/{pair.caller}", BODIES[pair.caller]
        refused = server.post(url, {**body, **pair.refused}, headers=headers)
        assert refused.status_code == 400, refused.text
        (name,) = pair.refused
        error = refused.json()["error"]
        assert name in error["message"]
        assert pair.caller == "messages" or (error["code"], error["param"]) == ("unsupported_parameter", name)
        assert not [seen for seen in upstream.posts if seen.path == path]
        answered = server.post(url, {**body, **pair.named, **pair.carried}, headers=headers)
        assert answered.status_code == 200, answered.text
        assert answered.headers.get("x-headrace-ignored") == pair.ignored
        assert pair.sent(upstream.posts[-1].body)


def test_text_completions_of_a_provider_that_only_converses() -> None:
    with world(KINDS["anthropic"][0]) as (upstream, server):
        refused = server.post("/v1/completions", BODIES["completions"])
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt")
        assert not upstream.posts
