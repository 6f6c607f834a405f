"""Forty requests that are meant to hold a server up: long texts, long lists, deep and odd values."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RESPONSES, MESSAGES, TOKENIZE, DETOKENIZE = "/v1/responses", "/v1/messages", "/v1/tokenize", "/v1/detokenize"
USER = {"role": "user", "content": "Hi"}
MB = 2**20


@dataclass(frozen=True, slots=True)
class Hostile:
    """A request. `make` gives the members of its body, or the body itself."""

    name: str
    path: str
    make: Callable[[], dict[str, Any] | bytes]

    def body(self, model: str) -> bytes:
        made = self.make()
        return made if isinstance(made, bytes) else json.dumps({"model": model, **made}).encode()


def text(megabytes: float) -> str:
    return "water " * int(megabytes * MB / 6)


def said(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 1}


def chat(**members: Any) -> dict[str, Any]:
    return {"messages": [USER], "max_tokens": 1, **members}


def going_on(**members: Any) -> dict[str, Any]:
    return {"prompt": "Hi", "max_tokens": 1, **members}


def called(arguments: str) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": arguments}}
    told = {"role": "tool", "tool_call_id": "c", "content": "sky"}
    return {"messages": [USER, {"role": "assistant", "tool_calls": [call]}, told], "max_tokens": 1}


def items(count: int) -> list[dict[str, Any]]:
    """Calls and what came of them, by turns."""
    call = {"type": "function_call", "name": "look", "arguments": "{}"}
    made = [{**call, "call_id": f"c{number}"} for number in range(count // 2)]
    came = [{"type": "function_call_output", "call_id": one["call_id"], "output": "x"} for one in made]
    return [item for pair in zip(made, came, strict=True) for item in pair]


def sealed(megabytes: float) -> str:
    """Thoughts as a response of Headrace's carries them, a third longer than their text."""
    content = {"headrace": 1, "thoughts": [[text(megabytes), None, None]]}
    return base64.b64encode(json.dumps(content).encode()).decode()


def nested(depth: int) -> bytes:
    return b'{"model": "m", "messages": [{"role": "user", "content": ' + b"[" * depth + b"]" * depth + b"}]}"


def schema(count: int) -> dict[str, Any]:
    properties = {f"p{number}": {"type": "string", "pattern": "^a*b$"} for number in range(count)}
    value = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}


