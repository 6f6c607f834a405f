"""A scripted provider behind each of the two dialects, and Headrace in front of both."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from headrace.app import create_app
from headrace.assembly import build_providers
from headrace.config import Config
from tests.serving import Served, eventually, serving
from tests.upstream import Answer, Upstream, answer, scripted, sse

KEY = "sk-very-secret-0123456789"
CALLERS = "caller-key-0123456789"
HI: Any = [{"role": "user", "content": "hi"}]
CHUNK = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": "Grüße"}}]}
STOP = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USAGE = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
WHOLE = {"id": "c", "choices": [{"index": 0, "message": {"content": "Grüße"}}], "usage": USAGE}
STREAM = Answer(pieces=sse(CHUNK, STOP, "[DONE]"))
MESSAGE: dict[str, Any] = {"type": "message", "content": [], "usage": {"input_tokens": 1, "output_tokens": 2}}
MESSAGES = sse(
    ("message_start", {"type": "message_start", "message": MESSAGE}),
    ("message_delta", {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 9}}),
    ("message_stop", {"type": "message_stop"}),
)


@dataclass(frozen=True, slots=True)
class Relays:
    provider: Upstream
    served: Served

    def ask(self, path: str, content: bytes, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
        sent = {"Authorization": f"Bearer {CALLERS}", **headers}
        response = self.served.post(path, content=content, headers=sent)
        return response.status_code, response.headers, response.content

    def begin(self, path: str, content: bytes) -> socket.socket:
        """Send a request, and read nothing of its answer."""
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {CALLERS}\r\n"
        connection = socket.create_connection(("127.0.0.1", self.served.port))
        length = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall((head + length).encode() + content)
        return connection


@pytest.fixture(scope="module")
def shared() -> Iterator[Relays]:
    """One server for a module, which may define another."""
    with relays() as found:
        yield found


@pytest.fixture
def relay(shared: Relays) -> Iterator[Relays]:
    """The module's server, whose provider has nothing to play, and which must be idle after the test."""
    shared.provider.forget()
    yield shared
    eventually(lambda: not shared.served.gateway.num_active)


@contextmanager
def relays(timeout_s: float = 60.0, redis_url: str = "", **server: object) -> Iterator[Relays]:
    """Providers `up` (OpenAI's dialect), `an` (Anthropic's), `ce` (Cerebras), at the same address."""
    with scripted() as provider:
        provider.always("/v1/models", answer({"object": "list", "data": [{"id": "m"}]}))
        common = {"api_key": KEY, "timeout_s": timeout_s, "models": ["m"]}
        of_openai = {**common, "base_url": provider.url + "/v1"}
        config = Config.model_validate(
            {
                "server": {"api_keys": [CALLERS], **server},
                "models": {"default": ""},
                "limits": {"redis_url": redis_url},
                "providers": {
                    "up": {**of_openai, "kind": "openai"},
                    "ce": {**of_openai, "kind": "cerebras"},
                    "an": {**common, "kind": "anthropic", "base_url": provider.url},
                    "fa": {"kind": "fake", "models": ["m"]},
                },
                "routes": {
                    "fast": {"targets": ["up:m", "ce:m"], "retries": 0},
                    "mixed": {"targets": ["up:m", "fa:m"], "retries": 0},
                    "long": {"targets": ["up:m", "fa:m"], "retries": 0, "fallback_on": ["context"]},
                    "longer": {"targets": ["up:m", "ce:m"], "retries": 0, "fallback_on": ["context"]},
                },
            }
        )
        with serving(create_app(config, build_providers(config))) as served:
            yield Relays(provider, served)
