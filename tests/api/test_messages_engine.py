"""Anthropic's official client over the engine with its default model."""

from __future__ import annotations

from typing import Any

from tests.api.anthropics import COUNT, MESSAGES, PNG, QUESTION, reading
from tests.serving import Served


def test_the_engine_answers_whole_and_streamed_alike(exact_server: Served) -> None:
    body: Any = {
        "model": exact_server.backend.models()[0].id,
        "max_tokens": 8,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "extra_body": {"temperature": 0},
    }
    with reading(exact_server) as client:
        whole = client.messages.create(**body)
        with client.messages.stream(**body) as stream:
            streamed = stream.get_final_message()
        prompt: Any = {name: body[name] for name in ("model", "messages")}
        counted = client.messages.count_tokens(**prompt)
    assert whole.content[0].type == streamed.content[0].type == "text"
    assert whole.content[0].text == streamed.content[0].text
    assert "Paris" in whole.content[0].text
    usage = whole.usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    with exact_server.client() as other:
        messages: Any = body["messages"]
        chat = other.chat.completions.create(
            model=body["model"], max_tokens=8, messages=messages, temperature=0
        )
    assert chat.choices[0].message.content == whole.content[0].text


def test_the_engine_goes_on_with_a_begun_answer(exact_server: Served) -> None:
    history = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is"},
    ]
    body = {
        "model": exact_server.backend.models()[0].id,
        "max_tokens": 2,
        "messages": history,
        "temperature": 0,
    }
    answer = exact_server.post(MESSAGES, body).json()
    assert "Paris" in answer["content"][0]["text"]
    assert answer["stop_reason"] == "max_tokens"


def test_the_engine_tells_which_stop_sequence_it_met(exact_server: Served) -> None:
    body: Any = {
        "model": exact_server.backend.models()[0].id,
        "max_tokens": 12,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "stop_sequences": ["Rome", "Paris"],
        "extra_body": {"temperature": 0},
    }
    with reading(exact_server) as client:
        whole = client.messages.create(**body)
        with client.messages.stream(**body) as stream:
            streamed = stream.get_final_message()
    for answer in (whole, streamed):
        assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "Paris")
        assert "Paris" not in answer.to_json(indent=None).partition('"stop_reason"')[0]


def test_the_engine_calls_the_tool_it_must(exact_server: Served) -> None:
    body: Any = {
        "model": exact_server.backend.models()[0].id,
        "max_tokens": 60,
        "messages": QUESTION,
        "tools": [
            {
                "name": "weather",
                "input_schema": {
                    "type": "object",
                    "properties": {"city": {"enum": ["Bern", "Basel"]}},
                    "required": ["city"],
                },
            }
        ],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "extra_body": {"temperature": 0},
    }
    with reading(exact_server) as client, client.messages.stream(**body) as stream:
        answer = stream.get_final_message()
    assert answer.stop_reason == "tool_use"
    call = next(block for block in answer.content if block.type == "tool_use")
    assert call.name == "weather"
    assert call.input["city"] in ("Bern", "Basel")


def test_the_engine_reads_text_only_and_does_not_think(exact_server: Served) -> None:
    model = exact_server.backend.models()[0].id
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": [image]}]}
    for path in (MESSAGES, COUNT):
        refused = exact_server.post(path, body)
        assert refused.status_code == 400
        assert "text only" in refused.json()["error"]["message"]
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    chat = {"model": model, "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, part]}]}
    error = exact_server.post("/v1/chat/completions", chat).json()["error"]
    assert (error["param"], error["code"]) == ("messages.0.content.1", "unsupported_parameter")
    thinking = {"type": "enabled", "budget_tokens": 1024}
    answered = exact_server.post(MESSAGES, {**body, "messages": QUESTION, "thinking": thinking})
    assert answered.headers["x-headrace-ignored"] == "thinking, thinking.budget_tokens"