# One of each kind that takes a model or a library at its first use, of a usual size.
ORDINARY = (
    Hostile("embeddings", EMBEDDINGS, lambda: {"input": ["The wheel turns in the headrace. " * 20] * 64}),
    Hostile("a schema", CHAT, lambda: chat(response_format=schema(10), max_tokens=16)),
    Hostile("an expression", CHAT, lambda: chat(guided_regex="(yes|no), [a-z]{3,9}", max_tokens=16)),
    Hostile("a call", CHAT, lambda: {**called("{}"), "tools": [
        {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]}),
    Hostile("a scored prompt", COMPLETIONS, lambda: {
        "prompt": "water " * 1000, "echo": True, "logprobs": 1, "max_tokens": 0}),
    Hostile("a stored response", RESPONSES, lambda: {"input": "Hi", "max_output_tokens": 16}),
    Hostile("a message", MESSAGES, lambda: said("Hi")),
    Hostile("tokens", TOKENIZE, lambda: {"prompt": text(0.1), "return_token_strs": True}),
)  # fmt: skip
REQUESTS = (
    Hostile("chat of 12 MB", CHAT, lambda: said(text(12))),
    Hostile("chat of 500 KB", CHAT, lambda: said(text(0.5))),
    Hostile("chat of 12 MB without a space", CHAT, lambda: said("a" * 12 * MB)),
    Hostile("chat of 3 MB of Chinese", CHAT, lambda: said("水車" * (MB // 2))),
    Hostile("12 MB in tool_calls.arguments", CHAT, lambda: called(json.dumps({"at": text(12)}))),
    Hostile("arguments of 3 million numbers", CHAT, lambda: called(json.dumps({"at": [1] * 3_000_000}))),
    Hostile("a million text parts", CHAT, lambda: said([{"type": "text", "text": "x"}] * 400_000)),
    Hostile("400,000 empty messages", CHAT, lambda: chat(
        messages=[{"role": "user", "content": ""}] * 400_000)),
    Hostile("a message of 500,000 special tokens", CHAT, lambda: said("<|im_start|>" * 500_000)),
    Hostile("500,000 brackets", CHAT, lambda: nested(500_000)),
    Hostile("a million wrong biases", CHAT, lambda: chat(logit_bias={f"x{n}": "y" for n in range(900_000)})),
    Hostile("49,000 biases", CHAT, lambda: chat(logit_bias={str(n): 1 for n in range(49_000)}, n=8)),
    Hostile("a million wrong metadata", CHAT, lambda: chat(metadata={f"x{n}": n for n in range(900_000)})),
    Hostile("4 million {} for the template", CHAT, lambda: chat(
        chat_template_kwargs={"x": [{}] * 4_000_000})),
    Hostile("300,000 tools", CHAT, lambda: chat(
        tools=[{"type": "function", "function": {"name": f"f{n}"}} for n in range(200_000)])),
    Hostile("a million stop strings", CHAT, lambda: chat(stop=[f"stop {n}" for n in range(900_000)])),
    Hostile("49,000 stop tokens", CHAT, lambda: chat(
        stop_token_ids=list(range(3, 49_000)), min_tokens=50, max_tokens=60)),
    Hostile("a million stop tokens", CHAT, lambda: chat(stop_token_ids=[5] * 2_000_000)),
    Hostile("128 answers", CHAT, lambda: chat(n=128, max_tokens=4)),
    Hostile("a schema of 3,000 patterns", CHAT, lambda: chat(response_format=schema(3000))),
    Hostile("a choice of 50,000", CHAT, lambda: chat(guided_choice=[f"choice {n}" for n in range(50_000)])),
    Hostile("an expression of 9,000 characters", CHAT, lambda: chat(guided_regex="(a|b)*a" + "(a|b)" * 1800)),
    Hostile("unknown members, 900,000", CHAT, lambda: chat(**{f"member_{n}": n for n in range(700_000)})),
    Hostile("a prediction of 12 MB", CHAT, lambda: chat(prediction={"type": "content", "content": text(12)})),
    Hostile("a bad byte after 12 MB", CHAT, lambda: json.dumps(said(text(12))).encode()[:-1] + b"\xff"),
    Hostile("prompt of 12 MB", COMPLETIONS, lambda: going_on(prompt=text(12))),
    Hostile("prompt of 12 MB, its end kept", COMPLETIONS, lambda: going_on(
        prompt=text(12), truncate_prompt_tokens=16)),
    Hostile("1,024 prompts", COMPLETIONS, lambda: going_on(prompt=["The wheel turns"] * 1024)),
    Hostile("1,024 prompts of 12 KB", COMPLETIONS, lambda: going_on(prompt=[text(0.012)] * 1024)),
    Hostile("3 million token ids", COMPLETIONS, lambda: going_on(prompt=[5] * 3_000_000)),
    Hostile("suffix of 12 MB", COMPLETIONS, lambda: going_on(suffix=text(12))),
    Hostile("echo with 20 logprobs", COMPLETIONS, lambda: {
        "prompt": "water " * 2000, "echo": True, "logprobs": 20, "max_tokens": 0}),
    Hostile("2,048 inputs", EMBEDDINGS, lambda: {"input": ["The wheel turns"] * 2048}),
    Hostile("an input of 12 MB", EMBEDDINGS, lambda: {"input": ["Hi", text(12)]}),
    Hostile("input of 12 MB", RESPONSES, lambda: {"input": text(12), "store": False}),
    Hostile("encrypted reasoning of 12 MB", RESPONSES, lambda: {
        "input": [{"type": "reasoning", "summary": [], "encrypted_content": sealed(9)}, USER],
        "store": False}),
    Hostile("60,000 items", RESPONSES, lambda: {"input": items(60_000), "store": False}),
    Hostile("items of 14 MB, in the background", RESPONSES, lambda: {
        "input": items(130_000), "background": True}),
    Hostile("Anthropic's, 12 MB", MESSAGES, lambda: said(text(12))),
    Hostile("a million stop_sequences", MESSAGES, lambda: {
        **said("Hi"), "stop_sequences": [f"stop {n}" for n in range(800_000)]}),
    Hostile("count 12 MB", MESSAGES + "/count_tokens", lambda: said(text(12))),
    Hostile("tokenize 12 MB", TOKENIZE, lambda: {"prompt": text(12)}),
    Hostile("tokenize 1 MB, as texts", TOKENIZE, lambda: {"prompt": text(0.9), "return_token_strs": True}),
    Hostile("detokenize 3 million", DETOKENIZE, lambda: {"tokens": [5] * 3_000_000}),
)  # fmt: skip
