"""Messages and options of Ollama's dialect as neutral ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.errors import BadRequest
from headrace.types import Conversation, GenerateRequest, Media, Message, Sampling, Texts, ToolCall
from headrace.wire.ollama.request import (
    OllamaChatBody,
    OllamaGenerateBody,
    chat_request,
    generate_request,
)
from headrace.wire.parameters import parse
from tests.wire.samples import PNG, SCHEMA

USER = {"role": "user", "content": "Hi"}


def chat(*messages: dict[str, Any], **members: Any) -> GenerateRequest:
    body = {"model": "m", "messages": messages or [USER], **members}
    return chat_request(parse(OllamaChatBody, json.dumps(body).encode()))


def generate(**members: Any) -> GenerateRequest:
    return generate_request(parse(OllamaGenerateBody, json.dumps({"model": "m", **members}).encode()))


def messages_of(request: GenerateRequest) -> tuple[Message, ...]:
    assert isinstance(request.prompt, Conversation)
    return request.prompt.messages


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}}


def result(content: str, **members: Any) -> dict[str, Any]:
    return {"role": "tool", "content": content, **members}


def test_results_belong_to_calls_by_id_then_by_name_then_in_order() -> None:
    calls = [{"id": "c1", **call("a", x=1)}, call("b"), call("a", x=2), call("c")]
    calling = {"role": "assistant", "content": "", "tool_calls": calls}
    results = [
        result("1", tool_name="b"),
        result("2", tool_call_id="c1"),
        result("3", tool_name="a"),
        result("4"),
    ]
    _, asked, *answered = messages_of(chat(USER, calling, *results))
    ids = [one.id for one in asked.tool_calls]
    assert asked.tool_calls[0] == ToolCall("c1", "a", '{"x": 1}')
    assert len(set(ids)) == 4
    assert [one.tool_call_id for one in answered] == [ids[1], "c1", ids[2], ids[3]]


def test_arguments_may_be_text_and_may_be_missing() -> None:
    calls = [{"function": {"name": "a", "arguments": '{"x": 1}'}}, {"function": {"name": "b"}}]
    asked = messages_of(chat(USER, {"role": "assistant", "tool_calls": calls}))[1]
    assert [one.arguments for one in asked.tool_calls] == ['{"x": 1}', "{}"]


@pytest.mark.parametrize(
    ("data", "media_type"),
    [(PNG, "image/png"), ("/9j/4AAQ", "image/jpeg"), ("R0lGODlh", "image/gif"), ("UklGRgAA", "image/webp")],
)
def test_images_get_their_type_from_how_they_begin(data: str, media_type: str) -> None:
    expected = Media("image", data=data, media_type=media_type)
    assert messages_of(chat({**USER, "images": [data]}))[0].parts == ("Hi", expected)
    assert messages_of(generate(prompt="Hi", images=[data]))[0].parts == ("Hi", expected)


@pytest.mark.parametrize("data", ["", "hello", "/9j/é", "data:image/png;base64,iVBORw0KGgo="])
def test_what_is_no_image_is_refused_by_its_place(data: str) -> None:
    with pytest.raises(BadRequest) as caught:
        chat(USER, {**USER, "images": [PNG, data]})
    assert caught.value.param == "messages.1.images.1"


def test_thoughts_go_back_into_the_history() -> None:
    said = {"role": "assistant", "content": "yes", "thinking": "hm"}
    assert messages_of(chat(USER, said, USER))[1].reasoning == "hm"


@pytest.mark.parametrize(
    ("think", "effort"), [(None, None), (False, "none"), (True, "medium"), ("low", "low"), ("max", "max")]
)
def test_think_is_an_effort_that_may_be_left_out(think: object, effort: str | None) -> None:
    prompt = chat(think=think).prompt
    assert isinstance(prompt, Conversation)
    assert prompt.reasoning_effort == effort
    assert "reasoning_effort" in prompt.wishes


def test_the_last_words_of_an_assistant_go_on() -> None:
    prompt = chat(USER, {"role": "assistant", "content": "The sky"}).prompt
    assert isinstance(prompt, Conversation)
    assert (prompt.continue_final_message, prompt.add_generation_prompt) == (True, False)


def test_options_have_the_names_of_ollama() -> None:
    options = {
        "temperature": 0.5, "top_k": 40.0, "top_p": 0.9, "min_p": 0.05, "seed": 7.0, "num_predict": 12,
        "repeat_penalty": 1.1, "presence_penalty": 0.1, "frequency_penalty": 0.2, "stop": ["a", "b"],
        "num_ctx": 8192.0,
    }  # fmt: skip
    assert chat(options=options).sampling == Sampling(
        12, 0.5, 0.9, 40, 0.05, 1.1, 0.2, 0.1, seed=7, stop=("a", "b")
    )


@pytest.mark.parametrize("limit", [0, -1, -2])
def test_an_answer_without_a_limit(limit: int) -> None:
    assert chat(options={"num_predict": limit, "seed": -1}).sampling == Sampling()


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"temperature": "hot"}, "options.temperature"), ({"temperature": -1}, "options.temperature"),
        ({"top_k": 1.5}, "options.top_k"), ({"stop": [""]}, "options.stop.0"),
        ({"seed": 2**63}, "options.seed"),
        ("fast", "options"),
    ],
)  # fmt: skip
def test_options_that_are_wrong_are_named(options: object, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        chat(options=options)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("value", "kind"), [("json", "json_object"), (SCHEMA, "json_schema"), ({}, "json_schema")]
)
def test_formats(value: object, kind: str) -> None:
    format = chat(format=value).format
    assert format is not None
    assert (format.kind, format.param) == (kind, "format")


@pytest.mark.parametrize("value", ["", None])
def test_an_empty_format_is_none(value: object) -> None:
    assert chat(format=value).format is None


def test_a_prompt_is_a_users_message_or_a_text() -> None:
    assert messages_of(generate(prompt="Hi", system="Be brief.")) == (
        Message("system", "Be brief."),
        Message("user", "Hi"),
    )
    assert generate(prompt="<s>Hi", raw=True).prompt == Texts(("<s>Hi",), parse_special=True)
    assert generate(prompt="def f(", suffix="return 1").prompt == Texts(("def f(",), "return 1")


@pytest.mark.parametrize(("truncate", "keep"), [(None, None), (False, None), (True, -1)])
def test_a_prompt_is_cut_only_where_the_caller_says_so(truncate: bool | None, keep: int | None) -> None:
    assert chat(truncate=truncate).sampling.truncate_prompt_tokens == keep
