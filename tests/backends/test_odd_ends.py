"""Ends and errors of Anthropic's and Ollama's dialects that their own servers do not send, but others do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from headrace.app import create_app
from headrace.assembly import build_providers
from headrace.config import Config
from tests.api.habits import hear
from tests.api.relays import CALLERS, KEY, Relays
from tests.heard import RELAYED, TRANSLATED
from tests.serving import serving
from tests.upstream import Answer, answer, scripted, sse

WAYS = {name: way for name, way in {**RELAYED, **TRANSLATED}.items() if name != "messages streamed"}
USAGE = {"input_tokens": 20, "output_tokens": 1}
START = {"type": "message_start", "message": {"type": "message", "content": [], "usage": USAGE}}
OPEN = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
TEXT = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}}
CLOSED = {"type": "content_block_stop", "index": 0}
STOP = {"type": "message_stop"}
SHAPES = [{"detail": "boom"}, {"code": 500, "message": "boom"}, {"errors": [{"message": "boom"}]}]


@pytest.fixture(scope="module")
def relay() -> Iterator[Relays]:
    """A provider of each dialect, at one address."""
    with scripted() as provider:
        provider.always("/api/show", answer({"capabilities": ["completion", "tools"]}))
        common = {"base_url": provider.url, "models": ["m"]}
        providers = {
            "an": {"kind": "anthropic", "api_key": KEY, **common},
            "ol": {"kind": "ollama", **common},
        }
        config = Config.model_validate(
            {"server": {"api_keys": [CALLERS]}, "models": {"default": ""}, "providers": providers}
        )
        with serving(create_app(config, build_providers(config))) as served:
            yield Relays(provider, served)


def ended(reason: str) -> Any:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 5}}


def of_anthropic(*events: Any) -> Answer:
    named = [(event["type"], event) if "type" in event else event for event in events[:-1]]
    return Answer(pieces=sse(*named, events[-1]))


def of_ollama(*lines: Any) -> Answer:
    return Answer(pieces=[json.dumps(line).encode() + b"\n" for line in lines])


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_g8_done_after_anthropics_reason_is_an_end(relay: Relays, way: Any) -> None:
    played = of_anthropic(START, OPEN, TEXT, CLOSED, ended("max_tokens"), "[DONE]")
    heard = hear(relay, way, played, model="an:m", path="/v1/messages")
    assert (heard.error, heard.text, heard.reason) == (None, "Hello", "length")


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_g4_done_without_a_reason_is_none(relay: Relays, way: Any) -> None:
    played = of_anthropic(START, OPEN, TEXT, CLOSED, "[DONE]")
    assert "in the middle" in (hear(relay, way, played, model="an:m", path="/v1/messages").error or "")


@pytest.mark.parametrize("reason", ["error", "abort", "network_error"])
@pytest.mark.parametrize("way", TRANSLATED.values(), ids=list(TRANSLATED))
def test_g4_a_stop_reason_that_tells_of_a_failure_is_one(relay: Relays, way: Any, reason: str) -> None:
    played = of_anthropic(START, OPEN, TEXT, CLOSED, ended(reason), STOP)
    assert hear(relay, way, played, model="an:m", path="/v1/messages").error is not None


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_g28_errors_of_other_shapes(relay: Relays, way: Any, shape: Any) -> None:
    done = {"message": {"content": ""}, "done": True, "done_reason": "stop"}
    heard = hear(
        relay, way, of_ollama({"message": {"content": "Hel"}}, shape, done), model="ol:m", path="/api/chat"
    )
    assert "boom" in (heard.error or "")
    played = of_anthropic(START, OPEN, TEXT, shape, ended("end_turn"), STOP)
    assert "boom" in (hear(relay, way, played, model="an:m", path="/v1/messages").error or "")


@pytest.mark.parametrize("way", TRANSLATED.values(), ids=list(TRANSLATED))
def test_g9_a_call_that_is_null_costs_nothing(relay: Relays, way: Any) -> None:
    lines = {"message": {"content": "Hello", "tool_calls": [None]}}, {"done": True, "done_reason": "stop"}
    assert hear(relay, way, of_ollama(*lines), model="ol:m", path="/api/chat").text == "Hello"
