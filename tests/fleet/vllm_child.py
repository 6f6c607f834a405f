"""A real vLLM as a child of ours: what comes through Headrace is what vLLM itself answers. `make test-vllm`
runs it; it prints what it saw.

    python -m tests.fleet.vllm_child PYTHON_OF_VLLM
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
from platformdirs import user_cache_path

from headrace.app import create_app
from headrace.backends.replicas import Replicas, started
from headrace.backends.vllm import VLLMBackend
from headrace.config import Config, ProviderConfig
from headrace.models.catalog import DEFAULT_MODEL, Cache, prepare
from tests.models.checkpoints import write_checkpoint
from tests.serving import Served, events, eventually, serving

KEY = "a-key-of-this-test"
START_S = 900.0
CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What color is the sky?"}],
    "temperature": 0,
    "max_tokens": 24,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA = {"type": "object", "properties": {"color": {"enum": ["red", "blue"]}}, "required": ["color"]}
BODIES: dict[str, dict[str, Any]] = {
    "chat": CHAT,
    "logprobs": {**CHAT, "logprobs": True, "top_logprobs": 2},
    "structured output": {
        **CHAT,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
    },
    "choice": {**CHAT, "structured_outputs": {"choice": ["red", "blue"]}},
    "tools": {**CHAT, "tools": [WEATHER], "tool_choice": "required", "max_tokens": 48},
}


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("headrace.access", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / DEFAULT_MODEL
        cache = Cache(user_cache_path("headrace", appauthor=False))
        write_checkpoint(prepare(DEFAULT_MODEL, cache), folder)
        args = (
            "--model", str(folder), "--served-model-name", "m", "--max-model-len", "512",
            "--dtype", "float32", "--enforce-eager", "--max-num-seqs", "4", "--enable-auto-tool-choice",
            "--tool-call-parser", "hermes",
        )  # fmt: skip
        provider = ProviderConfig(kind="vllm", python=sys.argv[1], args=args, api_key=KEY)
        config = Config.model_validate({"models": {"default": ""}, "providers": {"big": provider}})
        began = time.monotonic()
        with serving(create_app(config, [started("big", provider, VLLMBackend)])) as served:
            print(f"while it starts, /ready answers {served.get('/ready').json()}")
            eventually(lambda: served.get("/ready").status_code == 200, within_s=START_S)
            print(f"ready after {time.monotonic() - began:.0f} s")
            compare(served)
    return 0


def compare(served: Served) -> None:
    backend = served.backend
    assert isinstance(backend, Replicas)
    url = backend.members[0].backend.upstream.base_url
    with httpx2.Client(timeout=600, headers={"Authorization": f"Bearer {KEY}"}) as direct:
        for name, body in BODIES.items():
            expected = direct.post(f"{url}/chat/completions", json={**body, "model": "m"}).json()
            relayed = served.http.post(
                "/v1/chat/completions", json={**body, "model": "big:m"}, timeout=600
            ).json()
            assert _answer(relayed) == _answer(expected), (relayed, expected)
            print(f"{name}: the same: {str(_answer(expected))[:90]}")
    streamed = served.http.post(
        "/v1/chat/completions", json={**CHAT, "model": "big:m", "stream": True}, timeout=600
    )
    *chunks, done = events(streamed)
    text = "".join(choice["delta"].get("content") or "" for one in chunks for choice in one["choices"])
    print(f"stream: {len(chunks)} chunks, {done}: {text[:60]!r}")
    body = {"model": "big:m", "input": "Say red.", "store": False, "max_output_tokens": 8}
    answered = served.http.post("/v1/responses", json=body, timeout=600)
    print(f"/v1/responses over it: {answered.status_code} {answered.json()['usage']['output_tokens']} tokens")
    assert answered.status_code == 200
    (stats,) = backend.replicas()
    print(f"its metrics: {stats}")


def _answer(body: dict[str, Any]) -> Any:
    """What has to be equal: ids and times differ."""
    (choice,) = body["choices"]
    message = {name: value for name, value in choice["message"].items() if name in ("content", "role")}
    calls = [call["function"] for call in choice["message"].get("tool_calls") or ()]
    return message, calls, choice["finish_reason"], choice.get("logprobs"), body["usage"]["completion_tokens"]


if __name__ == "__main__":
    sys.exit(main())
