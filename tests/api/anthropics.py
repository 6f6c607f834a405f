"""What tests of Anthropic's dialect share: its official client, and a reader of raw streams."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import httpx2

from tests.serving import Served

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
QUESTION: Any = [{"role": "user", "content": "How is the weather in Bern?"}]
SMALL: dict[str, Any] = {"model": "fake", "max_tokens": 9, "messages": QUESTION}
PNG = base64.b64encode(b"\x89PNG\r\n").decode()


@contextmanager
def reading(server: Served, key: str = "x") -> Iterator[anthropic.Anthropic]:
    """The official client, believing nothing."""
    with anthropic.Anthropic(
        base_url=server.url, api_key=key, max_retries=0, timeout=20, _strict_response_validation=True
    ) as client:
        yield client


def frames(response: httpx2.Response) -> list[tuple[str, Any]]:
    """The events of a stream, by name; each says its name twice."""
    found = []
    for text in response.text.split("\n\n")[:-1]:
        event, data = text.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert event == f"event: {value['type']}"
        found.append((value["type"], value))
    return found


def check_order(events: list[tuple[str, Any]]) -> list[Any]:
    """Check that a stream is message_start, blocks one after the other, message_delta, message_stop. Returns
    its blocks, put together as by a reader of raw events.
    """
    names = [name for name, _ in events]
    assert names[0] == "message_start"
    assert names[-2:] == ["message_delta", "message_stop"]
    assert names.count("message_start") == names.count("message_delta") == names.count("message_stop") == 1
    head = events[0][1]["message"]
    assert (head["content"], head["stop_reason"], head["role"]) == ([], None, "assistant")
    blocks: list[Any] = []
    is_open = False
    for name, event in events[1:-2]:
        if name == "content_block_start":
            assert not is_open
            assert event["index"] == len(blocks)
            blocks.append(event["content_block"])
            is_open = True
            continue
        assert is_open
        assert event["index"] == len(blocks) - 1
        if name == "content_block_stop":
            is_open = False
        else:
            assert name == "content_block_delta"
            add(blocks[-1], event["delta"])
    assert not is_open
    return blocks


DELTAS = {
    "text_delta": ("text", "text", "text"),
    "thinking_delta": ("thinking", "thinking", "thinking"),
    "signature_delta": ("thinking", "signature", "signature"),
    "input_json_delta": ("tool_use", "partial_json", "input"),
}


def add(block: Any, delta: Any) -> None:
    type, member, into = DELTAS[delta["type"]]
    assert block["type"] == type
    assert delta[member]
    block[into] = (block[into] or "") + delta[member]
