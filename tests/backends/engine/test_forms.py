"""Answers in a prescribed form, on the real model in float32: whatever ends by itself is valid."""

from __future__ import annotations

import itertools
import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletion

from headrace.backends.engine import EngineBackend
from headrace.models.catalog import DEFAULT_MODEL
from tests.serving import Served, eventually

CHAT = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "Tell me about a town, in JSON."}]
TOWN = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "size": {"enum": ["small", "large"]},
        "twins": {"type": "array", "items": {"$ref": "#/$defs/twin"}, "maxItems": 2},
    },
    "required": ["name", "size", "twins"],
    "additionalProperties": False,
    "$defs": {
        "twin": {
            "type": "object",
            "properties": {"km": {"type": "integer", "minimum": 0, "maximum": 999}},
            "additionalProperties": False,
        }
    },
}
FORM = {"type": "json_schema", "json_schema": {"name": "town", "schema": TOWN, "strict": True}}
GRAMMAR = 'start: item ("," item)*\nitem: /[a-z]{1,3}/ "=" /[0-9]{2}/'


def is_town(text: str) -> bool:
    return not list(jsonschema.Draft202012Validator(TOWN).iter_errors(json.loads(text)))


FORMS: dict[str, tuple[dict[str, Any], Any]] = {
    "json_object": (
        {"response_format": {"type": "json_object"}},
        lambda text: isinstance(json.loads(text), dict),
    ),
    "json_schema": ({"response_format": FORM}, is_town),
    "guided_json": ({"guided_json": json.dumps(TOWN)}, is_town),
    "guided_regex": ({"guided_regex": "[a-z]{3,9} [0-9]{4}!"}, re.compile("[a-z]{3,9} [0-9]{4}!").fullmatch),
    "guided_choice": (
        {"guided_choice": ["straße", "a\nb", "Straßen"]},
        lambda text: text in ("straße", "a\nb", "Straßen"),
    ),
    "guided_grammar": (
        {"guided_grammar": GRAMMAR},
        re.compile("[a-z]{1,3}=[0-9]{2}(,[a-z]{1,3}=[0-9]{2})*").fullmatch,
    ),
}
GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")


@pytest.fixture(scope="module")
def client(exact_server: Served) -> Iterator[openai.OpenAI]:
    with exact_server.client() as client:
        yield client


def body(**members: Any) -> dict[str, Any]:
    extra = {name: members.pop(name) for name in (*GUIDED, "min_tokens") if name in members}
    request = {"model": DEFAULT_MODEL, "messages": QUESTION, "max_tokens": 48, "extra_body": extra}
    return {**request, **members}


def ask(client: openai.OpenAI, **members: Any) -> ChatCompletion:
    answer = client.chat.completions.create(**body(**members))
    assert isinstance(answer, ChatCompletion)
    return answer


def said(answer: ChatCompletion) -> list[tuple[str, str]]:
    return [(choice.message.content or "", choice.finish_reason) for choice in answer.choices]


def test_forms_hold_beside_each_other_and_beside_free_answers(client: openai.OpenAI) -> None:
    """All in one batch, hot, so that a free model would say anything."""
    free: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
    alone = said(ask(client, **free))
    with ThreadPoolExecutor(16) as pool:
        pending = {
            (name, seed): pool.submit(ask, client, temperature=1.2, seed=seed, **members, max_tokens=72)
            for (name, (members, _)), seed in itertools.product(FORMS.items(), (1, 2))
        }
        others = [pool.submit(ask, client, **free) for _ in range(3)]
        finished = dict.fromkeys(FORMS, 0)
        for (name, _), answer in pending.items():
            [(text, reason)] = said(answer.result())
            assert reason in ("stop", "length")
            if reason == "stop":
                finished[name] += 1
                assert FORMS[name][1](text), (name, text)
        assert all(said(other.result()) == alone for other in others)
    assert all(finished[name] for name in FORMS if name not in ("json_object", "guided_grammar")), finished


def test_choices_of_one_request_have_the_form_each(client: openai.OpenAI) -> None:
    answer = ask(client, n=3, temperature=1, seed=5, response_format=FORM, max_tokens=80)
    texts = said(answer)
    assert all(is_town(text) for text, reason in texts if reason == "stop")
    assert [reason for _, reason in texts].count("stop") >= 2
    assert len({text for text, _ in texts}) > 1


