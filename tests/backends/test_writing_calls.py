"""G14, G21, G22: calls of the history, names of tools, and numbers that JSON does not have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.backends.writing import Writing
from headrace.finite import dumps, loads
from headrace.types import Conversation, GenerateRequest, Message, Tool, ToolCall
from tests.backends.writing import (
    CHAT,
    DOWN,
    HI,
    MESSAGES,
    RESPONSES,
    SCHEMA,
    STRICT,
    TOOL,
    TOOLS,
    Written,
    anthropic_events,
    calling,
    names,
)
from tests.upstream import Answer, sse

# G14, G22

BROKEN = {
    "half": '{"city": "Be',
    "no object": "[1]",
    "a text": '"Bern"',
    "nothing like it": "call me",
    "too deep": "[" * 100_000,
    "no JSON": "{'city': 'Bern'}",
}


def sent_arguments(body: dict[str, Any]) -> Any:
    """Of the first call in what was sent, in whichever dialect."""
    for message in body["messages"]:
        for block in message["content"] if isinstance(message["content"], list) else []:
            if block["type"] == "tool_use":
                return block["input"]
        for call in message.get("tool_calls") or []:
            found = call["function"]["arguments"]
            return json.loads(found) if isinstance(found, str) else found
    return None


@pytest.mark.parametrize("model", ["an:claude-opus-5", "ol:m", "up:m", "up-an", "up-ol"])
@pytest.mark.parametrize("arguments", BROKEN.values(), ids=BROKEN)
def test_g14_broken_arguments_are_wrapped_and_named(written: Written, arguments: str, model: str) -> None:
    if model.startswith("up-"):
        written.play(DOWN)
    messages = [*HI, calling(arguments), {"role": "tool", "content": "?", "tool_call_id": "c1"}]
    body = {"model": model, "messages": messages, "tools": TOOLS}
    headers = STRICT if model == "up:m" else {}
    status, answer_headers, _ = written.ask(CHAT, body, **headers)
    assert (status, names(answer_headers)) == (200, ["messages.tool_calls.function.arguments"])
    assert sent_arguments(written.last) == {"arguments": arguments}


@pytest.mark.parametrize("model", ["an:claude-opus-5", "ol:m"])
def test_g22_half_a_character_in_arguments_is_replaced(written: Written, model: str) -> None:
    messages = [*HI, calling(r'{"a": "x\ud83d"}'), {"role": "tool", "content": "?", "tool_call_id": "c1"}]
    assert written.ask(CHAT, {"model": model, "messages": messages, "tools": TOOLS})[0] == 200
    assert sent_arguments(written.last) == {"a": "x\ufffd"}


def test_g14_a_stored_turn_can_be_gone_on_with_elsewhere(written: Written) -> None:
    delta = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": '}}
    chunks = [
        {"choices": [{"index": 0, "delta": {"tool_calls": [delta]}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    ]
    written.play(Answer(pieces=sse(*chunks, "[DONE]")))
    tools = [{"type": "function", "name": "f", "parameters": SCHEMA}]
    _, _, first = written.ask(RESPONSES, {"model": "up:m", "input": "hi", "tools": tools})
    output = {"type": "function_call_output", "call_id": "c1", "output": "?"}
    for model in ("an:claude-opus-5", "ol:m", "an-up"):
        body = {"model": model, "input": [output], "tools": tools, "previous_response_id": first["id"]}
        status, headers, _ = written.ask(RESPONSES, body)
        assert (status, names(headers)) == (200, ["input.arguments"])
        assert sent_arguments(written.last) == {"arguments": '{"a": '}


@pytest.mark.parametrize("model", ["an:claude-opus-5", "ol:m", "up:m"])
@pytest.mark.parametrize(
    "arguments", ['{"a": NaN}', '{"a": 1e999}', '{"a": -Infinity, "b": [Infinity]}', '{"a": {"b": -1e400}}']
)
def test_g22_what_is_sent_is_json(written: Written, arguments: str, model: str) -> None:
    messages = [*HI, calling(arguments), {"role": "tool", "content": "?", "tool_call_id": "c1"}]
    status, _, _ = written.ask(CHAT, {"model": model, "messages": messages, "tools": TOOLS}, **STRICT)
    assert status == 200

    def fail(constant: str) -> None:
        raise AssertionError(constant)

    body = json.loads(written.requests[-1].raw, parse_constant=fail)
    json.dumps(sent_arguments(body), allow_nan=False)


def test_g22_numbers_stay_numbers() -> None:
    assert loads('{"a": NaN, "b": 1e999, "c": -Infinity, "d": 1.5, "e": 10}') == {
        "a": None, "b": 1.7976931348623157e308, "c": -1.7976931348623157e308, "d": 1.5, "e": 10,
    }  # fmt: skip
    assert dumps([float("nan"), float("inf"), {"a": [float("-inf")]}, 0.1]) == (
        '[null, 1.7976931348623157e+308, {"a": [-1.7976931348623157e+308]}, 0.1]'
    )


@pytest.mark.parametrize("text", ['{"a":  1}', '{"a": "é"}', '{"b": 1, "a": 2}'])
def test_g22_what_is_an_object_stays_as_it_was_written(text: str) -> None:
    request = GenerateRequest("m", Conversation((Message("user", "hi"),)))
    assert Writing(request).arguments_text(text) == text
    assert Writing(request).arguments_text("") == "{}"


def test_g22_a_body_that_is_mended_on_its_way_stays_json(written: Written) -> None:
    raw = b'{"model":"up:m","messages":[{"role":"developer","content":"x"}],"seed":1e999,"top_p":1}'
    assert written.served.post(CHAT, content=raw).status_code == 200
    assert b'"seed":1e999' in written.requests[-1].raw
    raw = raw.replace(b'"content":"x"', b'"content":"x","odd":[-1e999]')
    assert written.served.post(CHAT, content=raw).status_code == 200
    assert b"Infinity" not in written.requests[-1].raw


NUMBERS = ['{"a": 1e999}', '{"a": NaN}', '{"a": [-Infinity]}']


@pytest.mark.parametrize("arguments", NUMBERS)
@pytest.mark.parametrize("model", ["up:m", "ol:m"])
@pytest.mark.parametrize("path", [MESSAGES, RESPONSES, CHAT])
def test_g22_what_callers_get_is_json(written: Written, path: str, model: str, arguments: str) -> None:
    delta = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    chunks = [
        {"choices": [{"index": 0, "delta": {"tool_calls": [delta]}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    ]
    written.play(Answer(pieces=sse(*chunks, "[DONE]")))
    line = b'{"message": {"tool_calls": [{"function": {"name": "f", "arguments": %b}}]}, "done": true}\n'
    written.play(
        Answer(headers={"Content-Type": "application/x-ndjson"}, pieces=[line % arguments.encode()]),
        path="/api/chat",
    )
    said: dict[str, Any] = {"input": "hi"} if path == RESPONSES else {"messages": HI}
    tools: Any = {MESSAGES: TOOL, CHAT: TOOLS, RESPONSES: [{"type": "function", "name": "f"}]}[path]
    body = {"model": model, "max_tokens": 9, "tools": tools, **said}
    response = written.served.post(path, body, headers=STRICT if path == CHAT else {})

    def fail(constant: str) -> None:
        raise AssertionError(constant)

    assert response.status_code == 200, response.text
    json.loads(response.text, parse_constant=fail)


def test_g22_a_schema_with_an_endless_number_is_no_500(written: Written) -> None:
    raw = (
        b'{"model":"up:m","input":"hi","tools":[{"type":"function","name":"f",'
        b'"parameters":{"type":"object","maximum":1e999}}]}'
    )
    assert written.served.post(RESPONSES, content=raw).status_code in (200, 400)


def test_g22_logprobs_that_are_endless(written: Written) -> None:
    token = b'{"token": "x", "logprob": -Infinity, "top_logprobs": []}'
    chunk = b'data: {"choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": {"content": [%b]}}]}\n\n'
    end = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, "[DONE]")
    for stream in (False, True):
        written.play(Answer(pieces=[chunk % token, *end]))
        body = {"model": "up:m", "messages": HI, "logprobs": True, "stream": stream}
        response = written.served.post(CHAT, body, headers=STRICT)
        assert response.status_code in (200, 502), response.text
        assert "Infinity" not in response.text


# G21: names of tools

DOTTED = "files.read"
ODD_NAMES = [DOTTED, "files_read", "x" * 200, "a.b.c", "-_-"]


def test_g21_two_names_never_become_one() -> None:
    tools = tuple(Tool(name) for name in [*ODD_NAMES, "files-read", "x" * 199 + "y", "a_b.c"])
    written = Writing(GenerateRequest("m", Conversation((Message("user", "hi"),), tools)))
    sent = [written.tool(tool.name) for tool in tools]
    assert len(set(sent)) == len(tools)
    assert all(len(name) <= 64 and "." not in name for name in sent)
    assert [written.renamed.get(name, name) for name in sent] == [tool.name for tool in tools]
    assert written.tool("files_read") == "files_read"


def test_g21_a_name_of_the_history_is_the_same_without_its_tool() -> None:
    called = Message("assistant", "", tool_calls=(ToolCall("c", DOTTED, "{}"),))
    request = GenerateRequest("m", Conversation((called,)))
    assert Writing(request).tool(DOTTED) == "files_read"


def used(name: str) -> list[bytes]:
    block = {"type": "tool_use", "id": "t1", "name": name, "input": {}}
    return anthropic_events((block, [{"type": "input_json_delta", "partial_json": "{}"}]), stop="tool_use")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["an:claude-opus-5", "an-up"])
def test_g21_a_dot_in_a_name_is_mapped_and_mapped_back(written: Written, model: str, stream: bool) -> None:
    written.play(Answer(pieces=used("files_read")), path="/v1/messages")
    tool = {"name": DOTTED, "input_schema": SCHEMA}
    use = {"type": "tool_use", "id": "t0", "name": DOTTED, "input": {"a": "x"}}
    result = {"type": "tool_result", "tool_use_id": "t0", "content": "ok"}
    body = {
        "model": model,
        "max_tokens": 9,
        "stream": stream,
        "tools": [tool],
        "tool_choice": {"type": "tool", "name": DOTTED},
        "messages": [*HI, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}],
    }
    status, headers, whole = written.ask(MESSAGES, body)
    assert (status, names(headers)) == (200, [])
    sent = written.last
    assert (sent["tools"][0]["name"], sent["tool_choice"]["name"]) == ("files_read", "files_read")
    assert sent["messages"][1]["content"][0]["name"] == "files_read"
    if stream:
        assert f'"name":"{DOTTED}"' in whole["text"].replace(" ", "")
    else:
        assert whole["content"][0]["name"] == DOTTED


@pytest.mark.parametrize("model", ["up:m", "own:m", "ol:m", "an:claude-opus-5"])
@pytest.mark.parametrize("name", [DOTTED, "x" * 200])
def test_g21_in_every_dialect(written: Written, model: str, name: str) -> None:
    tools = [{"type": "function", "name": name, "parameters": SCHEMA}]
    sent = Writing(
        GenerateRequest("m", Conversation((), (Tool(name),))), most=128 if model.startswith("an") else 64
    ).tool(name)
    delta = {"index": 0, "id": "c1", "type": "function", "function": {"name": sent, "arguments": "{}"}}
    chunks = [
        {"choices": [{"index": 0, "delta": {"tool_calls": [delta]}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    ]
    call = {"function": {"name": sent, "arguments": {}}}
    line = {"message": {"role": "assistant", "content": "", "tool_calls": [call]}, "done": True}
    written.play(Answer(pieces=sse(*chunks, "[DONE]")))
    written.play(Answer(pieces=used(sent)), path="/v1/messages")
    written.play(
        Answer(headers={"Content-Type": "application/x-ndjson"}, pieces=[json.dumps(line).encode() + b"\n"]),
        path="/api/chat",
    )
    status, _, answer = written.ask(RESPONSES, {"model": model, "input": "hi", "tools": tools})
    assert status == 200, answer
    assert [item["name"] for item in answer["output"] if item["type"] == "function_call"] == [name]
    sent_tool = written.last["tools"][0]
    assert sent_tool.get("name", sent_tool.get("function", {}).get("name")) == sent
