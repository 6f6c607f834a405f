"""Headrace in front of one scripted provider that is spoken to in every dialect: what is written to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from headrace.app import create_app
from headrace.assembly import build_providers
from headrace.config import Config
from tests.serving import Served, serving
from tests.upstream import Answer, Seen, Upstream, answer, scripted, sse

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
HI: Any = [{"role": "user", "content": "hi"}]
STREAM = sse(
    {"choices": [{"index": 0, "delta": {"content": "ok"}}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    "[DONE]",
)
WHOLE: Any = {
    "id": "c",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
}


STRICT = {"X-Headrace-Strict": "true"}
DOWN = answer({"error": {"message": "down"}}, status=503)
PNG = "iVBORw0KGgo="
IMAGE_URL: Any = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
BLOCK = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
TOOL = [{"name": "f", "input_schema": SCHEMA}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]


def names(headers: Any) -> list[str]:
    """What X-Headrace-Ignored names."""
    return [name for name in headers.get("x-headrace-ignored", "").split(", ") if name]


def calling(arguments: str = "{}", name: str = "f", id: str = "c1") -> dict[str, Any]:
    """An assistant's message of a chat with one call."""
    call = {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def shown(*content: Any, after: Any = ()) -> list[Any]:
    """In Anthropic's dialect: two calls, whose results hold these blocks."""
    uses = [{"type": "tool_use", "id": f"c{at}", "name": "f", "input": {}} for at in (1, 2)]
    results = [
        {"type": "tool_result", "tool_use_id": "c1", "content": list(content)},
        {"type": "tool_result", "tool_use_id": "c2", "content": "plain"},
    ]
    return [*HI, {"role": "assistant", "content": uses}, {"role": "user", "content": [*results, *after]}]


Block = tuple[dict[str, Any], list[dict[str, Any]]]


def anthropic_events(*blocks: Block, stop: str = "end_turn") -> list[bytes]:
    """A stream of these blocks, each with its deltas."""
    events: list[Any] = [
        {"type": "message_start", "message": {"type": "message", "content": [], "usage": {"input_tokens": 1}}}
    ]
    for index, (block, deltas) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    events.append({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 1}})
    return sse(*((event["type"], event) for event in [*events, {"type": "message_stop"}]))


OK = anthropic_events(({"type": "text", "text": ""}, [{"type": "text_delta", "text": "ok"}]))
LINE = {"model": "m", "message": {"role": "assistant", "content": "ok"}, "done": True, "done_reason": "stop"}
NDJSON = {"Content-Type": "application/x-ndjson"}


def usual(seen: Seen) -> Answer:
    """What the provider answers unless something is scripted."""
    if seen.path == "/v1/messages":
        if seen.body.get("stream"):
            return Answer(pieces=OK)
        return answer({"type": "message", "content": [{"type": "text", "text": "ok"}], "usage": {}})
    if seen.path == "/api/chat":
        return Answer(headers=NDJSON, pieces=[json.dumps(LINE).encode() + b"\n"])
    if seen.path == "/api/show":
        abilities = ["completion", "tools"] + (["thinking"] if seen.body["model"] == "thinker" else [])
        return answer({"model_info": {"llama.context_length": 8192}, "capabilities": abilities})
    return Answer(pieces=STREAM) if seen.body.get("stream") else answer(WHOLE)


@dataclass(frozen=True, slots=True)
class Written:
    provider: Upstream
    served: Served

    def ask(
        self, path: str, body: Mapping[str, Any], **headers: str
    ) -> tuple[int, Mapping[str, str], dict[str, Any]]:
        """Status, headers and body; of a stream, its text."""
        response = self.served.post(path, dict(body), headers=headers)
        whole = response.json() if "json" in response.headers["content-type"] else {"text": response.text}
        return response.status_code, response.headers, whole

    def play(self, *answers: Answer, path: str = "/v1/chat/completions") -> None:
        """The next answers of the provider there, instead of the usual."""
        self.provider.play(*answers, path=path)

    @property
    def last(self) -> dict[str, Any]:
        """The body of the last request to the provider."""
        body: dict[str, Any] = self.requests[-1].body
        return body

    @property
    def requests(self) -> list[Seen]:
        """Requests to the provider, without those about models."""
        return [seen for seen in self.provider.posts if seen.path != "/api/show"]


@contextmanager
def writing() -> Iterator[Written]:
    """`up`: a third party's OpenAI dialect; `own`: OpenAI's own API; `ce`, `an`, `ol`: the others; `fa`: a
    model here. Routes from each kind to another.
    """
    with scripted() as provider:
        provider.chooses = usual
        provider.always("/api/tags", answer({"models": []}))
        url = provider.url
        of_openai = {"base_url": url + "/v1", "api_key": "sk-secret-0123", "models": ["m"]}
        config = Config.model_validate(
            {
                "models": {"default": ""},
                "providers": {
                    "up": {"kind": "openai", **of_openai},
                    "own": {"kind": "openai", **of_openai, "roles": "openai"},
                    "ce": {"kind": "cerebras", **of_openai},
                    "an": {"kind": "anthropic", **of_openai, "models": ["claude-opus-4-1", "claude-opus-5"]},
                    "ol": {"kind": "ollama", "base_url": url, "models": ["m", "thinker"]},
                    "fa": {"kind": "fake", "models": ["m"]},
                },
                "routes": {
                    "up-an": {"targets": ["up:m", "an:claude-opus-4-1"], "retries": 0},
                    "an-up": {"targets": ["an:claude-opus-4-1", "up:m"], "retries": 0},
                    "up-ol": {"targets": ["up:m", "ol:m"], "retries": 0},
                    "ol-up": {"targets": ["ol:m", "up:m"], "retries": 0},
                },
            }
        )
        with serving(create_app(config, build_providers(config))) as served:
            yield Written(provider, served)
