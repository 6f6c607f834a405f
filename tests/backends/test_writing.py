"""G11 to G14, G21, G22: what is written to a provider so that it takes it, relayed, translated and along a
route.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from headrace.backends.openai.mending import is_own
from headrace.backends.writing import Writing
from headrace.finite import dumps, loads
from headrace.types import Conversation, GenerateRequest, Message, Tool, ToolCall
from tests.backends.writing import CHAT, HI, MESSAGES, RESPONSES, Written, anthropic_events, writing
from tests.upstream import Answer, answer, sse

STRICT = {"X-Headrace-Strict": "true"}
DOWN = answer({"error": {"message": "down"}}, status=503)
PNG = "iVBORw0KGgo="
IMAGE_URL = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
BLOCK = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.fixture(scope="module")
def running() -> Iterator[Written]:
    with writing() as made:
        yield made


@pytest.fixture
def written(running: Written) -> Written:
    running.provider.forget()
    return running


def names(headers: Any) -> list[str]:
    return [name for name in headers.get("x-headrace-ignored", "").split(", ") if name]


def calling(arguments: str = "{}", name: str = "f", id: str = "c1") -> dict[str, Any]:
    call = {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


# G11


def shown(*content: Any, after: Any = ()) -> list[Any]:
    """In Anthropic's dialect: two calls, whose results hold these blocks."""
    uses = [{"type": "tool_use", "id": f"c{at}", "name": "f", "input": {}} for at in (1, 2)]
    results = [
        {"type": "tool_result", "tool_use_id": "c1", "content": list(content)},
        {"type": "tool_result", "tool_use_id": "c2", "content": "plain"},
    ]
    return [*HI, {"role": "assistant", "content": uses}, {"role": "user", "content": [*results, *after]}]


TOOL = [{"name": "f", "input_schema": SCHEMA}]


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
    assert user["content"][1]["image_url"]["url"] == IMAGE_URL["image_url"]["url"]  # type: ignore[index]
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
    status, _, told = written.ask(RESPONSES, {"model": "up:m", "input": items})
    assert status == 200, told
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
    status, told, _ = written.ask(CHAT, {"model": model, "messages": SPOKEN, "max_tokens": 5}, **headers)
    assert (status, names(told)) == (200, ["messages.role"])
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
    status, told, _ = written.ask(CHAT, {"model": "own:m", "messages": SPOKEN}, **headers)
    assert (status, names(told)) == (200, [])
    assert [message["role"] for message in written.last["messages"]] == [m["role"] for m in SPOKEN]


@pytest.mark.parametrize("headers", [{}, STRICT], ids=["relayed", "translated"])
def test_g12_only_a_developer_is_no_loss(written: Written, headers: dict[str, str]) -> None:
    messages = [{"role": "developer", "content": "one"}, *HI]
    status, told, _ = written.ask(CHAT, {"model": "up:m", "messages": messages}, **headers)
    assert (status, names(told)) == (200, [])
    assert written.last["messages"][0] == {"role": "system", "content": "one"}


def test_g12_of_parts_the_parts_are_joined(written: Written) -> None:
    two = [{"type": "text", "text": "two"}]
    messages = [{"role": "system", "content": "one"}, {"role": "developer", "content": two}, *HI]
    written.ask(CHAT, {"model": "up:m", "messages": messages})
    assert written.last["messages"][0]["content"] == [{"type": "text", "text": "one"}, *two]


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
    assert written.asked[-1].raw == raw.replace(b'"up:m"', b'"m"')


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
@pytest.mark.parametrize(("user", "is_kept"), [("u" * 64, True), ("u" * 65, False), ("ü" * 64, True)])
def test_g13_of_a_chat_too(written: Written, user: str, is_kept: bool, headers: dict[str, str]) -> None:
    assert written.ask(CHAT, {"model": "up:m", "messages": HI, "user": user}, **headers)[0] == 200
    assert (written.last["user"] == user) is is_kept
    assert len(written.last["user"]) <= 64


