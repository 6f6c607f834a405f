"""Whatever is sent, the answer is a 4xx in OpenAI's shape that names the member at fault, and the server goes
on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from headrace.app import create_app
from headrace.backends.fake import FakeBackend
from headrace.config import Config
from tests.serving import Served, serving

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "hi"}
SMALL: dict[str, dict[str, Any]] = {
    CHAT: {"model": "fake", "messages": [USER]},
    COMPLETIONS: {"model": "fake", "prompt": "hi"},
}


@pytest.fixture(scope="module")
def fake() -> Any:
    with serving(create_app(Config(), [FakeBackend(["Hello"])])) as served:
        yield served


@dataclass(frozen=True)
class Case:
    """`members` replace those of a small valid body; `content` replaces all of it."""

    param: str
    members: dict[str, Any] | None = None
    content: bytes | None = None
    code: str = "invalid_value"
    status: int = 400


def messages(*entries: Any) -> dict[str, Any]:
    return {"messages": list(entries)}


def part(**members: Any) -> dict[str, Any]:
    return messages({"role": "user", "content": [members]})


def call(**function: Any) -> dict[str, Any]:
    return messages({"role": "assistant", "tool_calls": [{"id": "a", "function": function}]})


def said(**members: Any) -> dict[str, Any]:
    return messages({"role": "assistant", **members})


def tools(*functions: Any, **members: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": function} for function in functions], **members}


def chosen(choice: Any) -> dict[str, Any]:
    return tools({"name": "f"}, tool_choice=choice)


def allowed(**members: Any) -> dict[str, Any]:
    return chosen({"type": "allowed_tools", "allowed_tools": {"mode": "auto", **members}})


NAN = float("nan")  # Python writes it, and JSON has no such literal

# either endpoint: (param, value)
SHARED_VALUES: list[tuple[str, Any]] = [
    ("model", 7),
    ("model", []),
    ("stream", "yes"),
    ("stream", 1),
    ("stream_options", "usage"),
    ("stream_options", {"include_usage": True}),
    ("max_tokens", -1),
    ("max_tokens", 1.5),
    ("max_tokens", "16"),
    ("max_tokens", True),
    ("max_tokens", [16]),
    ("temperature", -0.1),
    ("temperature", 2.1),
    ("temperature", "hot"),
    ("temperature", True),
    ("temperature", 10**400),
    ("top_p", -1),
    ("top_p", 1.01),
    ("top_p", {}),
    ("top_k", -2),
    ("top_k", 2.5),
    ("top_k", "40"),
    ("min_p", -0.5),
    ("min_p", 2),
    ("n", 0),
    ("n", -3),
    ("n", 10**9),
    ("n", 10**30),
    ("n", 1.5),
    ("n", "2"),
    ("seed", "lucky"),
    ("seed", 1.5),
    ("seed", 2**63),
    ("seed", -(10**40)),
    ("stop", 5),
    ("stop", ""),
    ("stop", {}),
    ("stop", ["a", "b", "c", "d", "e"]),
    ("stop.1", ["a", 5]),
    ("stop.0", [""]),
    ("stop.0", [None]),
    ("ignore_eos", "no"),
    ("min_tokens", -1),
    ("min_tokens", 10**30),
    ("min_tokens", "8"),
    ("frequency_penalty", 2.5),
    ("frequency_penalty", "0.5"),
    ("presence_penalty", -3),
    ("repetition_penalty", 0),
    ("logit_bias", [50256]),
    ("logit_bias.50256", {"50256": 101}),
    ("logit_bias.50256", {"50256": True}),
    ("logit_bias.Hello", {"1": 1, "Hello": -1}),
    ("logit_bias.-1", {"-1": 1}),
    ("logit_bias.99999999999", {"99999999999": 1}),
    ("stop_token_ids", 2),
    ("stop_token_ids.1", [2, -1]),
    ("stop_token_ids.0", ["2"]),
    ("skip_special_tokens", "no"),
    ("truncate_prompt_tokens", -2),
    ("truncate_prompt_tokens", 1.5),
    ("priority", 0.5),
    ("priority", 2**63),
    ("timeout", 0),
    ("timeout", "1 s"),
    ("response_format", "json_object"),
    ("response_format.type", {"type": "xml"}),
    ("response_format.type", {"type": ["text"]}),
    ("response_format.json_schema.schema", {"type": "json_schema", "json_schema": {"schema": "{}"}}),
    ("guided_json", 5),
    ("guided_json", {"maximum": NAN}),
    ("response_format.json_schema.schema", {"type": "text", "json_schema": {"schema": {"minimum": NAN}}}),
    ("guided_regex", ["a"]),
    ("guided_choice", []),
    ("guided_choice.1", ["yes", 0]),
    ("guided_grammar", {}),
    ("stream_options.continuous_usage_stats", {"continuous_usage_stats": "yes"}),
]
CHAT_VALUES: list[tuple[str, dict[str, Any]]] = [
    ("messages", {"messages": None}),
    ("messages", {"messages": []}),
    ("messages", {"messages": "hi"}),
    ("messages", {"messages": {"role": "user"}}),
    ("messages.0", messages("hi")),
    ("messages.0", messages(None)),
    ("messages.1", messages(USER, 5)),
    ("messages.0.role", messages({"role": "wizard", "content": "hi"})),
    ("messages.0.role", messages({"role": None, "content": "hi"})),
    ("messages.0.role", messages({"role": 1, "content": "hi"})),
    ("messages.0.role", messages({"role": "USER", "content": "hi"})),
    ("messages.0.content", messages({"role": "user"})),
    ("messages.0.content", messages({"role": "user", "content": None})),
    ("messages.1.content", messages(USER, {"role": "tool", "tool_call_id": "a"})),
    ("messages.0.content", messages({"role": "user", "content": 7})),
    ("messages.0.content", messages({"role": "user", "content": {"text": "hi"}})),
    ("messages.0.content", messages({"role": "user", "content": []})),
    ("messages.0.content.0", messages({"role": "user", "content": ["hi"]})),
    ("messages.0.content.0", part(type="hologram")),
    ("messages.0.content.0", part(type="image_url", image_url={})),
    ("messages.0.content.0", part(type="input_audio", input_audio={})),
    ("messages.0.content.0", part(type="file", file={})),
    ("messages.0.content.0", part(type=["text"])),
    ("messages.0.content.0", part(text="hi")),
    ("messages.0.content.0.refusal", part(type="refusal", refusal=None)),
    ("messages.0.content.1", messages({**USER, "content": [{"type": "text", "text": "a"}, {"type": "b"}]})),
    ("messages.0.content.0.text", part(type="text", text=1)),
    ("messages.0.name", messages({**USER, "name": 5})),
    ("messages.0.tool_calls", said(tool_calls="f()")),
    ("messages.0.tool_calls.0.function.name", call(name=1, arguments="{}")),
    ("messages.0.tool_call_id", messages({"role": "tool", "content": "x", "tool_call_id": 9})),
    ("messages.0.tool_calls.0.type", said(tool_calls=[{"id": "a", "type": "custom"}])),
    ("messages.0.function_call", said(function_call="f")),
    ("messages.0.function_call.arguments", said(function_call={"name": "f", "arguments": {}})),
    ("messages.0.reasoning", said(content="x", reasoning={})),
    ("messages.0.reasoning_content", said(content="x", reasoning_content=["hm"])),
    ("tools", {"tools": {"name": "f"}}),
    ("tools.0", {"tools": ["f"]}),
    ("tools.0.type", {"tools": [{"type": "custom", "custom": {"name": "f"}}]}),
    ("tools.1.type", {"tools": [*tools({"name": "f"})["tools"], {"type": "web_search"}]}),
    ("tools.0.function", tools("f")),
    ("tools.0.function.name", tools({"name": 5})),
    ("tools.0.function.name", tools({"name": ""})),
    ("tools.0.function.name", tools({"name": "two words"})),
    ("tools.0.function.name", tools({"name": "f\n"})),
    ("tools.0.function.name", tools({"name": "größe"})),
    ("tools.0.function.name", tools({"name": "f" * 257})),
    ("tools.2.function.name", tools({"name": "f"}, {"name": "g"}, {"name": "f"})),
    ("tools.0.function.description", tools({"name": "f", "description": ["d"]})),
    ("tools.0.function.parameters", tools({"name": "f", "parameters": "{}"})),
    ("tools.0.function.strict", tools({"name": "f", "strict": "yes"})),
    ("tool_choice", {"tool_choice": "required"}),
    ("tool_choice", {"tools": [], "tool_choice": "required"}),
    ("tool_choice", {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
    ("tool_choice", chosen("sometimes")),
    ("tool_choice", chosen(["f"])),
    ("tool_choice", chosen({"type": "function", "function": {"name": "g"}})),
    ("tool_choice", chosen({"type": "function", "name": "F"})),
    ("tool_choice", chosen({"type": "function"})),
    ("tool_choice.type", chosen({"type": "custom", "custom": {"name": "f"}})),
    ("tool_choice.function.name", chosen({"type": "function", "function": {"name": 5}})),
    ("tool_choice.allowed_tools", chosen({"type": "allowed_tools"})),
    ("tool_choice.allowed_tools.tools", allowed(tools=[])),
    ("tool_choice.allowed_tools.mode", allowed(tools=[{"type": "function", "name": "f"}], mode="none")),
    ("tool_choice", allowed(tools=[{"type": "function", "function": {"name": "g"}}])),
    ("tool_choice.allowed_tools.tools.0.type", allowed(tools=[{"type": "mcp", "server_label": "s"}])),
    ("parallel_tool_calls", tools({"name": "f"}, parallel_tool_calls="no")),
    ("functions", {"functions": {"name": "f"}}),
    ("functions", tools({"name": "f"}, functions=[{"name": "f"}])),
    ("functions", {"functions": [{"name": "f"}], "tool_choice": "auto"}),
    ("functions.0.name", {"functions": [{"name": "no good"}]}),
    ("functions.1.name", {"functions": [{"name": "f"}, {"name": "f"}]}),
    ("function_call", {"function_call": {"name": "f"}}),
    ("function_call", {"functions": [{"name": "f"}], "function_call": {"name": "g"}}),
    ("function_call", {"functions": [{"name": "f"}], "function_call": "required"}),
    ("function_call", tools({"name": "f"}, function_call={"name": "g"})),
    ("logprobs", {"logprobs": 2}),
    ("top_logprobs", {"top_logprobs": 2}),
    ("top_logprobs", {"logprobs": False, "top_logprobs": 1}),
    ("top_logprobs", {"logprobs": True, "top_logprobs": 21}),
    ("top_logprobs", {"logprobs": True, "top_logprobs": -1}),
    ("reasoning_effort", {"reasoning_effort": "maximal"}),
    ("reasoning_effort", {"reasoning_effort": 3}),
    ("chat_template_kwargs", {"chat_template_kwargs": "enable_thinking"}),
    ("chat_template_kwargs.messages", {"chat_template_kwargs": {"messages": []}}),
    ("chat_template_kwargs.tools", {"chat_template_kwargs": {"tools": []}}),
    ("chat_template_kwargs", {"chat_template_kwargs": {"a": [{"b": NAN}]}}),
    ("tools.0.function.parameters", tools({"name": "f", "parameters": {"maximum": -NAN}})),
    ("add_generation_prompt", {"add_generation_prompt": "yes"}),
    ("continue_final_message", {"continue_final_message": 1}),
    ("continue_final_message", {"continue_final_message": True, "add_generation_prompt": True}),
    ("response_format.json_schema", {"response_format": {"type": "json_schema"}}),
    ("guided_json", {"guided_json": "{"}),
    ("guided_json", {"guided_json": {}, "response_format": {"type": "json_object"}}),
    ("guided_choice", {"guided_choice": ["a"], "guided_regex": "a"}),
    ("max_tokens", {"max_tokens": 0}),
    ("max_completion_tokens", {"max_completion_tokens": 0}),
    ("max_completion_tokens", {"max_completion_tokens": "many"}),
    ("max_completion_tokens", {"max_completion_tokens": 5, "max_tokens": 6}),
]  # fmt: skip
# JSON has no such literals; Python's own parser and some clients write them
NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999")
COMPLETION_VALUES: list[tuple[str, dict[str, Any]]] = [
    ("prompt", {"prompt": 5}),
    ("prompt", {"prompt": None}),
    ("prompt", {"prompt": {"text": "hi"}}),
]

# members that would change the output and are not honoured yet
SHARED_UNSUPPORTED: dict[str, Any] = {
    "allowed_token_ids": [1],
    "bad_words": ["no"],
    "include_stop_str_in_output": True,
    "use_beam_search": True,
}
CHAT_UNSUPPORTED: dict[str, Any] = {
    **SHARED_UNSUPPORTED,
    "echo": True,
    "modalities": ["audio"],
    "audio": {"voice": "alloy"},
    "chat_template": "{{ messages }}",
    "web_search_options": {},
}
COMPLETION_UNSUPPORTED: dict[str, Any] = {
    **SHARED_UNSUPPORTED,
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
}

NOT_OBJECTS = (b'[{"model": "fake"}]', b'"fake"', b"42", b"null")
NOT_JSON: dict[str, bytes] = {
    "empty": b"",
    "truncated": b'{"model": "fake", ',
    "unquoted": b"{model: fake}",
    "nan": b'{"model": "fake", "seed": nan}',
    "deep list": b"[" * 10_000 + b"]" * 10_000,
    "deep object": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "invalid UTF-8": b'{"model": "fak\xff"}',
    "raw surrogate": b'{"model": "fak\xed\xa0\x80"}',
    "lone surrogate": b'{"model": "fak\\ud800"}',
    "reversed surrogates": b'{"model": "fak\\udc00\\ud800"}',
    "control character": b'{"model": "fa\nke"}',
    "two values": b"{} {}",
    "utf-16": '{"model": "fake"}'.encode("utf-16"),
}


def cases() -> list[Any]:
    table: list[tuple[str, Case]] = []
    for path in (CHAT, COMPLETIONS):
        for param, value in SHARED_VALUES:
            table.append((path, Case(param, {param.partition(".")[0]: value})))
        unsupported = CHAT_UNSUPPORTED if path == CHAT else COMPLETION_UNSUPPORTED
        for param, value in unsupported.items():
            table.append((path, Case(param, {param: value}, code="unsupported_parameter")))
        table += [(path, Case("body", content=raw, code="invalid_json")) for raw in NOT_JSON.values()]
        table += [(path, Case("body", content=raw)) for raw in NOT_OBJECTS]
        for number in NUMBERS:
            body = json.dumps({**SMALL[path], "temperature": 0}).replace("0}", number + "}")
            table.append((path, Case("temperature", content=body.encode())))
        table.append((path, Case("model", {"model": "gpt-9"}, code="model_not_found", status=404)))
    table += [(CHAT, Case(param, members)) for param, members in CHAT_VALUES]
    table += [(COMPLETIONS, Case(param, members)) for param, members in COMPLETION_VALUES]
    table.append((CHAT, Case("messages.0.audio", said(audio={"id": "a"}), code="unsupported_parameter")))
    return [
        pytest.param(path, case, id=f"{path[4:]}-{i}-{case.param}") for i, (path, case) in enumerate(table)
    ]


@pytest.mark.parametrize(("path", "case"), cases())
def test_malformed_request_is_refused_and_names_its_member(fake: Served, path: str, case: Case) -> None:
    body = json.dumps({**SMALL[path], **(case.members or {})}).encode()
    response = fake.post(path, content=body if case.content is None else case.content)
    assert response.status_code == case.status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", case.param, case.code)
    assert error["message"]
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_missing_member_is_named(fake: Served, path: str) -> None:
    for name in SMALL[path]:
        body = {key: value for key, value in SMALL[path].items() if key != name}
        error = fake.post(path, body).json()["error"]
        assert (error["param"], error["code"]) == (name, "missing_required_parameter")


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    "media_type", ["text/plain", "multipart/form-data; boundary=x", "application/xml", "*"]
)
def test_wrong_content_type_is_415(fake: Served, path: str, media_type: str) -> None:
    response = fake.post(path, SMALL[path], headers={"Content-Type": media_type})
    assert response.status_code == 415
    assert response.json()["error"]["param"] == "Content-Type"


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("megabytes", [20, 100])
def test_body_over_the_limit_is_413(fake: Served, path: str, megabytes: int) -> None:
    body = b'{"model": "' + b"x" * (megabytes * 2**20)
    try:
        response = fake.post(path, content=body)
    except httpx2.TransportError:
        assert megabytes == 100, "so much is not read to its end: a client may see the connection closed"
        return
    assert response.status_code == 413
    assert response.json()["error"]["param"] == "body"


def test_arguments_nested_too_deep_are_refused_or_served(fake: Served) -> None:
    call = {"id": "a", "function": {"name": "f", "arguments": "[" * 100_000}}
    said = {"role": "assistant", "tool_calls": [call]}
    assert fake.post(CHAT, {"model": "fake", "messages": [USER, said]}).status_code in (200, 400)


def test_server_goes_on_after_all_of_that(fake: Served) -> None:
    assert fake.post(CHAT, SMALL[CHAT]).json()["choices"][0]["message"]["content"] == "Hello"
    assert fake.backend.is_alive
