"""The official client beside itself: what it reads from the scripted provider directly, and what it reads
through Headrace in front of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import openai

from headrace.app import create_app
from headrace.backends.openai import OpenAIBackend
from headrace.config import Config, ProviderConfig
from tests.serving import Served, serving
from tests.upstream import Answer, Upstream, answer, scripted

T = TypeVar("T")
KEY = "sk-very-secret-0123456789"
MESSAGES: Any = [{"role": "user", "content": "hi"}]


@dataclass
class Both:
    """A provider, Headrace in front of it, and a client of each."""

    provider: Upstream
    served: Served
    direct: openai.OpenAI
    client: openai.OpenAI

    def same(self, see: Callable[[openai.OpenAI], T], played: Answer) -> T:
        """What both clients see when the provider answers so."""
        self.provider.play(played, played)
        seen = see(self.direct)
        assert see(self.client) == seen
        return seen

    def same_stream(self, played: Answer, **members: Any) -> Seen:
        self.provider.play(played, played)
        direct, through = streamed(self.direct, **members), streamed(self.client, **members)
        assert through == direct
        return direct

    def through(self, see: Callable[[openai.OpenAI], T], *played: Answer) -> T:
        self.provider.play(*played)
        return see(self.client)


@contextmanager
def both_of(*, timeout_s: float = 60.0, is_relayed: bool = False) -> Iterator[Both]:
    """`is_relayed`: the client's requests are passed on; else they are translated, as strict ones are."""
    with scripted() as provider:
        provider.always("/v1/models", answer({"object": "list", "data": [{"id": "m"}, {"id": "other"}]}))
        config = ProviderConfig(
            kind="openai",
            base_url=provider.url + "/v1",
            models=("m",),
            timeout_s=timeout_s,
            headers={"X-Own": "1"},
            roles="openai",
        )
        direct = openai.OpenAI(base_url=provider.url + "/v1", api_key="x", max_retries=0, timeout=20)
        app = create_app(Config(), [OpenAIBackend("p", config, KEY)])
        headers = {} if is_relayed else {"X-Headrace-Strict": "true"}
        with direct, serving(app) as served, served.client() as made:
            yield Both(provider, served, direct, made.with_options(default_headers=headers))


@dataclass
class Seen:
    """What a client makes of a stream."""

    choices: dict[int, dict[str, Any]]
    usage: dict[str, int] | None


def chunk(delta: dict[str, Any] | None = None, reason: str | None = None, **more: Any) -> dict[str, Any]:
    """`more`: of the choice."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": reason, **more}
    return head(choices=[choice])


def head(**members: Any) -> dict[str, Any]:
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", **members}


USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 5,
    "total_tokens": 25,
    "prompt_tokens_details": {"cached_tokens": 16},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
TEXT = [chunk({"role": "assistant", "content": ""}), chunk({"content": "Grü"}), chunk({"content": "ße 🌊"})]
STOP = chunk(reason="stop")
COUNTED = head(choices=[], usage=USAGE)
END = [STOP, COUNTED, "[DONE]"]


def streamed(client: openai.OpenAI, **members: Any) -> Seen:
    return streamed_of(client, model="m", messages=MESSAGES, **members)


def streamed_of(client: openai.OpenAI, **members: Any) -> Seen:
    seen = Seen({}, None)
    body = {"stream_options": {"include_usage": True}, **members}
    with client.chat.completions.create(stream=True, **body) as stream:
        for one in stream:
            seen.usage = counts(one.usage) or seen.usage
            for choice in one.choices or ():
                nothing: dict[str, Any] = {
                    "text": "",
                    "reasoning": "",
                    "calls": {},
                    "reason": None,
                    "logprobs": [],
                }
                _put(seen.choices.setdefault(choice.index, nothing), choice)
    return seen


def _put(seen: dict[str, Any], choice: Any) -> None:
    delta = choice.delta
    seen["text"] += delta.content or ""
    seen["reasoning"] += getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None) or ""
    for piece in delta.tool_calls or ():
        call = seen["calls"].setdefault(piece.index, {"id": [], "name": [], "arguments": ""})
        call["id"] += [piece.id] if piece.id else []
        call["name"] += [piece.function.name] if piece.function.name else []
        call["arguments"] += piece.function.arguments or ""
    seen["reason"] = choice.finish_reason or seen["reason"]
    if choice.logprobs:
        seen["logprobs"] += [token.model_dump() for token in choice.logprobs.content]


def counts(usage: Any) -> dict[str, int] | None:
    """The numbers; details that say nothing are zeros."""
    if usage is None:
        return None
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return {
        "prompt": usage.prompt_tokens,
        "completion": usage.completion_tokens,
        "total": usage.total_tokens,
        "cached": (prompt.cached_tokens if prompt else 0) or 0,
        "reasoning": (completion.reasoning_tokens if completion else 0) or 0,
    }
