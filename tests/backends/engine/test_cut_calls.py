"""A forced call that max_tokens cuts: what came of it is a call or nothing, and never text."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serving import Served, events

WEATHER = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOLS = [{"type": "function", "function": WEATHER}]
REQUEST: dict[str, Any] = {"messages": [{"role": "user", "content": "Weather in Oslo?"}], "tools": TOOLS}


@pytest.mark.parametrize("limit", range(1, 14, 2))
def test_l12_no_markup_in_content(server: Served, limit: int) -> None:
    model = server.backend.models()[0].id
    body = {**REQUEST, "model": model, "tool_choice": "required", "max_tokens": limit, "temperature": 0}
    whole = server.post("/v1/chat/completions", body).json()["choices"][0]
    assert whole["finish_reason"] == "length"
    assert not whole["message"]["content"]
    chunks = events(server.post("/v1/chat/completions", {**body, "stream": True}))[:-1]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert not "".join(delta.get("content") or "" for delta in deltas)
    names = [call["function"].get("name") for delta in deltas for call in delta.get("tool_calls", ())]
    assert names[:1] == [call["function"]["name"] for call in whole["message"].get("tool_calls", ())]


def test_l12_in_responses(server: Served) -> None:
    tool = {"type": "function", "strict": False, **WEATHER}
    body = {
        "model": server.backend.models()[0].id, "input": "Weather in Oslo?", "tools": [tool], "store": False,
        "tool_choice": "required", "max_output_tokens": 5,
    }  # fmt: skip
    answer = server.post("/v1/responses", body).json()
    assert answer["status"] == "incomplete"
    said = [part["text"] for item in answer["output"] for part in item.get("content", ())]
    assert not "".join(said)
