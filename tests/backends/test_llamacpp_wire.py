"""llama.cpp behind the whole server: it answers as every backend does, or refuses by name."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest

from headrace.app import create_app
from headrace.backends.llamacpp import LlamaCppBackend, slots
from headrace.backends.llamacpp.dialect import checked
from headrace.config import Config
from headrace.errors import ProviderError
from headrace.models.catalog import GGUFModel, Model
from headrace.models.gguf import header
from headrace.models.model import Header
from headrace.types import Event, Format, TextDelta
from tests.models.tiny import write_tiny
from tests.serving import SLOW_S, Served, events, eventually, serving

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
PARIS = 7042  # the token
MESSAGES: Any = [{"role": "user", "content": "Name a city."}]
SCHEMA: Any = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Paris"]}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def served(default_model: Model) -> Iterator[Served]:
    """Two at once, two may wait."""
    assert default_model.gguf is not None
    backend = LlamaCppBackend(
        "headrace", default_model.gguf,
        model="m", context_length=512, num_slots=2, max_queue=2, num_threads=1,
        longest_token=header(default_model.gguf).longest_token,
    )  # fmt: skip
    with serving(create_app(Config(), [backend]), silence_s=SLOW_S) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with served.client() as client:
        yield client


def chat(client: openai.OpenAI, **members: Any) -> Any:
    body = {"model": "m", "messages": MESSAGES, "temperature": 0, "max_tokens": 8, **members}
    return client.chat.completions.create(**body)


def complete(client: openai.OpenAI, prompt: Any, **members: Any) -> Any:
    body = {"model": "m", "prompt": prompt, "temperature": 0, "max_tokens": 4, **members}
    return client.completions.create(**body)


def test_every_answer_counts(client: openai.OpenAI) -> None:
    one = chat(client)
    three = chat(client, n=3)
    texts = [choice.message.content for choice in three.choices]
    assert texts == [one.choices[0].message.content] * 3
    assert three.usage.prompt_tokens == one.usage.prompt_tokens
    assert three.usage.completion_tokens == 3 * one.usage.completion_tokens
    streamed = chat(client, n=3, stream=True, stream_options={"include_usage": True})
    found = {0: "", 1: "", 2: ""}
    for chunk in streamed:
        for choice in chunk.choices:
            found[choice.index] += choice.delta.content or ""
    assert list(found.values()) == texts
    assert chunk.usage.completion_tokens == three.usage.completion_tokens


def test_each_prompt_has_its_answers(client: openai.OpenAI) -> None:
    prompts = ["The capital of France is", "The capital of Italy is"]
    alone = [complete(client, prompt) for prompt in prompts]
    both = complete(client, prompts)
    assert [choice.text for choice in both.choices] == [found.choices[0].text for found in alone]
    assert "Rome" in both.choices[1].text
    assert both.usage.prompt_tokens == sum(found.usage.prompt_tokens for found in alone)
    assert both.usage.completion_tokens == sum(found.usage.completion_tokens for found in alone)


def test_a_seed_decides_each_answer(client: openai.OpenAI) -> None:
    def drawn(seed: int) -> list[str]:
        found = chat(client, n=2, seed=seed, temperature=1.5, max_tokens=12)
        return [choice.message.content for choice in found.choices]

    first = drawn(1)
    assert first == drawn(1)
    assert first != drawn(2)
    assert first[0] != first[1]


@pytest.mark.parametrize("requested", [0, 1, 3])
def test_as_many_logprobs_as_requested(client: openai.OpenAI, requested: int) -> None:
    logprobs = chat(client, logprobs=True, top_logprobs=requested, max_tokens=3).choices[0].logprobs.content
    assert [len(token.top_logprobs) for token in logprobs] == [requested] * 3
    assert all(token.logprob <= 0 and bytes(token.bytes).decode() == token.token for token in logprobs)
    listed = complete(client, "The capital of France is", logprobs=requested).choices[0].logprobs
    assert "".join(listed.tokens) == " Paris.\n\nThe"[: len("".join(listed.tokens))]
    assert len(listed.token_logprobs) == 4
    assert all(len(top) <= max(1, requested + 1) for top in listed.top_logprobs or ())


@pytest.mark.parametrize("n", [1, 2])
def test_g12_later_instructions_are_the_users_and_named(client: openai.OpenAI, n: int) -> None:
    messages: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "system", "content": "Answer in one word."},
    ]
    found = client.chat.completions.with_raw_response.create(model="m", messages=messages, n=n, max_tokens=3)
    assert found.headers["x-headrace-ignored"] == "messages.role"
    assert len(found.parse().choices) == n


def test_stop_strings_end_an_answer(client: openai.OpenAI) -> None:
    whole = complete(client, "The capital of France is", max_tokens=12).choices[0].text
    stop = whole[8:10]
    stopped = complete(client, "The capital of France is", max_tokens=12, stop=[stop]).choices[0]
    assert (stopped.text, stopped.finish_reason) == (whole.partition(stop)[0], "stop")


def test_answers_keep_to_a_schema(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    found = chat(client, response_format=form, max_tokens=60).choices[0].message.content
    assert json.loads(found)["city"] in ("Rome", "Paris")
    text = complete(client, "A city: ", extra_body={"response_format": form}, max_tokens=6).choices[0].text
    assert text.lstrip().startswith("{")


L1: dict[str, Any] = {
    "pattern": {"type": "string", "pattern": r"^\d{5}$"},
    "class": {"type": "string", "pattern": r"^[\w-]{1,5}$"},
    "unanchored": {"type": "string", "pattern": "[0-9]{3}", "maxLength": 12},
    "look-ahead": {"type": "string", "pattern": r"^(?=.*\d)[a-z\d]{2,4}$"},
    "format": {"type": "string", "format": "date", "maxLength": 10},
    "tuple": {"type": "array", "prefixItems": [{"type": "boolean"}], "items": {"type": "null"},
              "maxItems": 2},
    "required": {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["b"],
                 "additionalProperties": {"type": "boolean"}},
    "beside": {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}},
               "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    "definitions": {"$defs": {"a-b": {"const": 1}, "a_b": {"const": True}},
                    "type": "array", "prefixItems": [{"$ref": "#/$defs/a-b"}, {"$ref": "#/$defs/a_b"}],
                    "items": False, "minItems": 2},
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": 8},
    "not": {"type": "array", "items": {"not": {"type": ["string", "object", "array"]}}, "maxItems": 3},
}  # fmt: skip


@pytest.mark.parametrize("name", L1)
def test_l1_llama_cpp_keeps_to_our_grammar(client: openai.OpenAI, name: str) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": L1[name]}}
    found = chat(client, response_format=form, max_tokens=60, temperature=1, seed=5).choices[0]
    assert found.finish_reason == "stop"
    jsonschema.validate(json.loads(found.message.content), L1[name], jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        ({"guided_regex": "[0-9]{2}-[ab]"}, "[0-9]{2}-[ab]"),
        ({"guided_choice": ["yes/no", "n\u00f6"]}, "yes/no|n\u00f6"),
        ({"structured_outputs": {"choice": ["left", "right"]}}, "left|right"),
        ({"structured_outputs": {"regex": "x{3,5}"}}, "x{3,5}"),
        ({"guided_grammar": 'start: "a" B\nB: /[0-9]{3}/'}, "a[0-9]{3}"),
    ],
)
def test_l1_other_forms_are_enforced(client: openai.OpenAI, member: Any, expected: str) -> None:
    found = chat(client, extra_body=member, max_tokens=20, temperature=1).choices[0]
    assert re.fullmatch(expected, found.message.content)
    text = complete(client, "It is", extra_body=member, max_tokens=20, temperature=1).choices[0].text
    assert re.fullmatch(expected, text)


def test_l1_a_form_that_cannot_be_enforced_is_refused(served: Served) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"pattern": r"\bx"}}}
    refused = served.post(CHAT, {"model": "m", "messages": MESSAGES, "response_format": form})
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "unsupported_schema"


def test_l1_an_answer_that_leaves_its_form_is_an_error() -> None:
    """As llama.cpp answers that ignores a grammar."""

    async def events() -> AsyncIterator[Event]:
        yield TextDelta(0, "12")
        yield TextDelta(0, "3x")

    form = Format("grammar", "%llguidance {}\nstart: /[0-9]{4}/")

    async def read() -> list[Event]:
        return [event async for event in checked(events(), form)]

    with pytest.raises(ProviderError, match="left the form"):
        asyncio.run(read())


def test_property_is_no_keyword(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"not": {"const": 1}}, "required": ["not"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    found = chat(client, response_format=form, max_tokens=40).choices[0].message.content
    assert json.loads(found)["not"] == 1


@pytest.mark.parametrize(
    "member",
    [
        {"stop_token_ids": [1]},
        {"min_tokens": 2},
        {"skip_special_tokens": False},
        {"truncate_prompt_tokens": 5},
    ],
    ids=lambda member: next(iter(member)),
)
def test_what_it_would_leave_out_is_refused(served: Served, member: dict[str, Any]) -> None:
    refused = served.post(CHAT, {"model": "m", "messages": MESSAGES, **member})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == next(iter(member))


@pytest.mark.parametrize("member", [{"echo": True}, {"suffix": "x"}, {"echo": True, "max_tokens": 0}])
def test_of_completions_too(served: Served, member: dict[str, Any]) -> None:
    refused = served.post(COMPLETIONS, {"model": "m", "prompt": "a", **member})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_parameter")
    assert refused.json()["error"]["param"] == next(iter(member))


def test_penalties_reach_it(client: openai.OpenAI) -> None:
    prompt = "The capital of France is Paris. The capital of France is"

    def text(**members: Any) -> str:
        return str(complete(client, prompt, extra_body=members).choices[0].text)

    assert " Paris" in text()
    assert " Paris" not in text(repetition_penalty=5)
    assert " Paris" not in text(logit_bias={str(PARIS): -100})


def test_the_assistants_message_is_continued_on_request(served: Served) -> None:
    history = [*MESSAGES, {"role": "assistant", "content": "The capital of France is"}]
    body = {"model": "m", "messages": history, "max_tokens": 3, "temperature": 0}
    goes_on = {"continue_final_message": True, "add_generation_prompt": False}
    answer = served.post(CHAT, {**body, **goes_on})
    assert "Paris" in answer.json()["choices"][0]["message"]["content"], answer.text
    refused = served.post(CHAT, body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages")
    assert served.post(CHAT, {**body, "messages": MESSAGES}).status_code == 200  # its process lives


def test_more_than_there_is_room_for_is_overload(served: Served) -> None:
    long = {"model": "m", "prompt": "a", "max_tokens": 400, "ignore_eos": True, "stream": True}
    with ExitStack() as exits:
        for number in range(1, 5):
            exits.enter_context(served.begin(COMPLETIONS, long))
            eventually(partial(_has_active, served, number))
        full = served.post(CHAT, {"model": "m", "messages": MESSAGES})
    assert (full.status_code, full.json()["error"]["code"]) == (503, "server_is_overloaded")
    assert full.headers["retry-after"]
    eventually(lambda: not _active(served))


def test_all_slots_full_of_long_answers_fail_none(tmp_path: Path) -> None:
    """In a pool of memory that all share they would."""
    path = write_tiny(tmp_path / "tiny.gguf", "exaone")
    backend = LlamaCppBackend("headrace", path, context_length=256, num_slots=3, num_threads=1)
    with serving(create_app(Config(), [backend]), silence_s=SLOW_S) as served, served.client() as client:
        long = {"ignore_eos": True}
        found = client.completions.create(model="tiny", prompt=["a", "b", "c", "d"], extra_body=long)
        assert found.usage is not None
        assert found.usage.completion_tokens == 4 * 16
        found = client.completions.create(
            model="tiny", prompt=["a", "b", "c", "d"], max_tokens=500, extra_body=long
        )
    assert [choice.finish_reason for choice in found.choices] == ["length"] * 4
    assert found.usage is not None
    assert found.usage.completion_tokens > 4 * 200


@pytest.mark.parametrize(
    ("path", "members", "code"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "water " * 100_000}]}, "context"),
        (COMPLETIONS, {"prompt": ["Hi", "water " * 100_000]}, "context"),
        ("/v1/tokenize", {"prompt": "water " * 400_000}, "string"),
        ("/v1/tokenize", {"messages": [{"role": "user", "content": "water " * 400_000}]}, "string"),
    ],
    ids=["chat", "prompts", "text", "conversation"],
)
def test_text_that_cannot_fit_never_reaches_llama_cpp(
    served: Served, path: str, members: dict[str, Any], code: str
) -> None:
    answer = served.post(path, {"model": "m", **members})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"].startswith(code)
    assert "requested about" in answer.text or "longer than" in answer.text  # it would have counted them


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_frees_the_slot(served: Served, stream: bool) -> None:
    long = {"model": "m", "prompt": "a", "max_tokens": 480, "ignore_eos": True, "stream": stream, "n": 2}
    if stream:
        with served.http.stream("POST", COMPLETIONS, json=long) as response:
            pieces = response.iter_raw()
            next(pieces)
    else:
        with served.begin(COMPLETIONS, long):
            eventually(lambda: _active(served))
    eventually(lambda: not _active(served))
    eventually(lambda: not any(slot["is_processing"] for slot in _slots(served)))


def test_it_has_no_embeddings_and_says_so(served: Served) -> None:
    refused = served.post("/v1/embeddings", {"model": "m", "input": "a"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")


def test_messages_of_the_other_dialect(served: Served) -> None:
    body = {"model": "m", "max_tokens": 8, "messages": MESSAGES, "temperature": 0}
    answer = served.post("/v1/messages", body).json()
    whole = served.post(CHAT, body).json()["choices"][0]["message"]["content"]
    assert answer["content"][0]["text"] == whole
    streamed = served.post(CHAT, {**body, "stream": True})
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in events(streamed)[:-1]) == whole


@pytest.mark.parametrize(
    ("header", "limits", "expected"),
    [
        ((1000, 10), (0, 10**9, 32), (8, 1000)),  # at most eight
        ((1000, 10), (0, 35_000, 32), (3, 1000)),  # as many as fit
        ((1000, 10), (400, 9_000, 32), (2, 400)),
        ((1000, 10), (0, 6_000, 32), (1, 600)),  # less than the model takes
        ((1000, 10), (4000, 10**9, 2), (2, 1000)),
        ((0, 0), (0, 5_000, 32), (8, 4096)),  # it does not say
        ((0, 0), (700, 5_000, 32), (8, 700)),
    ],
)
def test_slots_fit_the_memory(
    header: tuple[int, int], limits: tuple[int, int, int], expected: tuple[int, int]
) -> None:
    length, cache_bytes = header
    model = GGUFModel("m", Path("m.gguf"), Header("x", "F16", length, cache_bytes))
    longest, budget, sequences = limits
    found = slots(model, max_model_len=longest, kv_cache_bytes=budget, max_num_seqs=sequences)
    assert found == expected


def _has_active(served: Served, count: int) -> bool:
    return _active(served) >= count


def _active(served: Served) -> int:
    assert isinstance(served.backend, LlamaCppBackend)
    return served.backend._places.num_taken


def _slots(served: Served) -> list[Any]:
    async def fetch() -> list[Any]:
        assert isinstance(served.backend, LlamaCppBackend)
        found: list[Any] = await served.backend._now().native.json("GET", "/slots")
        return found

    return asyncio.run_coroutine_threadsafe(fetch(), served.loop).result(60)
