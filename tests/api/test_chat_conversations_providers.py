"""Chats with a named conversation over every kind of provider: two turns, the first of which calls a tool."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.test_responses_backends import KINDS, QUESTION, world

CHAT = "/v1/chat/completions"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}


@pytest.mark.parametrize("resends", [False, True])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_tool_turn(kind: str, stream: bool, resends: bool) -> None:
    make, path, calls, says, said, expected = KINDS[kind]
    with world(make) as (upstream, server):
        upstream.play(calls(), says(), path=path)
        question = {"role": "user", "content": QUESTION}
        members: dict[str, Any] = {"model": "m", "tools": [WEATHER], "stream": stream}
        first = server.post(CHAT, {**members, "messages": [question], "conversation": "new"})
        assert first.status_code == 200, first.text
        id = first.headers["x-conversation-id"]
        items = server.get(f"/v1/conversations/{id}/items?order=asc").json()["data"]
        call = items[-1]
        assert (call["type"], call["name"], call["status"]) == ("function_call", "weather", "completed")
        function = {"name": call["name"], "arguments": call["arguments"]}
        made = {"id": call["call_id"], "type": "function", "function": function}
        history = [question, {"role": "assistant", "content": None, "tool_calls": [made]}]
        result = {"role": "tool", "tool_call_id": call["call_id"], "content": "20 °C"}
        messages = [*(history if resends else []), result]
        second = server.post(CHAT, {**members, "messages": messages, "conversation": id})
        assert second.status_code == 200
        assert said(upstream.posts[-1].body) == expected
        stored = server.get(f"/v1/conversations/{id}/items?order=asc").json()["data"]
        assert [item["type"] for item in stored[len(items) :]] == ["function_call_output", "message"]
        assert stored[: len(items)] == items
        assert stored[-1]["content"][0]["text"].startswith("Grüße")
