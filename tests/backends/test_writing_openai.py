"""G11 to G13: what is written in OpenAI's dialect so that a provider takes it, relayed, translated and along
a route.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from headrace.backends.openai import OpenAIBackend
from headrace.backends.openai.corrections import corrections, is_own
from headrace.config import ProviderConfig
from headrace.types import Conversation, GenerateRequest, Message, ToolCall
from tests.backends.writing import (
    BLOCK,
    CHAT,
    DOWN,
    HI,
    IMAGE_URL,
    MESSAGES,
    RESPONSES,
    STRICT,
    TOOL,
    TOOLS,
    Written,
    calling,
    names,
    shown,
)

# G11


@pytest.mark.parametrize("model", ["up:m", "own:m", "an-up"])
def test_g11_an_image_in_a_result_goes_after_the_results(written: Written, model: str) -> None:
    if model == "an-up":
        written.play(DOWN, path="/v1/messages")
    body = {"model": model, "messages": shown({"type": "text", "text": "here"}, BLOCK), "max_tokens": 9}
    assert written.ask(MESSAGES, {**body, "tools": TOOL})[0] == 200
    one, two, user = written.last["messages"][-3:]
    assert (one["role"], one["content"], one["tool_call_id"]) == ("tool", "here", "c1")
    assert (two["role"], two["content"]) == ("tool", "plain")
    assert user["role"] == "user"
    assert [part["type"] for part in user["content"]] == ["text", "image_url"]
    assert user["content"][1]["image_url"]["url"] == IMAGE_URL["image_url"]["url"]
    assert "c1" in user["content"][0]["text"]


def test_g11_a_result_of_an_image_alone_has_a_text(written: Written) -> None:
    written.ask(MESSAGES, {"model": "up:m", "messages": shown(BLOCK), "max_tokens": 9, "tools": TOOL})
    result = written.last["messages"][-3]
    assert isinstance(result["content"], str)
    assert result["content"]


def test_g11_what_the_user_says_beside_the_results_is_in_the_same_message(written: Written) -> None:
    said = {"type": "text", "text": "what is it?"}
    messages = shown(BLOCK, BLOCK, after=[said])
    written.ask(MESSAGES, {"model": "up:m", "messages": messages, "max_tokens": 9, "tools": TOOL})
    assert [message["role"] for message in written.last["messages"]][-3:] == ["tool", "tool", "user"]
    assert [part["type"] for part in written.last["messages"][-1]["content"]] == [
        "text", "image_url", "image_url", "text",
    ]  # fmt: skip


def test_g11_a_document_and_the_output_of_a_function_call(written: Written) -> None:
    pdf = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="}
    items = [
        {"role": "user", "content": "hi"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "c1",
            "output": [{"type": "input_text", "text": "a file"}, pdf],
        },
    ]
    status, _, answer = written.ask(RESPONSES, {"model": "up:m", "input": items})
    assert status == 200, answer
    tool, user = written.last["messages"][-2:]
    assert (tool["role"], tool["content"]) == ("tool", "a file")
    assert user["content"][1]["file"]["filename"] == "a.pdf"


def test_g11_relayed_too(written: Written) -> None:
    result = {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "x"}, IMAGE_URL]}
    messages = [*HI, calling(), result, {"role": "assistant", "content": "ok"}, *HI]
    written.ask(CHAT, {"model": "up:m", "messages": messages, "unknown": 1})
    assert written.last["unknown"] == 1
    roles = [message["role"] for message in written.last["messages"]]
    assert roles == ["user", "assistant", "tool", "user", "assistant", "user"]
    assert written.last["messages"][2]["content"] == "x"


def test_g11_anthropic_takes_them_where_they_are(written: Written) -> None:
    messages = shown(BLOCK)
    written.ask(MESSAGES, {"model": "an-up", "messages": messages, "max_tokens": 9, "tools": TOOL})
    assert written.last["messages"][-1]["content"][0]["content"][0]["type"] == "image"


# G12

SPOKEN: list[Any] = [
    {"role": "developer", "content": "one"},
    {"role": "system", "content": "two"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yes"},
    {"role": "system", "content": "three"},
    {"role": "developer", "content": [{"type": "text", "text": "four"}]},
    {"role": "user", "content": "so?"},
]


@pytest.mark.parametrize("headers", [{}, STRICT], ids=["relayed", "translated"])
@pytest.mark.parametrize("model", ["up:m", "ce:m"])
def test_g12_a_third_party_gets_one_system_message(
    written: Written, model: str, headers: dict[str, str]
) -> None:
    status, answer_headers, _ = written.ask(
        CHAT, {"model": model, "messages": SPOKEN, "max_tokens": 5}, **headers
    )
    assert (status, names(answer_headers)) == (200, ["messages.role"])
    messages = written.last["messages"]
    assert [message["role"] for message in messages] == [
        "system", "user", "assistant", "user", "user", "user",
    ]  # fmt: skip
    assert messages[0]["content"] == "one\n\ntwo"
    assert [message["content"] for message in messages[3:5]] in (
        ["three", "four"], ["three", [{"type": "text", "text": "four"}]],
    )  # fmt: skip


@pytest.mark.parametrize("headers", [{}, STRICT], ids=["relayed", "translated"])
def test_g12_openai_gets_them_as_they_are(written: Written, headers: dict[str, str]) -> None:
    status, answer_headers, _ = written.ask(CHAT, {"model": "own:m", "messages": SPOKEN}, **headers)
    assert (status, names(answer_headers)) == (200, [])
    assert [message["role"] for message in written.last["messages"]] == [m["role"] for m in SPOKEN]


@pytest.mark.parametrize("headers", [{}, STRICT], ids=["relayed", "translated"])
def test_g12_only_a_developer_is_no_loss(written: Written, headers: dict[str, str]) -> None:
    messages = [{"role": "developer", "content": "one"}, *HI]
    status, answer_headers, _ = written.ask(CHAT, {"model": "up:m", "messages": messages}, **headers)
    assert (status, names(answer_headers)) == (200, [])
    assert written.last["messages"][0] == {"role": "system", "content": "one"}


def test_g12_of_parts_the_parts_are_joined(written: Written) -> None:
    two = [{"type": "text", "text": "two"}]
    messages = [{"role": "system", "content": "one"}, {"role": "developer", "content": two}, *HI]
    written.ask(CHAT, {"model": "up:m", "messages": messages})
    assert written.last["messages"][0]["content"] == [{"type": "text", "text": "one"}, *two]


NOTE = {"role": "developer", "content": "note"}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "r"}
SHOWN = {**RESULT, "content": [{"type": "text", "text": "r"}, IMAGE_URL]}
TWO = {**calling(), "tool_calls": [*calling()["tool_calls"], *calling(id="c2")["tool_calls"]]}
BETWEEN: dict[str, list[Any]] = {
    "before the only result": [*HI, calling(), NOTE, RESULT],
    "between two results": [*HI, TWO, RESULT, NOTE, {**RESULT, "tool_call_id": "c2"}],
    "an image of the first": [*HI, TWO, SHOWN, {**RESULT, "tool_call_id": "c2"}],
    "an image and a note": [*HI, TWO, SHOWN, NOTE, {**RESULT, "tool_call_id": "c2"}],
    "what the user says": [*HI, calling(), {"role": "user", "content": "wait"}, RESULT],
    "without a result": [*HI, TWO, RESULT, NOTE, {"role": "user", "content": "go on"}],
    "two turns": [*HI, calling(), NOTE, RESULT, calling(id="c9"), NOTE, {**RESULT, "tool_call_id": "c9"}],
}


@pytest.mark.parametrize("headers", [{}, STRICT], ids=["relayed", "translated"])
@pytest.mark.parametrize("model", ["up:m", "own:m", "ce:m"])
@pytest.mark.parametrize("messages", BETWEEN.values(), ids=BETWEEN)
def test_g12_nothing_comes_between_calls_and_their_results(
    written: Written, messages: list[Any], model: str, headers: dict[str, str]
) -> None:
    status, _, _ = written.ask(CHAT, {"model": model, "messages": messages, "tools": TOOLS}, **headers)
    assert status == 200
    roles = "".join(message["role"][0] for message in written.last["messages"])
    assert all(results in ("t", "tt") for results in re.findall(r"a(t*)", roles))
    assert roles.count("t") == sum(message["role"] == "tool" for message in messages)
    assert roles.replace("t", "").count("a") == sum(message["role"] == "assistant" for message in messages)


def test_g12_results_of_a_response_too(written: Written) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c1", "output": "r"}
    items = [{"role": "user", "content": "hi"}, call, {**NOTE, "type": "message"}, result]
    assert written.ask(RESPONSES, {"model": "up:m", "input": items})[0] == 200
    assert [message["role"] for message in written.last["messages"]] == ["user", "assistant", "tool", "user"]


def test_g12_in_the_other_dialects(written: Written) -> None:
    items = [{"role": "developer", "content": "one"}, {"role": "user", "content": "hi"}]
    written.ask(RESPONSES, {"model": "up:m", "input": items, "instructions": "zero"})
    first, *rest = written.last["messages"]
    assert (first["role"], first["content"]) == ("system", "zero\n\none")
    assert [message["role"] for message in rest] == ["user"]
    spoken = [*HI, {"role": "assistant", "content": "yes"}, {"role": "system", "content": "late"}, *HI]
    written.ask(MESSAGES, {"model": "up:m", "messages": spoken, "system": "first", "max_tokens": 9})
    assert [message["role"] for message in written.last["messages"]] == [
        "system", "user", "assistant", "user", "user",
    ]  # fmt: skip


def test_g12_what_is_as_it_should_be_goes_on_byte_for_byte(written: Written) -> None:
    said = b'[{"role":"system","content":"\\u0061"},  {"role":"user","content":"x"}]'
    raw = b'{"model":"up:m",  "messages": ' + said + b"}"
    assert written.served.post(CHAT, content=raw).status_code == 200
    assert written.requests[-1].raw == raw.replace(b'"up:m"', b'"m"')


@pytest.mark.parametrize(
    "messages", [None, 7, [7, None], [{"role": ["x"]}], [{"role": "tool", "content": [3]}], []]
)
def test_g12_what_is_no_message_is_left_to_the_provider(written: Written, messages: Any) -> None:
    assert written.ask(CHAT, {"model": "up:m", "messages": messages})[0] == 200
    assert written.last["messages"] == messages


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("https://api.openai.com/v1", True),
        ("https://eu.api.openai.com/v1", True),
        ("https://mine.openai.azure.com/openai/v1", True),
        ("https://api.deepseek.com/v1", False),
        ("https://api.openai.com.evil.example/v1", False),
        ("http://127.0.0.1:1/v1", False),
    ],
)
def test_g12_whose_address_it_is(url: str, own: bool) -> None:
    assert is_own(url) is own


# Gemini's signatures

GEMINI = "https://generativelanguage.googleapis.com/v1beta/openai"
UNSIGNED = {"google": {"thought_signature": "skip_thought_signature_validator"}}


def calls_for(url: str) -> list[Any]:
    config = ProviderConfig(kind="openai", base_url=url, models=("m",))
    call = ToolCall("c1", "f", "{}")
    history = (Message("user", "hi"), Message("assistant", "", tool_calls=(call, replace(call, id="c2"))))
    body = OpenAIBackend("p", config, None).write(GenerateRequest("m", Conversation(history)))[1]
    calls: list[Any] = body["messages"][1]["tool_calls"]
    return calls


def test_gemini_gets_no_call_without_a_signature() -> None:
    assert [call["extra_content"] for call in calls_for(GEMINI)] == [UNSIGNED, UNSIGNED]
    for url in (
        "https://api.openai.com/v1",
        "https://x.googleapis.com.evil.example/v1",
        "http://127.0.0.1:1/v1",
    ):
        assert all("extra_content" not in call for call in calls_for(url))


def test_geminis_own_signatures_stay() -> None:
    own = {"id": "c1", "extra_content": {"google": {"thought_signature": "c2ln"}}}
    messages = [*HI, {"role": "assistant", "tool_calls": [own, {"id": "c2"}, 5]}, "odd", {"tool_calls": 5}]
    changed, ignored = corrections({"messages": messages}, has_all_roles=True, signs_calls=True)
    assert changed["messages"][1]["tool_calls"] == [own, {"id": "c2", "extra_content": UNSIGNED}, 5]
    assert [changed["messages"][at] for at in (0, 2, 3)] == [messages[at] for at in (0, 2, 3)]
    assert not ignored
    signed = [*HI, {"role": "assistant", "tool_calls": [own]}]
    assert corrections({"messages": signed}, has_all_roles=True, signs_calls=True) == ({}, ())


# G13

LONG = "user_" + "0" * 145


@pytest.mark.parametrize("model", ["up:m", "own:m", "an-up"])
def test_g13_a_long_user_is_hashed_to_fit(written: Written, model: str) -> None:
    if model == "an-up":
        written.play(DOWN, path="/v1/messages")
    body = {"model": model, "messages": HI, "max_tokens": 9, "metadata": {"user_id": LONG}}
    assert written.ask(MESSAGES, body)[0] == 200
    first = written.last["user"]
    assert len(first) == 64
    if model != "an-up":
        written.ask(MESSAGES, body)
        assert written.last["user"] == first, "the same for the same"


@pytest.mark.parametrize("headers", [{}, STRICT], ids=["relayed", "translated"])
@pytest.mark.parametrize(("user", "is_unchanged"), [("u" * 64, True), ("u" * 65, False), ("ü" * 64, True)])
def test_g13_of_a_chat_too(written: Written, user: str, is_unchanged: bool, headers: dict[str, str]) -> None:
    assert written.ask(CHAT, {"model": "up:m", "messages": HI, "user": user}, **headers)[0] == 200
    assert (written.last["user"] == user) is is_unchanged
    assert len(written.last["user"]) <= 64


@pytest.mark.parametrize("headers", [{}, STRICT], ids=["relayed", "translated"])
@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_g13_other_names_fit_too(written: Written, path: str, headers: dict[str, str]) -> None:
    said = {"input": "hi"} if path == RESPONSES else {"messages": HI}
    names = {"safety_identifier": "s" * 65, "prompt_cache_key": "k" * 64}
    assert written.ask(path, {"model": "up:m", **names, **said}, **headers)[0] == 200
    assert len(written.last["safety_identifier"]) == 64
    assert written.last["prompt_cache_key"] == "k" * 64
    longer = {"prompt_cache_key": "k" * 77}
    sent = [written.ask(path, {"model": "up:m", **longer, **said}, **headers) and written.last for _ in "12"]
    first, second = (body["prompt_cache_key"] for body in sent)
    assert (len(first), first) == (64, second)


@pytest.mark.parametrize(
    ("user", "is_unchanged"),
    [
        ("ann@example.com", False),
        ("+41 44 668 18 00", False),
        ("x" * 257, False),
        ("x" * 150, True),
        ("user_1", True),
        ("0190a3c2-7f1e-7c3e-8a49-0e6c5b1d2f3a", True),
    ],
)
@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_g13_anthropic_gets_no_names(written: Written, path: str, user: str, is_unchanged: bool) -> None:
    said = {"input": "hi"} if path == RESPONSES else {"messages": HI}
    assert written.ask(path, {"model": "an:claude-opus-5", "user": user, **said})[0] == 200
    user_id = written.last["metadata"]["user_id"]
    assert (user_id == user) is is_unchanged
    assert is_unchanged or len(user_id) == 64


@pytest.mark.parametrize("id", ["c" * 40, "c" * 41, "toolu_" + "x" * 60, "a.b:c"])
def test_g13_ids_of_calls_fit_and_their_results_find_them(written: Written, id: str) -> None:
    messages = [*HI, calling(id=id), {"role": "tool", "content": "?", "tool_call_id": id}]
    body = {"model": "up:m", "messages": messages, "tools": TOOLS}
    assert written.ask(CHAT, body, **STRICT)[0] == 200
    sent = written.last["messages"][1]["tool_calls"][0]["id"]
    assert written.last["messages"][2]["tool_call_id"] == sent
    assert (sent == id) is (len(id) <= 40)
    assert len(sent) <= 40


@pytest.mark.parametrize(("user", "is_unchanged"), [("ann@example.com", False), ("user_1", True)])
def test_g13_relayed_to_anthropic(written: Written, user: str, is_unchanged: bool) -> None:
    body = {
        "model": "an:claude-opus-5",
        "messages": HI,
        "max_tokens": 9,
        "metadata": {"user_id": user, "x": 1},
    }
    assert written.ask(MESSAGES, body)[0] == 200
    metadata = written.last["metadata"]
    assert (metadata["user_id"] == user, metadata["x"]) == (is_unchanged, 1)


# large histories are corrected in a thread


def test_a_large_history_is_mended_whole(written: Written) -> None:
    messages = [{"role": "developer", "content": "x" * 70_000}, *HI]
    assert written.ask(CHAT, {"model": "up:m", "messages": messages})[0] == 200
    assert written.last["messages"][0]["role"] == "system"
    assert written.ask(CHAT, {"model": "an:claude-opus-5", "messages": messages})[0] == 200
    assert written.last["system"][0]["text"] == "x" * 70_000