@pytest.mark.parametrize(
    ("user", "is_kept"),
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
def test_g13_anthropic_is_told_no_names(written: Written, path: str, user: str, is_kept: bool) -> None:
    said = {"input": "hi"} if path == RESPONSES else {"messages": HI}
    assert written.ask(path, {"model": "an:claude-opus-5", "user": user, **said})[0] == 200
    told = written.last["metadata"]["user_id"]
    assert (told == user) is is_kept
    assert is_kept or len(told) == 64


@pytest.mark.parametrize("id", ["c" * 40, "c" * 41, "toolu_" + "x" * 60, "a.b:c"])
def test_g13_ids_of_calls_fit_and_their_results_find_them(written: Written, id: str) -> None:
    messages = [*HI, calling(id=id), {"role": "tool", "content": "?", "tool_call_id": id}]
    body = {"model": "up:m", "messages": messages, "tools": TOOLS}
    assert written.ask(CHAT, body, **STRICT)[0] == 200
    sent = written.last["messages"][1]["tool_calls"][0]["id"]
    assert written.last["messages"][2]["tool_call_id"] == sent
    assert (sent == id) is (len(id) <= 40)
    assert len(sent) <= 40


# G14, G22

BROKEN = {
    "half": '{"city": "Be',
    "no object": "[1]",
    "a text": '"Bern"',
    "nothing like it": "call me",
    "too deep": "[" * 100_000,
    "no JSON": "{'city': 'Bern'}",
}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]


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
    status, told, _ = written.ask(CHAT, body, **headers)
    assert (status, names(told)) == (200, ["messages.tool_calls.function.arguments"])
    assert sent_arguments(written.last) == {"arguments": arguments}


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
        status, told, _ = written.ask(RESPONSES, body)
        assert (status, names(told)) == (200, ["input.arguments"])
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

    body = json.loads(written.asked[-1].raw, parse_constant=fail)
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
    status, told, whole = written.ask(MESSAGES, body)
    assert (status, names(told)) == (200, [])
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
    status, _, told = written.ask(RESPONSES, {"model": model, "input": "hi", "tools": tools})
    assert status == 200, told
    assert [item["name"] for item in told["output"] if item["type"] == "function_call"] == [name]
    told_tool = written.last["tools"][0]
    assert told_tool.get("name", told_tool.get("function", {}).get("name")) == sent


# G21: the rest

PREFILL = [*HI, {"role": "assistant", "content": "The answer is \n"}]
WAYS = ["an:claude-opus-4-1", "an-up"]


@pytest.mark.parametrize("model", WAYS)
@pytest.mark.parametrize("blocks", [False, True])
def test_g21_a_prefill_ends_without_white_space(written: Written, model: str, blocks: bool) -> None:
    content: Any = [{"type": "text", "text": "The answer is \n"}] if blocks else "The answer is \n"
    messages = [*HI, {"role": "assistant", "content": content}]
    assert written.ask(MESSAGES, {"model": model, "messages": messages, "max_tokens": 9})[0] == 200
    last = written.last["messages"][-1]["content"]
    assert (last if isinstance(last, str) else last[-1]["text"]) == "The answer is"


def test_g21_a_prefill_of_a_chat_too(written: Written) -> None:
    body = {"model": "an:claude-opus-4-1", "messages": PREFILL, "continue_final_message": True}
    assert written.ask(CHAT, body)[0] == 200
    assert written.last["messages"][-1]["content"][0]["text"] == "The answer is"


@pytest.mark.parametrize("model", WAYS)
@pytest.mark.parametrize("type", ["image/jpg", "IMAGE/JPEG", "image/pjpeg"])
@pytest.mark.parametrize("is_result", [False, True])
def test_g21_a_type_of_image_has_its_right_name(
    written: Written, model: str, type: str, is_result: bool
) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": type, "data": PNG}}
    messages = shown(image) if is_result else [{"role": "user", "content": [image]}]
    body = {"model": model, "messages": messages, "max_tokens": 9, "tools": TOOL}
    assert written.ask(MESSAGES, body)[0] == 200
    raw = written.asked[-1].raw
    assert b'"image/jpeg"' in raw
    assert type.encode() not in raw


@pytest.mark.parametrize("type", ["image/bmp", "image/svg+xml", "image/tiff"])
def test_g21_an_image_that_it_does_not_read_is_refused_with_the_reason(written: Written, type: str) -> None:
    num = len(written.asked)
    url = {"url": f"data:{type};base64,{PNG}"}
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]
    status, _, told = written.ask(CHAT, {"model": "an:claude-opus-5", "messages": messages})
    assert (status, told["error"]["param"]) == (400, "messages.0.content.0")
    assert "image/webp" in told["error"]["message"]
    assert len(written.asked) == num


