"""A stored chat keeps thoughts, text and calls in the order in which they came."""

from __future__ import annotations

from typing import Any

import pytest

from tests.backends.writing import CHAT, HI, TOOLS, Written, anthropic_events
from tests.upstream import Answer

TEXT = {"type": "text", "text": ""}
CALL = {"type": "tool_use", "id": "c1", "name": "f", "input": {}}
THOUGHT = {"type": "thinking", "thinking": "", "signature": ""}
MODEL = "an:claude-opus-5"


def said(text: str) -> Any:
    return TEXT, [{"type": "text_delta", "text": text}]


def thought(text: str) -> Any:
    signature = {"type": "signature_delta", "signature": "c2ln"}
    return THOUGHT, [{"type": "thinking_delta", "thinking": text}, signature]


def shape(content: Any) -> list[str]:
    """The blocks of a turn in one word each."""
    return [block.get("thinking") or block.get("text") or block["type"] for block in content]


ORDERS = {
    "text, thought": ([said("A"), thought("T")], ["message", "reasoning"], ["A", "T"]),
    "thought between texts": (
        [said("A"), thought("T"), said("B")], ["message", "reasoning", "message"], ["A", "T", "B"],
    ),
    "twice": (
        [thought("S"), said("A"), thought("T"), said("B")],
        ["reasoning", "message", "reasoning", "message"],
        ["S", "A", "T", "B"],
    ),
    "as usual": ([thought("S"), said("A")], ["reasoning", "message"], ["S", "A"]),
}  # fmt: skip


@pytest.mark.parametrize("sends_all", [False, True])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("blocks", "types", "order"), ORDERS.values(), ids=ORDERS)
def test_thoughts_and_text_keep_their_order(
    written: Written, blocks: Any, types: list[str], order: list[str], stream: bool, sends_all: bool
) -> None:
    written.play(Answer(pieces=anthropic_events(*blocks)), path="/v1/messages")
    first = {"model": MODEL, "messages": HI, "conversation": "new", "stream": stream}
    status, headers, _ = written.ask(CHAT, first)
    assert status == 200
    id = headers["x-conversation-id"]
    answer = "".join(one for one in order if one in "AB")
    again = [*HI, {"role": "assistant", "content": answer}] if sends_all else []
    messages = [*again, {"role": "user", "content": "more"}]
    assert written.ask(CHAT, {"model": MODEL, "messages": messages, "conversation": id})[0] == 200
    turns = written.last["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert shape(turns[1]["content"]) == order
    items = written.served.get(f"/v1/conversations/{id}/items?order=asc").json()["data"]
    assert [item["type"] for item in items] == ["message", *types, "message", "message"]


def test_a_thought_before_a_call_stays_there(written: Written) -> None:
    blocks = [thought("S"), said("A"), thought("T"), (CALL, [])]
    written.play(Answer(pieces=anthropic_events(*blocks, stop="tool_use")), path="/v1/messages")
    first = {"model": MODEL, "messages": HI, "conversation": "new", "tools": TOOLS}
    _, headers, answer = written.ask(CHAT, first)
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    result = {"role": "tool", "tool_call_id": call["id"], "content": "7"}
    body = {"model": MODEL, "messages": [result], "tools": TOOLS}
    assert written.ask(CHAT, {**body, "conversation": headers["x-conversation-id"]})[0] == 200
    _, assistant, results = written.last["messages"]
    assert shape(assistant["content"]) == ["S", "A", "T", "tool_use"]
    assert results["content"][0]["type"] == "tool_result"


def test_another_provider_reads_one_message(written: Written) -> None:
    blocks = [said("A"), thought("T"), said("B")]
    written.play(Answer(pieces=anthropic_events(*blocks)), path="/v1/messages")
    _, headers, _ = written.ask(CHAT, {"model": MODEL, "messages": HI, "conversation": "new"})
    more = {"role": "user", "content": "more"}
    body = {"model": "up:m", "messages": [more], "conversation": headers["x-conversation-id"]}
    assert written.ask(CHAT, body)[0] == 200
    assert [(one["role"], one["content"]) for one in written.last["messages"]] == [
        ("user", "hi"),
        ("assistant", "AB"),
        ("user", "more"),
    ]
