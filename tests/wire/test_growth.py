"""No walk over a caller's list is quadratic: twice the list takes at most about twice the calls, and twice
the characters put together. Operations are counted, not time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, TypeVar

import pytest

from headrace.errors import BadRequest
from headrace.store.hashing import Position, address_all
from headrace.turns.dedupe import new_messages
from headrace.turns.truncation import CarriedItems
from headrace.turns.window import window, without_unanswered
from headrace.wire import chat, completions, embeddings
from headrace.wire.anthropic import request as anthropic
from headrace.wire.anthropic.tables import uses_of_messages
from headrace.wire.items import of_chat, references, resolved, to_items, to_messages
from headrace.wire.limits import checked_volume
from headrace.wire.parameters import parse, uses_of
from headrace.wire.responses import body as responses
from headrace.wire.responses.tables import uses_of_responses
from headrace.wire.tables import CHAT

N = 400
MOST = 2.4  # times as much for twice the list

Item = dict[str, Any]
T = TypeVar("T")


def call(index: int) -> Item:
    return {"type": "function_call", "call_id": f"c{index}", "name": "f", "arguments": "{}"}


def output(index: int) -> Item:
    return {"type": "function_call_output", "call_id": f"c{index}", "output": "x"}


def said(role: str, index: int) -> Item:
    return {"type": "message", "role": role, "content": f"text {index}"}


def thought(index: int) -> Item:
    return {"type": "reasoning", "content": [{"type": "reasoning_text", "text": f"text {index}"}]}


ITEMS: dict[str, Callable[[int], list[Item]]] = {
    "calls": lambda n: [call(index) for index in range(n)],
    "calls, then their outputs": lambda n: [make(i) for make in (call, output) for i in range(n)],
    "calls and outputs in turn": lambda n: [make(i) for i in range(n) for make in (call, output)],
    "one call, then texts": lambda n: [call(0), *(said("assistant", index) for index in range(n))],
    "texts of an assistant": lambda n: [said("assistant", index) for index in range(n)],
    "texts of a user": lambda n: [said("user", index) for index in range(n)],
    "system messages": lambda n: [said("system", index) for index in range(n)],
    "the same text": lambda n: [said("user", 0)] * n,
    "thoughts": lambda n: [thought(index) for index in range(n)],
    "hosted": lambda n: [{"type": "web_search_call", "id": f"w{index}"} for index in range(n)],
}


def num_calls(work: Callable[[], object]) -> int:
    """Calls of functions, those of the interpreter's own among them."""
    count = 0

    def saw(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(saw)
    try:
        work()
    except BadRequest:
        pass
    finally:
        sys.setprofile(None)
    return count


def check(make: Callable[[int], T], work: Callable[[T], object]) -> None:
    once, twice = num_calls(partial(work, make(N))), num_calls(partial(work, make(2 * N)))
    assert twice <= MOST * once + 200, f"{once} calls for {N}, {twice} for {2 * N}"


def body_of(kind: str, n: int) -> responses.ResponseBody:
    raw = json.dumps({"model": "m", "input": ITEMS[kind](n)}).encode()
    return parse(responses.ResponseBody, raw)


def items_of(kind: str, n: int) -> list[Any]:
    return to_items(body_of(kind, n).input, "input")


@pytest.mark.parametrize("kind", ITEMS)
def test_items_of_a_response(kind: str) -> None:
    body, items = partial(body_of, kind), partial(items_of, kind)
    small = body_of(kind, 1)
    check(body, uses_of_responses)
    check(body, lambda body: to_items(body.input, "input"))
    check(items, to_messages)
    check(items, partial(responses.to_request, small))
    check(items, partial(address_all, "me", Position()))


@pytest.mark.parametrize("kind", ITEMS)
def test_what_is_stored_and_what_is_sent_again(kind: str) -> None:
    items = partial(items_of, kind)
    check(items, lambda items: new_messages(items, [[item] for item in items]))
    check(items, lambda items: new_messages(items, [[item] for item in items[len(items) // 2 :]]))
    check(items, lambda items: new_messages(items[1:], [[item] for item in items]))
    check(items, lambda items: window(items, 1, items[:5]))
    check(items, lambda items: window(items, 10, items[:5]))
    check(items, lambda items: window(items, 10**6, items[:5]))
    check(items, lambda items: without_unanswered(items, items[:5]))
    check(items, lambda items: CarriedItems(items, items[-5:]).without(len(items) // 2))


def test_references() -> None:
    def of(n: int) -> tuple[list[Any], dict[str, Any]]:
        ids = [f"msg_{index}" for index in range(n)]
        return [{"type": "item_reference", "id": id} for id in ids], {id: said("user", 1) for id in ids}

    check(of, lambda both: resolved(both[0], both[1], "input"))
    check(of, lambda both: references(both[0]))


def function(name: str) -> Item:
    return {"type": "function", "function": {"name": name}}


USER = {"role": "user", "content": "x"}
CALLED = {"name": "f", "arguments": "{}"}
CHATS: dict[str, Callable[[int], Item]] = {
    "messages": lambda n: {"messages": [USER] * n},
    "parts": lambda n: {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x", "odd": 1}] * n}]
    },
    "tool calls": lambda n: {
        "messages": [{"role": "assistant", "tool_calls": [{"id": "a", "function": CALLED}] * n}]
    },
    "tools": lambda n: {"messages": [USER], "tools": [function(f"f{index}") for index in range(n)]},
    "functions": lambda n: {"messages": [USER], "functions": [{"name": f"f{index}"} for index in range(n)]},
    "allowed tools": lambda n: {
        "messages": [USER],
        "tools": [function(f"f{index}") for index in range(n)],
        "tool_choice": {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto", "tools": [function(f"f{index}") for index in range(n)]},
        },
    },
    "biases": lambda n: {"messages": [USER], "logit_bias": {str(index): 1 for index in range(n)}},
    "unknown members": lambda n: {"messages": [USER], **{f"x{index}": 1 for index in range(n)}},
    "variables": lambda n: {"messages": [USER], "chat_template_kwargs": {"a": [{}] * n}},
}


@pytest.mark.parametrize("kind", CHATS)
def test_chats(kind: str) -> None:
    def of(n: int) -> chat.ChatBody:
        return parse(chat.ChatBody, json.dumps({"model": "m", **CHATS[kind](n)}).encode())

    check(of, chat.to_request)
    check(of, lambda body: uses_of(body, CHAT))
    check(of, lambda body: of_chat(body.messages))


BLOCKS: dict[str, Item] = {
    "texts": {"type": "text", "text": "x"},
    "results": {"type": "tool_result", "tool_use_id": "t", "content": "x"},
    "others": {"type": "odd"},
}


@pytest.mark.parametrize("at_once", [1, N], ids=["many messages", "many blocks"])
@pytest.mark.parametrize("kind", BLOCKS)
def test_messages_of_anthropics_dialect(kind: str, at_once: int) -> None:
    def of(n: int) -> anthropic.MessagesBody:
        message = {"role": "user", "content": [BLOCKS[kind]] * at_once}
        body = {"model": "m", "max_tokens": 1, "messages": [message] * (n // at_once)}
        return parse(anthropic.MessagesBody, json.dumps(body).encode())

    check(of, anthropic.to_request)
    check(of, uses_of_messages)


def test_prompts_and_inputs() -> None:
    def raw(member: str, n: int) -> bytes:
        return json.dumps({"model": "m", member: ["x"] * n}).encode()

    check(lambda n: parse(completions.CompletionBody, raw("prompt", n)), completions.to_request)
    check(lambda n: parse(embeddings.EmbeddingsBody, raw("input", n)), embeddings.to_request)


@pytest.mark.parametrize(
    "faults",
    [
        lambda n: {"messages": [{}] * n},
        lambda n: {"messages": [{"role": "user", "content": [{}] * n}]},
        lambda n: {"messages": [USER], "logit_bias": {str(index): "x" for index in range(n)}},
        lambda n: {"messages": [USER], "tools": [{}] * n},
        lambda n: {"messages": [USER], "stop_token_ids": ["x"] * n},
        lambda n: {"messages": [USER], "tool_choice": {"type": "allowed_tools", "tools": [{}] * n}},
    ],
)
def test_faults_do_not_add_up(faults: Callable[[int], Item]) -> None:
    def raw(n: int) -> bytes:
        return json.dumps({"model": "m", **faults(n)}).encode()

    once, twice = (num_calls(partial(parse, chat.ChatBody, raw(n))) for n in (N, 2 * N))
    assert twice <= once + 10, "one fault is told, and the rest is not looked at"


def test_counting_a_body() -> None:
    check(lambda n: b'["\\"[]"],' * (n * 1000), checked_volume)


class Text(str):
    """Counts the characters that it is put together from."""

    put = 0

    def __add__(self, other: str) -> Text:
        Text.put += len(self) + len(other)
        return Text(str(self) + other)

    def __radd__(self, other: str) -> Text:
        Text.put += len(self) + len(other)
        return Text(other + str(self))


@pytest.mark.parametrize("kind", ["one call, then texts", "thoughts", "texts of an assistant"])
def test_texts_are_not_put_together_piece_by_piece(kind: str) -> None:
    def counted(n: int) -> int:
        items = []
        for item in items_of(kind, n):
            content = [{**part, "text": Text(part["text"])} for part in item.get("content", ())]
            items.append({**item, "content": content} if content else item)
        Text.put = 0
        to_messages(items)
        return Text.put

    assert counted(2 * N) <= MOST * counted(N)
