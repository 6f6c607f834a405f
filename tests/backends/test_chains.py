"""Real chains: Headrace in front of Headrace, and in front of llama.cpp's server. What comes through is what
the last of the chain says when it is asked directly, whether it is passed on or translated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import anthropic
import openai
import pytest

from headrace.app import create_app
from headrace.assembly import build_providers
from headrace.config import Config
from headrace.models.catalog import Model
from tests.backends.test_llamacpp import TEMPLATE
from tests.backends.two_ways import Seen, streamed_of
from tests.models.llamacpp import LlamaCpp
from tests.serving import Served, serving

MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]
CITY: Any = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Paris"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]
NAMED: Any = {"type": "function", "function": {"name": "weather"}}
FORM: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
TRANSLATED = {"X-Headrace-Strict": "true"}  # what is strict is not passed on as it is
CHATS: dict[str, dict[str, Any]] = {
    "text": {"n": 2, "stop": ["France"]},
    "sampling": {"temperature": 0.9, "seed": 5, "frequency_penalty": 0.7, "logit_bias": {"7042": -100}},
    "logprobs": {"logprobs": True, "top_logprobs": 2, "max_tokens": 6},
    "schema": {"response_format": FORM, "max_tokens": 40},
    "named tool": {"tools": TOOLS, "tool_choice": NAMED, "max_tokens": 60},
    "tool or none": {"tools": TOOLS},
}
WAYS: tuple[dict[str, str], ...] = ({}, TRANSLATED)


@pytest.fixture(scope="module")
def llama_cpp(default_model: Model) -> Iterator[LlamaCpp]:
    assert default_model.gguf is not None
    with closing(LlamaCpp(default_model.gguf, context=1024, chat_template=TEMPLATE)) as server:
        yield server


@pytest.fixture(scope="module")
def chain(exact_server: Served, llama_cpp: LlamaCpp) -> Iterator[Served]:
    """In front of both."""
    providers = {
        "up": {"kind": "openai", "base_url": f"{exact_server.url}/v1"},
        "messages": {"kind": "anthropic", "base_url": exact_server.url, "api_key": "x"},
        "llama": {"kind": "openai", "base_url": f"{llama_cpp.url}/v1"},
    }
    config = Config.model_validate({"providers": providers})
    with serving(create_app(config, build_providers(config))) as served:
        yield served


def at(url: str, headers: dict[str, str] | None = None) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="x", max_retries=0, timeout=20, default_headers=headers or {})


def name(server: Served) -> str:
    return server.backend.models()[0].id


def content_of(choice: Any) -> Any:
    calls = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()]
    logprobs = choice.logprobs.model_dump() if choice.logprobs else None
    return choice.message.content or "", calls, choice.finish_reason, logprobs


def chat_body(model: str, members: dict[str, Any]) -> dict[str, Any]:
    return {"model": model, "messages": MESSAGES, "temperature": 0, "max_tokens": 12, **members}


@pytest.mark.parametrize("members", CHATS.values(), ids=CHATS)
def test_chat_through_headrace_is_as_chat_with_it(
    exact_server: Served, chain: Served, members: dict[str, Any]
) -> None:
    body = chat_body(name(exact_server), members)
    with at(f"{exact_server.url}/v1") as direct:
        theirs, stream_of_theirs = direct.chat.completions.create(**body), streamed_of(direct, **body)
    whole = [content_of(choice) for choice in theirs.choices]
    assert whole[0][0] or whole[0][1]
    assert [found["text"] for found in stream_of_theirs.choices.values()] == [text for text, *_ in whole]
    if "tool_choice" in members:
        assert json.loads(whole[0][1][0][1])["city"]
    for headers in WAYS:
        with at(f"{chain.url}/up/v1", headers) as through:
            ours = through.chat.completions.create(**body)
            assert _is_near([content_of(choice) for choice in ours.choices], whole)
            assert (ours.model, _tokens(ours.usage)) == (theirs.model, _tokens(theirs.usage))
            assert _is_near(_without_ids(streamed_of(through, **body)), _without_ids(stream_of_theirs))


@pytest.mark.parametrize("members", [{"n": 2, "logprobs": 2}, {"echo": True, "max_tokens": 0, "logprobs": 1}])
def test_texts_through_headrace_are_as_with_it(
    exact_server: Served, chain: Served, members: dict[str, Any]
) -> None:
    body: dict[str, Any] = {"model": name(exact_server), "prompt": ["The sky is", "1, 2, 3,"]}
    body |= {"temperature": 0, "max_tokens": 5, **members}
    found = []
    for client in _all_ways(exact_server, chain):
        with client:
            answer = client.completions.create(**body)
        found.append(([choice.model_dump() for choice in answer.choices], _tokens(answer.usage)))
    assert _is_near(found[0], found[1])
    assert _is_near(found[0], found[2])


def _is_near(one: object, other: object) -> bool:
    """Whether they differ only in the last digits of logprobs, which depend on the other rows of a step (on
    some processors also on whether a draft was checked).
    """
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < 1e-4
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_near(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_is_near, one, other))
    return one == other


def test_embeddings_through_headrace_are_as_with_it(exact_server: Served, chain: Served) -> None:
    found = []
    for client in _all_ways(exact_server, chain):
        with client:
            answer = client.embeddings.create(model=name(exact_server), input=["one", "two"], dimensions=32)
        found.append(([row.embedding for row in answer.data], answer.usage.prompt_tokens))
    for vectors, tokens in found[1:]:
        assert tokens == found[0][1]
        for theirs, ours in zip(found[0][0], vectors, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {
            "tools": [{"name": "weather", "input_schema": CITY}],
            "tool_choice": {"type": "tool", "name": "weather"},
            "max_tokens": 60,
        },
    ],
    ids=["text", "tool"],
)
def test_messages_through_messages(exact_server: Served, chain: Served, members: dict[str, Any]) -> None:
    body: Any = {"model": name(exact_server), "max_tokens": 12, "messages": MESSAGES, **members}
    body["extra_body"] = {"temperature": 0}
    found = []
    for url, headers in ((exact_server.url, {}), *((f"{chain.url}/messages", way) for way in WAYS)):
        with anthropic.Anthropic(base_url=url, api_key="x", max_retries=0, default_headers=headers) as client:
            whole = client.messages.create(**body)
            with client.messages.stream(**body) as stream:
                streamed = stream.get_final_message()
        for answer in (whole, streamed):
            blocks = [block.model_dump(exclude={"id"}) for block in answer.content]
            usage = answer.usage
            tokens = usage.input_tokens + (usage.cache_read_input_tokens or 0), usage.output_tokens
            found.append((blocks, answer.stop_reason, tokens))
    assert found[0][0]
    assert all(other == found[0] for other in found)


def test_tokens_are_counted_through_messages(exact_server: Served, chain: Served) -> None:
    counted = []
    for url in (exact_server.url, f"{chain.url}/messages"):
        with anthropic.Anthropic(base_url=url, api_key="x", max_retries=0) as client:
            asking = client.messages.count_tokens(model=name(exact_server), messages=MESSAGES)
            counted.append(asking.input_tokens)
    assert counted[0] == counted[1] > 5


def test_chat_through_messages(exact_server: Served, chain: Served) -> None:
    """Translated there and back."""
    body = chat_body(name(exact_server), {"tools": TOOLS, "tool_choice": NAMED, "max_tokens": 60})
    text = chat_body(name(exact_server), {})
    with at(f"{exact_server.url}/v1") as direct, at(f"{chain.url}/messages/v1") as through:
        for members in (body, text):
            theirs, ours = (client.chat.completions.create(**members) for client in (direct, through))
            whole = content_of(theirs.choices[0])
            content, calls, *_ = content_of(ours.choices[0])
            assert (content, [call for call, _ in calls]) == (whole[0], [call for call, _ in whole[1]])
            assert [json.loads(text) for _, text in calls] == [json.loads(text) for _, text in whole[1]]
            assert _tokens(ours.usage) == _tokens(theirs.usage)
            assert streamed_of(through, **members).choices[0]["text"] == content


@pytest.mark.parametrize(
    "members",
    [{}, {"response_format": FORM, "max_tokens": 60}, {"tools": TOOLS}],
    ids=["text", "schema", "tools"],
)
def test_llama_cpps_server_through_headrace(
    llama_cpp: LlamaCpp, chain: Served, members: dict[str, Any]
) -> None:
    body = chat_body("m", members)
    with at(f"{llama_cpp.url}/v1") as direct:
        for _ in range(2):  # out of its cache it computes a little otherwise than without
            theirs = direct.chat.completions.create(**body)
        stream_of_theirs = _without_ids(streamed_of(direct, **body))
    for headers in WAYS:
        with at(f"{chain.url}/llama/v1", headers) as through:
            ours = through.chat.completions.create(**body)
            assert content_of(ours.choices[0])[:3] == content_of(theirs.choices[0])[:3]
            assert _tokens(ours.usage) == _tokens(theirs.usage)
            assert _is_near(_without_ids(streamed_of(through, **body)), stream_of_theirs)


def _all_ways(exact_server: Served, chain: Served) -> list[openai.OpenAI]:
    return [at(f"{exact_server.url}/v1"), *(at(f"{chain.url}/up/v1", headers) for headers in WAYS)]


def _without_ids(seen: Seen) -> tuple[Any, tuple[int, int]]:
    """Less what is new in each answer, and what a cache has to do with."""
    assert seen.usage is not None
    calls = {
        index: [(call["name"], call["arguments"]) for call in choice["calls"].values()]
        for index, choice in seen.choices.items()
    }
    rest = {index: {**choice, "calls": calls[index]} for index, choice in seen.choices.items()}
    return rest, (seen.usage["prompt"], seen.usage["completion"])


def _tokens(usage: Any) -> tuple[int, int]:
    return usage.prompt_tokens, usage.completion_tokens