@pytest.mark.parametrize("name", ["json_schema", "guided_choice"])
def test_stream_joined_is_the_whole_answer(client: openai.OpenAI, name: str) -> None:
    members = {"temperature": 0, **FORMS[name][0]}
    chunks = list(client.chat.completions.create(**body(**members), stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert [(text, chunks[-1].choices[0].finish_reason)] == said(ask(client, **members))


def test_text_completions_have_forms_too(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=DEFAULT_MODEL, prompt=["A town:", "A river:"], temperature=0, max_tokens=20,
        extra_body={"guided_regex": " [A-Z][a-z]{2,5}\\."},
    )  # fmt: skip
    for choice in answer.choices:
        assert re.fullmatch(r" [A-Z][a-z]{2,5}\.", choice.text)
        assert choice.finish_reason == "stop"


def test_answer_that_is_cut_says_so(client: openai.OpenAI) -> None:
    [(whole, _)] = said(ask(client, temperature=0, response_format=FORM))
    [(text, reason)] = said(ask(client, temperature=0, response_format=FORM, max_tokens=6))
    assert reason == "length"
    assert whole.startswith(text)
    assert len(text) < len(whole)


def test_stop_strings_end_what_has_a_form(client: openai.OpenAI) -> None:
    [(whole, _)] = said(ask(client, temperature=0, response_format=FORM))
    [(text, reason)] = said(ask(client, temperature=0, response_format=FORM, stop='"size"'))
    assert (text, reason) == (whole[: whole.index('"size"')], "stop")


def test_seeded_answer_is_the_same_alone_and_among_15_others(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {"temperature": 1, "top_p": 0.95, "seed": 11, "response_format": FORM}
    others = list(itertools.islice(itertools.cycle([members for members, _ in FORMS.values()] + [{}]), 15))
    alone = said(ask(client, **request))
    assert said(ask(client, **request)) == alone
    with ThreadPoolExecutor(16) as pool:
        company = [
            pool.submit(ask, client, **{"max_tokens": 16, "temperature": 1, "seed": seed, **members})
            for seed, members in enumerate(others)
        ]
        assert said(pool.submit(ask, client, **request).result()) == alone
        for each in company:
            each.result()


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice"),
        ({"guided_regex": "a("}, "guided_regex"),
        ({"guided_grammar": "start: missing"}, "guided_grammar"),
        ({"guided_json": {"type": "strin"}}, "guided_json.type"),
        ({"guided_json": {"properties": {"a": {"pattern": "(?<=a)b"}}}}, "guided_json.properties.a.pattern"),
        ({"guided_json": False}, "guided_json"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": {"$ref": "https://example.com/a"}}, "guided_json.$ref"),
    ],
    ids=str,
)
def test_form_that_cannot_be_promised_is_refused_by_its_path(
    exact_server: Served, members: dict[str, Any], param: str
) -> None:
    request = {"model": DEFAULT_MODEL, "messages": QUESTION, "max_tokens": 4, **members}
    response = exact_server.post(CHAT, request)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param, response.text


def slow_schema() -> dict[str, Any]:
    """Large, but within the limits: it takes a while to compile."""
    members = {f"member_{n}": {"type": ["integer", "null"], "minimum": n} for n in range(500)}
    return {"type": "object", "properties": members, "required": [*members], "additionalProperties": False}


def test_nobody_waits_for_a_schema_that_compiles(exact_server: Served) -> None:
    request = {"model": DEFAULT_MODEL, "messages": QUESTION, "max_tokens": 2, "guided_json": slow_schema()}
    num_answered = 0
    with ThreadPoolExecutor(1) as pool:
        compiling = pool.submit(exact_server.post, CHAT, request)
        while not compiling.done():
            assert exact_server.get("/health").status_code == 200
            num_answered += 1
    assert compiling.result().status_code == 200, compiling.result().text
    assert num_answered > 5, "else they waited until it was compiled"


def test_client_that_leaves_amid_a_form_leaves_nothing(exact_server: Served) -> None:
    backend = exact_server.backend
    assert isinstance(backend, EngineBackend)
    request = {"model": DEFAULT_MODEL, "messages": QUESTION, "max_tokens": 400, "stream": True, "n": 2}
    content = json.dumps({**request, "guided_regex": "[a-z]{2000}"}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", exact_server.port)) as connection:
        connection.sendall(head + content)
        assert connection.recv(64)
        eventually(lambda: backend.engine.pool.num_held > 0)
    eventually(lambda: not exact_server.gateway.num_active)
    eventually(lambda: not backend.engine.has_work)
    assert backend.engine.pool.num_held == 0
    backend.engine.check()
