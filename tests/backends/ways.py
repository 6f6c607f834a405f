"""The ways on which a request that a provider refuses reaches it."""

from __future__ import annotations

import json
from typing import Any

from tests.api.relays import HI, Relays

STRICT = {"X-Headrace-Strict": "true"}  # no relay: such a request is translated
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


def ask(relay: Relays, way: str, model: str = "up:m") -> tuple[int, Any, dict[str, Any]]:
    """Status, headers and error of one request: `way` is how it reaches the provider."""
    path = MESSAGES if "anthropic" in way else CHAT
    body = {"model": model, "messages": HI, "max_tokens": 9, "stream": "stream" in way}
    headers = STRICT if way.startswith("translated") else {}
    status, response_headers, raw = relay.ask(path, json.dumps(body).encode(), **headers)
    return status, response_headers, json.loads(raw)["error"]
