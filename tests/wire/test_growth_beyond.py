"""As test_growth.py, for lists that other readers and writers walk: Ollama's dialect, tools, the bodies that
providers get, and the rewritings for chat templates.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest

from headrace.backends.anthropic import request as to_anthropic
from headrace.backends.anthropic.thinking import Abilities
from headrace.backends.ollama import request as to_ollama
from headrace.backends.openai import body as to_openai
from headrace.text import adapting
from headrace.text.structured.keywords import UnsupportedSchema
from headrace.text.structured.schema import json_grammar
from headrace.types import Conversation, GenerateRequest, Message, Role, Sampling, Thought, Tool, ToolCall
from headrace.wire import chat, conversations, embeddings, tokens
from headrace.wire.anthropic import request as anthropic
from headrace.wire.anthropic.tables import uses_of_messages
from headrace.wire.ollama import request as ollama
from headrace.wire.parameters import parse
from headrace.wire.responses import body as responses
from headrace.wire.responses.tables import uses_of_responses
from tests.wire.test_growth import MOST, USER, Item, N, check, num_calls

LARGE = (
    4  # times as much: JSON of more than 64 KiB is written in another way, so that the first step is one up
)


def ollama_call(index: int, name: str) -> Item:
    return {"id": f"c{index}", "function": {"name": name, "arguments": {}}}


def result(**members: str) -> Item:
    return {"role": "tool", "content": "x", **members}


OLLAMA: dict[str, Callable[[int], Item]] = {
    "messages": lambda n: {"messages": [USER] * n},
    "calls and results by name": lambda n: {
        "messages": [
            {"role": "assistant", "tool_calls": [ollama_call(i, f"f{i}") for i in range(n)]},
            *(result(tool_name=f"f{i}") for i in reversed(range(n))),
        ]
    },
    "calls of one name, and results": lambda n: {
        "messages": [
            {"role": "assistant", "tool_calls": [ollama_call(i, "f") for i in range(n)]},
            *[result(tool_name="f")] * n,
        ]
    },
    "calls and results by id": lambda n: {
        "messages": [
            {"role": "assistant", "tool_calls": [ollama_call(i, "f") for i in range(n)]},
            *(result(tool_call_id=f"c{i}") for i in reversed(range(n))),
        ]
    },
    "results of nothing": lambda n: {
        "messages": [
            {"role": "assistant", "tool_calls": [ollama_call(i, "f") for i in range(n)]},
            *[result(tool_call_id="no")] * n,
        ]
    },
    "tools": lambda n: {
        "messages": [USER],
        "tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(n)],
    },
    "options": lambda n: {"messages": [USER], "options": {f"o{i}": i for i in range(n)}},
}


@pytest.mark.parametrize("kind", OLLAMA)
def test_chats_of_ollamas_dialect(kind: str) -> None:
    def of(n: int) -> ollama.OllamaChatBody:
        return parse(ollama.OllamaChatBody, json.dumps({"model": "m", **OLLAMA[kind](n)}).encode())

    check(of, ollama.chat_request)


def test_texts_tokens_documents_and_items() -> None:
    def raw(**members: object) -> bytes:
        return json.dumps({"model": "m", **members}).encode()

    check(lambda n: parse(ollama.EmbedBody, raw(input=["x"] * n)), ollama.embed_request)
    check(
        lambda n: parse(embeddings.RerankBody, raw(query="q", documents=[{"text": "x"}, "y"] * (n // 2))),
        embeddings.to_rerank_request,
    )
    check(lambda n: parse(tokens.TokenizeBody, raw(messages=[USER] * n)), lambda body: body)
    check(lambda n: raw(tokens=[5] * n), lambda body: parse(tokens.DetokenizeBody, body))
    check(
        lambda n: parse(conversations.ItemsBody, json.dumps({"items": [{"role": "user", "content": [
            {"type": "input_text", "text": "x"}] * n}]}).encode()),
        conversations.new_items,
    )  # fmt: skip


RESPONSES: dict[str, Callable[[int], Item]] = {
    "tools": lambda n: {"input": "x", "tools": [{"type": "function", "name": f"f{i}"} for i in range(n)]},
    "hosted tools": lambda n: {"input": "x", "tools": [{"type": "web_search"}] * n},
    "allowed tools": lambda n: {
        "input": "x",
        "tools": [{"type": "function", "name": f"f{i}"} for i in range(n)],
        "tool_choice": {
            "type": "allowed_tools",
            "mode": "auto",
            "tools": [{"type": "function", "name": f"f{i}"} for i in range(n)],
        },
    },
    "parts": lambda n: {"input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}] * n}]},
    "summaries": lambda n: {
        "input": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}] * n}]
    },
    "unknown members": lambda n: {"input": "x", **{f"x{i}": 1 for i in range(n)}},
}


@pytest.mark.parametrize("kind", RESPONSES)
def test_members_of_a_response(kind: str) -> None:
    def of(n: int) -> responses.ResponseBody:
        return parse(responses.ResponseBody, json.dumps({"model": "m", **RESPONSES[kind](n)}).encode())

    check(of, uses_of_responses)
    check(of, lambda body: responses.to_request(body, []))


ANTHROPIC: dict[str, Callable[[int], Item]] = {
    "tools": lambda n: {"tools": [{"name": f"f{i}", "input_schema": {"type": "object"}} for i in range(n)]},
    "texts of the system": lambda n: {"system": [{"type": "text", "text": "x"}] * n},
    "calls and results": lambda n: {
        "messages": [
            USER,
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": f"t{i}", "name": "f", "input": {}} for i in range(n)]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": f"t{i}", "content": "x"} for i in reversed(range(n))]},
        ]
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", ANTHROPIC)
def test_members_of_anthropics_dialect(kind: str) -> None:
    def of(n: int) -> anthropic.MessagesBody:
        body = {"model": "m", "max_tokens": 1, "messages": [USER], **ANTHROPIC[kind](n)}
        return parse(anthropic.MessagesBody, json.dumps(body).encode())

    check(of, anthropic.to_request)
    check(of, uses_of_messages)


def called(index: int) -> ToolCall:
    return ToolCall(f"c{index}", "f", "{}")


HISTORIES: dict[str, Callable[[int], list[Message]]] = {
    "a user's": lambda n: [Message("user", "x")] * n,
    "an assistant's": lambda n: [Message("assistant", "x", reasoning="y")] * n,
    "the system's": lambda n: [Message("system", "x")] * n,
    "by turns": lambda n: [Message("user", "x"), Message("assistant", "y")] * (n // 2),
    "system and user by turns": lambda n: [Message("system", "x"), Message("user", "y")] * (n // 2),
    "calls": lambda n: [Message("assistant", "", tool_calls=tuple(called(i) for i in range(n)))],
    "calls, then results": lambda n: [
        Message("assistant", "", tool_calls=tuple(called(i) for i in range(n))),
        *(Message("tool", "x", tool_call_id=f"c{i}") for i in range(n)),
    ],
    "calls and results by turns": lambda n: [
        message
        for i in range(n // 2)
        for message in (
            Message("assistant", "", tool_calls=(called(i),)),
            Message("tool", "x", tool_call_id=f"c{i}"),
        )
    ],
    "results and texts by turns": lambda n: [
        Message("tool", "x", tool_call_id="c"), Message("user", "y")] * (n // 2),
    "parts": lambda n: [Message("user", "x" * n, parts=("x",) * n)],
    "thoughts": lambda n: [
        Message("user", "x"),
        Message("assistant", "y", thoughts=tuple(Thought(f"t{i}", "s") for i in range(n))),
    ],
}  # fmt: skip


def request_of(messages: list[Message], num_tools: int = 1) -> GenerateRequest:
    tools = tuple(Tool(f"f{i}", "", {"type": "object"}) for i in range(num_tools))
    return GenerateRequest("m", Conversation(tuple(messages), tools=tools), sampling=Sampling(max_tokens=9))


def openai_body(request: GenerateRequest) -> object:
    assert isinstance(request.prompt, Conversation)
    return to_openai.chat_body(request, request.prompt, limit="max_tokens", has_all_roles=False)


WRITERS: dict[str, Callable[[GenerateRequest], object]] = {
    "openai": openai_body,
    "anthropic": lambda request: to_anthropic.to_body(request, Abilities(is_adaptive=True)),
    "ollama": to_ollama.bodies_of,
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("kind", HISTORIES)
def test_bodies_for_providers(kind: str, writer: str) -> None:
    check(lambda n: request_of(HISTORIES[kind](LARGE * n)), WRITERS[writer])


@pytest.mark.parametrize("writer", WRITERS)
def test_tools_for_providers(writer: str) -> None:
    check(lambda n: request_of([Message("user", "x")], LARGE * n), WRITERS[writer])


@pytest.mark.parametrize("kind", HISTORIES)
def test_rewritings_for_templates(kind: str) -> None:
    check(HISTORIES[kind], lambda messages: list(adapting.rewritten(tuple(messages))))


def num_characters(work: Callable[[], object]) -> int:
    """The characters of the texts that adapting's functions hold in a variable for the first time, or return,
    alone or in a message.
    """
    count = 0
    held: dict[FrameType, dict[str, object]] = {}

    def size(value: object) -> int:
        return len(value.text if isinstance(value, Message) else value if isinstance(value, str) else "")

    def saw(frame: FrameType, event: str, result: object) -> Any:
        nonlocal count
        if frame.f_globals["__name__"] != adapting.__name__:
            return None
        known = held.setdefault(frame, {})
        new = {name: value for name, value in frame.f_locals.items() if known.get(name) is not value}
        known.update(new)
        count += sum(map(size, new.values())) + (size(result) if event == "return" else 0)
        return saw

    before = sys.gettrace()  # coverage's
    sys.settrace(saw)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_long_texts_are_put_together_once(role: Role) -> None:
    """One after another, a hundred megabytes in 10,000 messages would be 500 GB to copy."""

    def copied(n: int) -> int:
        messages = [replace(Message("user", f"{index:100}"), role=role) for index in range(n)]
        (one,) = adapting.merged(messages)
        assert len(one.text) == 101 * n - 1
        return num_characters(lambda: adapting.merged(messages))

    assert copied(2 * N) <= MOST * copied(N)


def test_schemas_of_many_tools() -> None:
    def of(n: int) -> chat.ChatBody:
        schema = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(n)}}
        tool = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}
        return parse(chat.ChatBody, json.dumps({"model": "m", "messages": [USER], "tools": [tool]}).encode())

    check(of, chat.to_request)


def test_exclusive_options_end_at_their_limit() -> None:
    """Four times the options make 16 times the pairs, but the limit ends their comparison."""

    def compiled(n: int) -> None:
        options = [{"properties": {f"w{i}": {"const": i}}, "required": [f"w{i}"]} for i in range(n)]
        with pytest.raises(UnsupportedSchema, match="too many combinations"):
            json_grammar({"type": "object", "oneOf": options}, "schema")

    assert num_calls(lambda: compiled(400)) < 2 * num_calls(lambda: compiled(100))
