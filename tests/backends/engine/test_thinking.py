"""Thoughts on the real model: split from the answer, and free of what the answer is held to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from headrace.models.catalog import Model
from headrace.text.tokenizer import Tokenizer
from tests.backends.engine.renamed_tokens import marked
from tests.conftest import serving_model
from tests.serving import Served

# Opens the thoughts itself, unless a variable forbids it.
TEMPLATE = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is not defined or enable_thinking %}<think>
{% endif %}{% endif %}"""
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]
SCHEMA = {
    "type": "object",
    "properties": {"why": {"type": "string", "maxLength": 6}, "sure": {"type": "boolean"}},
    "required": ["why", "sure"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "reason", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
NO_THOUGHTS = {"enable_thinking": False}


@dataclass(frozen=True)
class Thinker:
    served: Served
    client: openai.OpenAI
    briefly: dict[str, Any]  # think a few words, no more

    def body(self, *, kwargs: dict[str, Any] | None = None, **members: Any) -> dict[str, Any]:
        extra = {"extra_body": {"chat_template_kwargs": kwargs}} if kwargs else {}
        defaults = {"model": "thinker", "messages": QUESTION, "temperature": 0, "max_tokens": 8}
        return {**defaults, **extra, **members}

    def ask(self, **members: Any) -> ChatCompletion:
        answer = self.client.chat.completions.create(**self.body(**members))
        assert isinstance(answer, ChatCompletion)
        return answer

    def chunks(self, **members: Any) -> list[ChatCompletionChunk]:
        return list(self.client.chat.completions.create(**self.body(**members), stream=True))


@pytest.fixture(scope="module")
def thinker(default_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thinker]:
    folder = tmp_path_factory.mktemp("thinker")
    model = marked(default_model, folder, name="thinker", chat_template=TEMPLATE)
    tokenizer = Tokenizer(folder)
    special, [word] = tokenizer.special, tokenizer.encode(" sky")
    # Each time a token comes, the penalty makes it less likely, until the mark is likelier.
    bias = {special["<think>"]: 100, word: 90, special["</think>"]: 80}
    briefly = {"frequency_penalty": 2, "logit_bias": {str(token): by for token, by in bias.items()}}
    options = {"precision": "f32", "generation_config": "none", "kv_cache_bytes": "128MiB"}
    with serving_model(model, **options) as served, served.client() as client:
        yield Thinker(served, client, briefly)


def reasoning(message: Any) -> str:
    """Of a message or a delta; both names of it."""
    found = (message.model_extra or {}).get("reasoning_content") or ""
    assert ((message.model_extra or {}).get("reasoning") or "") == found
    return str(found)


def thought_tokens(answer: ChatCompletion) -> int:
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    return answer.usage.completion_tokens_details.reasoning_tokens or 0


def folded(chunks: list[ChatCompletionChunk]) -> list[tuple[str, str, str | None]]:
    """(thoughts, answer, reason) of each choice. Thoughts come first."""
    found: dict[int, tuple[str, str, str | None]] = {}
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        thoughts, text, _ = found.get(choice.index, ("", "", None))
        more = reasoning(choice.delta)
        assert not more or not text
        text += choice.delta.content or ""
        found[choice.index] = thoughts + more, text, choice.finish_reason
    return [found[index] for index in sorted(found)]


def choices_of(answer: ChatCompletion) -> list[tuple[str, str, str | None]]:
    return [
        (reasoning(choice.message), choice.message.content or "", choice.finish_reason)
        for choice in answer.choices
    ]


def test_answer_that_begins_amid_thoughts_is_thoughts_until_their_end(thinker: Thinker) -> None:
    answer = thinker.ask()
    [(thoughts, text, reason)] = choices_of(answer)
    assert (bool(thoughts), text, reason) == (True, "", "length")
    assert thought_tokens(answer) == 8
    assert folded(thinker.chunks()) == choices_of(answer)


def test_answer_comes_after_the_thoughts(thinker: Thinker) -> None:
    """The model begins to think by itself here."""
    options: dict[str, Any] = {"kwargs": NO_THOUGHTS, "max_tokens": 40, **thinker.briefly}
    answer = thinker.ask(**options)
    [(thoughts, text, _)] = choices_of(answer)
    assert " sky" in thoughts
    assert "</think>" not in thoughts
    assert text
    assert folded(thinker.chunks(**options)) == choices_of(answer)
    assert answer.usage is not None
    assert 1 < thought_tokens(answer) < answer.usage.completion_tokens


def test_answer_without_thoughts_has_none(thinker: Thinker) -> None:
    answer = thinker.ask(kwargs=NO_THOUGHTS)
    [(thoughts, text, _)] = choices_of(answer)
    assert (thoughts, bool(text), thought_tokens(answer)) == ("", True, 0)
    message = answer.choices[0].message.model_extra or {}
    assert "reasoning_content" not in message


@pytest.mark.parametrize("kwargs", [None, NO_THOUGHTS], ids=["open", "closed"])
def test_form_holds_after_the_thoughts(thinker: Thinker, kwargs: dict[str, Any] | None) -> None:
    options: dict[str, Any] = {"kwargs": kwargs, "max_tokens": 90, "response_format": FORM, **thinker.briefly}
    answer = thinker.ask(**options)
    [(thoughts, text, reason)] = choices_of(answer)
    assert " sky" in thoughts
    assert reason == "stop"
    jsonschema.validate(json.loads(text), SCHEMA)
    assert folded(thinker.chunks(**options)) == choices_of(answer)


def test_call_comes_after_the_thoughts(thinker: Thinker) -> None:
    options: dict[str, Any] = {"tools": [TOOL], "max_tokens": 90, **thinker.briefly}
    [choice] = thinker.ask(tool_choice="required", parallel_tool_calls=False, **options).choices
    assert " sky" in reasoning(choice.message)
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    [call] = choice.message.tool_calls
    assert call.type == "function"
    jsonschema.validate(json.loads(call.function.arguments), SCHEMA)


def test_effort_switches_thinking(thinker: Thinker) -> None:
    counted = {}
    for effort in ("none", "low", "high"):
        answer = thinker.ask(reasoning_effort=effort)
        assert answer.usage is not None
        counted[effort] = answer.usage.prompt_tokens, bool(choices_of(answer)[0][0])
    assert counted["high"] == counted["low"]
    assert counted["high"][0] > counted["none"][0]
    assert (counted["high"][1], counted["none"][1]) == (True, False)
    kwargs = {"enable_thinking": True}
    assert choices_of(thinker.ask(reasoning_effort="none", kwargs=kwargs))[0][0], "what is said outright wins"


def test_effort_is_refused_where_the_template_knows_none(exact_server: Served) -> None:
    body = {"messages": QUESTION, "model": "smollm2-135m-instruct", "max_tokens": 1}
    refused = exact_server.post("/v1/chat/completions", {**body, "reasoning_effort": "high"})
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, "reasoning_effort")
    assert error["code"] == "unsupported_parameter"
    assert exact_server.post("/v1/chat/completions", {**body, "reasoning_effort": "none"}).status_code == 200


def test_logprobs_are_of_the_answers_tokens_only(thinker: Thinker) -> None:
    """The marks and the thoughts have none; what is held back is not lost."""
    for members in ({"response_format": FORM, "max_tokens": 90}, {"max_tokens": 40}):
        options: dict[str, Any] = {"logprobs": True, **thinker.briefly, **members}
        [choice] = thinker.ask(**options).choices
        assert choice.logprobs is not None
        entries = choice.logprobs.content or []
        if choice.finish_reason == "stop" and entries[-1].token == "<|im_end|>":
            entries.pop()
        text = b"".join(bytes(entry.bytes or ()) for entry in entries).decode()
        assert text == choice.message.content