@pytest.mark.parametrize(
    ("model", "is_kept"),
    [
        ("an:claude-opus-4-1", False),
        ("an-up", False),
    ],
)
def test_g21_temperature_and_top_p_together(written: Written, model: str, is_kept: bool) -> None:
    body = {"model": model, "messages": HI, "max_tokens": 9, "temperature": 0.5, "top_p": 0.9}
    status, told, _ = written.ask(MESSAGES, body)
    assert (status, names(told)) == (200, [] if is_kept else ["top_p"])
    assert ("top_p" in written.last) is is_kept
    assert written.last["temperature"] == 0.5
    written.ask(MESSAGES, {**body, "temperature": 1})
    assert written.last["top_p"] == 0.9


def test_g21_beside_thinking_no_temperature(written: Written) -> None:
    body = {
        "model": "an:claude-opus-4-1", "messages": HI, "reasoning_effort": "low", "temperature": 0.3,
        "max_tokens": 9000, "top_k": 5,
    }  # fmt: skip
    status, told, _ = written.ask(CHAT, body)
    assert (status, sorted(names(told))) == (200, ["temperature", "top_k"])
    assert written.last["thinking"]["type"] == "enabled"


def looped(*thoughts: Any) -> list[Any]:
    """Blocks of Anthropic's dialect: a call after these thoughts, and its result."""
    use = {"type": "tool_use", "id": "t0", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t0", "content": "ok"}
    return [*HI, {"role": "assistant", "content": [*thoughts, use]}, {"role": "user", "content": [result]}]


UNSIGNED = {"type": "thinking", "thinking": "hm", "signature": ""}
SIGNED = {"type": "thinking", "thinking": "hm", "signature": "s=="}


@pytest.mark.parametrize("thoughts", [[], [UNSIGNED]], ids=["none", "unsigned"])
def test_g21_thinking_with_a_history_that_nobody_signed(written: Written, thoughts: list[Any]) -> None:
    body = {
        "model": "an-up", "messages": looped(*thoughts), "max_tokens": 9000, "tools": TOOL,
        "thinking": {"type": "enabled", "budget_tokens": 2000},
    }  # fmt: skip
    status, told, _ = written.ask(MESSAGES, body)
    assert (status, "thinking" in names(told)) == (200, True)
    assert "thinking" not in written.last
    assert [block["type"] for block in written.last["messages"][1]["content"]] == ["tool_use"]


def test_g21_with_one_that_is_signed_it_thinks(written: Written) -> None:
    body = {
        "model": "an-up", "messages": looped(SIGNED), "max_tokens": 9000, "tools": TOOL,
        "thinking": {"type": "enabled", "budget_tokens": 2000},
    }  # fmt: skip
    assert names(written.ask(MESSAGES, body)[1]) == []
    assert written.last["thinking"]["budget_tokens"] == 2000
    done = [*looped(), {"role": "assistant", "content": "done"}, *HI]
    written.ask(MESSAGES, {**body, "messages": done})
    assert written.last["thinking"]["budget_tokens"] == 2000, "that turn is over"


def test_g21_a_forced_call_is_not_thought_about(written: Written) -> None:
    body = {
        "model": "an:claude-opus-5", "messages": HI, "tools": TOOLS, "tool_choice": "required",
        "reasoning_effort": "low",
    }  # fmt: skip
    status, told, _ = written.ask(CHAT, body)
    assert (status, names(told)) == (200, ["reasoning_effort"])
    assert "thinking" not in written.last


def test_g21_relayed_thoughts_that_nobody_signed_are_left_out(written: Written) -> None:
    text = {"type": "text", "text": "yes"}
    messages = [*HI, {"role": "assistant", "content": [UNSIGNED, SIGNED, text]}, *HI]
    status, told, _ = written.ask(
        MESSAGES, {"model": "an:claude-opus-5", "messages": messages, "max_tokens": 9}
    )
    assert (status, names(told)) == (200, ["messages.content.thinking"])
    assert written.last["messages"][1]["content"] == [SIGNED, text]


ORDERED = [
    SIGNED,
    {"type": "text", "text": "first"},
    {"type": "redacted_thinking", "data": "0paque"},
    {"type": "tool_use", "id": "t0", "name": "f", "input": {}},
]


def test_g21_thoughts_are_replayed_in_their_order(written: Written) -> None:
    result = {"type": "tool_result", "tool_use_id": "t0", "content": "ok"}
    messages = [*HI, {"role": "assistant", "content": ORDERED}, {"role": "user", "content": [result]}]
    body = {"model": "an-up", "messages": messages, "max_tokens": 9, "tools": TOOL}
    assert written.ask(MESSAGES, body)[0] == 200
    assert [block["type"] for block in written.last["messages"][1]["content"]] == [
        "thinking", "text", "redacted_thinking", "tool_use",
    ]  # fmt: skip


def test_g21_relayed_thinking_is_switched_off_where_its_beginning_is_missing(written: Written) -> None:
    body = {
        "model": "an:claude-opus-4-1", "messages": looped(UNSIGNED), "max_tokens": 9000, "tools": TOOL,
        "thinking": {"type": "enabled", "budget_tokens": 2000},
    }  # fmt: skip
    status, told, _ = written.ask(MESSAGES, body)
    assert (status, names(told)) == (200, ["messages.content.thinking", "thinking"])
    assert written.last["thinking"] == {"type": "disabled"}
    written.ask(MESSAGES, {**body, "messages": looped(SIGNED)})
    assert written.last["thinking"]["budget_tokens"] == 2000
    written.ask(MESSAGES, {**body, "model": "an:claude-opus-5"})
    assert written.last["thinking"]["type"] == "enabled"


@pytest.mark.parametrize(("user", "is_kept"), [("ann@example.com", False), ("user_1", True)])
def test_g13_relayed_to_anthropic(written: Written, user: str, is_kept: bool) -> None:
    body = {
        "model": "an:claude-opus-5",
        "messages": HI,
        "max_tokens": 9,
        "metadata": {"user_id": user, "x": 1},
    }
    assert written.ask(MESSAGES, body)[0] == 200
    told = written.last["metadata"]
    assert (told["user_id"] == user, told["x"]) == (is_kept, 1)


def test_g22_a_body_that_is_mended_on_its_way_stays_json(written: Written) -> None:
    raw = b'{"model":"up:m","messages":[{"role":"developer","content":"x"}],"seed":1e999,"top_p":1}'
    assert written.served.post(CHAT, content=raw).status_code == 200
    assert b'"seed":1e999' in written.asked[-1].raw
    raw = raw.replace(b'"content":"x"', b'"content":"x","odd":[-1e999]')
    assert written.served.post(CHAT, content=raw).status_code == 200
    assert b"Infinity" not in written.asked[-1].raw


NUMBERS = ['{"a": 1e999}', '{"a": NaN}', '{"a": [-Infinity]}']


@pytest.mark.parametrize("arguments", NUMBERS)
@pytest.mark.parametrize("model", ["up:m", "ol:m"])
@pytest.mark.parametrize("path", [MESSAGES, RESPONSES, CHAT])
def test_g22_what_callers_are_told_is_json(written: Written, path: str, model: str, arguments: str) -> None:
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


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 3, 2, 4], [2, 1, 0, 3], [1, 3, 0, 4]])
def test_g21_kept_thoughts_come_back_in_their_order(written: Written, order: list[int]) -> None:
    blocks: list[Any] = [
        ({"type": "thinking", "thinking": ""}, [
            {"type": "thinking_delta", "thinking": "hm"}, {"type": "signature_delta", "signature": "s1"},
        ]),
        ({"type": "text", "text": ""}, [{"type": "text_delta", "text": "first"}]),
        ({"type": "redacted_thinking", "data": "0paque"}, []),
        ({"type": "tool_use", "id": "t0", "name": "f", "input": {}}, []),
        ({"type": "tool_use", "id": "t1", "name": "f", "input": {}}, []),
    ]  # fmt: skip
    chosen = [blocks[index] for index in order]
    written.play(Answer(pieces=anthropic_events(*chosen, stop="tool_use")), path="/v1/messages")
    tools = [{"type": "function", "name": "f", "parameters": SCHEMA}]
    asked = {"model": "an:claude-opus-5", "tools": tools}
    _, _, first = written.ask(RESPONSES, {**asked, "input": "hi"})
    ids = [block["id"] for block, _ in chosen if block["type"] == "tool_use"]
    output = [{"type": "function_call_output", "call_id": id, "output": "?"} for id in ids]
    written.ask(RESPONSES, {**asked, "input": output, "previous_response_id": first["id"]})
    sent = [block["type"] for block in written.last["messages"][1]["content"]]
    assert sent == [block["type"] for block, _ in chosen]


# large histories are mended in a thread


def test_a_large_history_is_mended_whole(written: Written) -> None:
    messages = [{"role": "developer", "content": "x" * 70_000}, *HI]
    assert written.ask(CHAT, {"model": "up:m", "messages": messages})[0] == 200
    assert written.last["messages"][0]["role"] == "system"
    assert written.ask(CHAT, {"model": "an:claude-opus-5", "messages": messages})[0] == 200
    assert written.last["system"][0]["text"] == "x" * 70_000
