"""Items: what callers send, what they are to a model, and which say the same."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from openai._models import validate_type
from openai.types.conversations import ConversationItem
from openai.types.responses import ResponseItem

from headrace.collected import Choice, Reasoned, Spoken
from headrace.errors import BadRequest, ItemNotFound, UnsupportedParameter
from headrace.turns.dedupe import content_hash
from headrace.types import Media, Message, Thought, ToolCall
from headrace.wire import chat
from headrace.wire.items import (
    Item,
    ItemBody,
    compaction,
    of_chat,
    of_choice,
    references,
    resolved,
    to_items,
    to_messages,
)
from headrace.wire.parameters import RequestBody, parse

PNG = base64.b64encode(b"\x89PNG\r\n").decode()
IMAGE = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}
CALL = {"type": "function_call", "call_id": "c", "name": "look", "arguments": '{"a": 1}'}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "7"}


class Body(RequestBody):
    input: str | list[ItemBody]


def items_of(input: object) -> list[Item]:
    return to_items(parse(Body, json.dumps({"input": input}).encode()).input, "input")


def item_of(item: dict[str, Any]) -> Item:
    (item_sent,) = items_of([item])
    return item_sent


def text(role: str, said: str, **members: Any) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": said}], **members}


def said(item: Item) -> Item:
    return {name: value for name, value in item.items() if name not in ("id", "status")}


USER = {"status": "completed", **text("user", "hi")}


@pytest.mark.parametrize(
    "sent",
    [
        "hi",
        [{"role": "user", "content": "hi"}],
        [{"type": "message", "role": "user", "content": "hi"}],
        [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        [{"role": "user", "content": [{"type": "output_text", "text": "hi", "logprobs": []}]}],
        [{"role": "user", "content": "hi", "id": None, "status": None, "phase": None, "foo": 1}],
    ],
)
def test_a_message_is_normalised(sent: object) -> None:
    assert items_of(sent) == [USER]


def test_ids_and_statuses_of_callers_are_kept() -> None:
    sent = {**text("assistant", "a"), "id": "mine", "status": "incomplete", "phase": "commentary"}
    listed = item_of(sent)
    assert (listed["id"], listed["status"], listed["phase"]) == ("mine", "incomplete", "commentary")
    assert listed["content"] == [{"type": "output_text", "text": "a", "annotations": [], "logprobs": []}]


def test_annotations_of_an_assistant_are_kept() -> None:
    cited = {"type": "url_citation", "url": "https://a.b", "title": "A", "start_index": 0, "end_index": 1}
    sent = {"role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": [cited]}]}
    assert item_of(sent)["content"][0]["annotations"] == [cited]


HOSTED = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}}


@pytest.mark.parametrize(
    "item",
    [
        {**CALL, "id": "fc_1", "status": "completed"},
        {**RESULT, "id": "fco_1", "status": "incomplete"},
        {**RESULT, "id": "fco_1", "status": "completed", "output": [{"type": "input_text", "text": "7"}]},
        {
            "type": "custom_tool_call",
            "id": "x",
            "status": "completed",
            "call_id": "c",
            "name": "p",
            "input": "+",
        },
        {"type": "custom_tool_call_output", "id": "x", "status": "completed", "call_id": "c", "output": "ok"},
        {"type": "reasoning", "id": "rs_1", "status": "completed", "summary": [], "encrypted_content": "x"},
        HOSTED,
    ],
)
def test_a_whole_item_stays_as_it_is(item: dict[str, Any]) -> None:
    assert item_of(item) == item
    assert item_of(dict(item_of(item))) == item


LISTED = [
    {"role": "user", "content": "hi", "name": "Ann"},
    {"role": "system", "content": [IMAGE, {"type": "input_file", "file_data": IMAGE["image_url"]}]},
    {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "no"}]},
    CALL,
    {**RESULT, "output": [IMAGE]},
    {"type": "custom_tool_call", "call_id": "c", "name": "p", "input": "+"},
    {"type": "custom_tool_call_output", "call_id": "c", "output": "ok"},
    {"type": "reasoning", "content": [{"type": "text", "text": "hm"}]},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "x"},
    compaction("They spoke of rain."),
]


@pytest.mark.parametrize("kind", [ResponseItem, ConversationItem])
@pytest.mark.parametrize("item", LISTED)
def test_the_official_client_reads_what_was_sent_in_lists(item: dict[str, Any], kind: Any) -> None:
    listed = {"id": "x_1", **item_of(item)}
    assert validate_type(type_=kind, value=listed).to_dict() == listed


def test_items_of_hosted_tools_are_not_shown() -> None:
    assert to_messages(items_of([{"role": "user", "content": "hi"}, HOSTED])) == (Message("user", "hi"),)


BAD: list[Any] = [
    (5, "input"),
    ([5], "input.0"),
    ([{"type": "nope"}], "input.0"),
    ([{"type": 5}], "input.0"),
    ([{}], "input.0.role"),
    ([{"role": "tool", "content": "x"}], "input.0.role"),
    ([{"role": "user"}], "input.0.content"),
    ([{"role": "user", "content": None}], "input.0.content"),
    ([USER, {"role": "user", "content": [{"type": "x"}]}], "input.1.content.0"),
    ([{"role": "user", "content": ["x"]}], "input.0.content.0"),
    ([{"role": "user", "content": [{"type": "input_text"}]}], "input.0.content.0.text"),
    ([{"role": "user", "content": [{"type": "input_text", "text": 5}]}], "input.0.content.0.text"),
    ([{"role": "user", "content": [{"type": "refusal", "refusal": "no"}]}], "input.0.content.0"),
    ([{"role": "assistant", "content": [IMAGE]}], "input.0.content.0"),
    ([{"role": "user", "content": [{"type": "input_image"}]}], "input.0.content.0.image_url"),
    ([{"role": "user", "content": [{**IMAGE, "detail": "huge"}]}], "input.0.content.0.detail"),
    ([{"role": "user", "content": [{**IMAGE, "file_id": "f"}]}], "input.0.content.0.file_id"),
    ([{"role": "user", "content": [{"type": "input_file", "file_url": "x"}]}], "input.0.content.0.file_url"),
    (
        [{"role": "user", "content": [{"type": "input_file", "file_data": "x"}]}],
        "input.0.content.0.file_data",
    ),
    ([{**USER, "status": "done"}], "input.0.status"),
    ([{**USER, "id": ""}], "input.0.id"),
    ([{**USER, "id": "x" * 257}], "input.0.id"),
    ([{**CALL, "call_id": ""}], "input.0.call_id"),
    ([{**CALL, "arguments": {}}], "input.0.arguments"),
    ([{"type": "function_call", "call_id": "c", "arguments": "{}"}], "input.0.name"),
    ([{"type": "function_call_output", "call_id": "c"}], "input.0.output"),
    ([{**RESULT, "output": [{"type": "input_text"}]}], "input.0.output.0.text"),
    ([{**RESULT, "output": [{"type": "refusal", "refusal": "x"}]}], "input.0.output.0"),
    ([{"type": "custom_tool_call", "call_id": "c", "name": "p"}], "input.0.input"),
    ([{"type": "reasoning", "summary": "x"}], "input.0.summary"),
    ([{"type": "compaction"}], "input.0.encrypted_content"),
    ([{"type": "compaction", "encrypted_content": "gAAAA"}], "input.0.encrypted_content"),
    ([{"type": "item_reference"}], "input.0.id"),
    ([{**USER, "id": "a\0b"}], "input.0.id"),
    ([{**USER, "id": "ab\n"}], "input.0.id"),
    ([{**HOSTED, "id": 5}], "input.0"),
    ([{**HOSTED, "id": "ab\n"}], "input.0"),
    ([{**HOSTED, "x": float("nan")}], "input.0"),
]


@pytest.mark.parametrize(("input", "param"), BAD)
def test_what_is_wrong_is_named_by_its_path(input: object, param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        items_of(input)
    assert (refused.value.param, refused.value.message[: len(param)]) == (param, param)


def test_files_by_id_are_unsupported() -> None:
    with pytest.raises(UnsupportedParameter):
        items_of([{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}])


def test_references_are_put_in_place() -> None:
    sent = items_of([{"type": "item_reference", "id": "msg_1"}, {"id": "rs_1"}, USER])
    assert references(sent) == ["msg_1", "rs_1"]
    found: dict[str, Item] = {"msg_1": text("user", "a"), "rs_1": {"type": "reasoning"}}
    assert resolved(sent, found, "input") == [found["msg_1"], found["rs_1"], USER]
    with pytest.raises(ItemNotFound, match="rs_1"):
        resolved(sent, {"msg_1": USER}, "input")


def test_parts_that_are_no_text_keep_their_place() -> None:
    parts = [
        {"type": "input_text", "text": "see "},
        IMAGE,
        {"type": "input_file", "file_url": "https://a.b/c.pdf", "filename": "c.pdf"},
        {"type": "input_text", "text": "!"},
    ]
    (item,) = items_of([{"role": "user", "content": parts}])
    assert item["content"][1] == {**IMAGE, "detail": "auto"}
    image = Media("image", data=PNG, media_type="image/png")
    file = Media("document", url="https://a.b/c.pdf", name="c.pdf")
    assert to_messages([item]) == (Message("user", "see \n!", parts=("see ", image, file, "!")),)


def test_what_an_assistant_does_up_to_the_next_result_is_one_message() -> None:
    calls = (ToolCall("c", "look", '{"a": 1}'), ToolCall("d", "patch", '{"input": "+ü"}'))
    sent = [
        {"role": "user", "content": "hi"},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"role": "assistant", "content": "Let me look."},
        CALL,
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": ", so"}]},
        {"type": "custom_tool_call", "call_id": "d", "name": "patch", "input": "+ü"},
        {"role": "assistant", "content": " There."},
        RESULT,
        {"type": "custom_tool_call_output", "call_id": "d", "output": [{"type": "input_text", "text": "ok"}]},
        {"role": "assistant", "content": "Done."},
        {"role": "assistant", "content": "Really."},
    ]
    assert to_messages(items_of(sent)) == (
        Message("user", "hi"),
        Message("assistant", "Let me look. There.", tool_calls=calls, reasoning="hm, so"),
        Message("tool", "7", tool_call_id="c"),
        Message("tool", "ok", tool_call_id="d"),
        Message("assistant", "Done."),
        Message("assistant", "Really."),
    )


def test_what_is_sealed_elsewhere_is_carried_and_not_read() -> None:
    foreign = {
        "type": "reasoning",
        "summary": [],
        "encrypted_content": base64.b64encode(b'{"x": 1}').decode(),
    }
    sent = items_of([foreign, text("assistant", "a")])
    assert sent[0]["encrypted_content"] == foreign["encrypted_content"]
    assert to_messages(sent) == (Message("assistant", "a"),)


def test_a_compaction_is_read_as_a_summary() -> None:
    (message,) = to_messages(items_of([compaction("They spoke of rain.")]))
    assert message.role == "user"
    assert message.text.endswith("They spoke of rain.")


SIGNED = Thought("It rains.", "sig")
THINKING = {"type": "thinking", "thinking": "It rains.", "signature": "sig"}
FUNCTION = {"name": "look", "arguments": '{"a": 1}'}
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "hi"}],
    [{"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Now."}],
    [{"role": "user", "content": [{"type": "text", "text": t} for t in "ab"], "name": "Ann"}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": IMAGE["image_url"]}}]}],
    [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": IMAGE["image_url"], "detail": "low"}}],
        }
    ],
    [
        {
            "role": "user",
            "content": [{"type": "file", "file": {"file_data": IMAGE["image_url"], "filename": "a.png"}}],
        }
    ],
    [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
    [{"role": "assistant", "content": "a", "reasoning_content": "hm"}],
    [{"role": "assistant", "content": "a", "thinking_blocks": [THINKING]}],
    [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": FUNCTION}]},
        {"role": "tool", "content": "7", "tool_call_id": "c", "name": "look"},
        {"role": "assistant", "content": "Seven."},
        {"role": "user", "content": "Thanks."},
    ],
    [
        {"role": "assistant", "content": "Both.", "tool_calls": [
            {"id": "c", "function": FUNCTION}, {"id": "d", "function": FUNCTION}]},
        {"role": "tool", "content": [{"type": "text", "text": "7"}], "tool_call_id": "c"},
        {"role": "tool", "content": "8", "tool_call_id": "d"},
    ],
]  # fmt: skip


def chat_of(messages: list[dict[str, Any]]) -> chat.ChatBody:
    return parse(chat.ChatBody, json.dumps({"model": "m", "messages": messages}).encode())


@pytest.mark.parametrize("messages", CHATS)
def test_a_chat_as_items_is_the_same_to_a_model(messages: list[dict[str, Any]]) -> None:
    body = chat_of(messages)
    prompt: Any = chat.to_request(body).prompt
    items = of_chat(body.messages)
    assert len(items) == len(messages)
    flat = [item for of_message in items for item in of_message]
    assert to_messages(flat) == prompt.messages
    # as they would be, sent to /v1/responses
    assert to_messages(items_of([json.loads(json.dumps(item)) for item in flat])) == prompt.messages


def test_the_older_form_of_calls_gets_ids_that_are_the_same_again() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "assistant", "function_call": FUNCTION},
        {"role": "function", "name": "look", "content": "7"},
    ]
    first, again = (of_chat(chat_of(messages).messages) for _ in range(2))
    assert first == again
    ((call,), (output,)) = first
    assert call["call_id"] == output["call_id"] != ""


def test_an_answer_as_items() -> None:
    looked = ToolCall("c", "look", "{}")
    pieces: list[Any] = [Reasoned("hm", (SIGNED,)), Spoken("Seven."), looked]
    choice = Choice("Seven.", "hm", [SIGNED], [looked], pieces)
    reasoning, message, call = of_choice(choice, "incomplete")
    assert [item["id"].partition("_")[0] for item in (reasoning, message, call)] == ["rs", "msg", "fc"]
    assert [item["status"] for item in (reasoning, message, call)] == ["completed", "completed", "incomplete"]
    (merged,) = to_messages([reasoning, message, call])
    assert merged == Message(
        "assistant", "Seven.", tool_calls=(ToolCall("c", "look", "{}"),), reasoning="hm", thoughts=(SIGNED,)
    )


def test_an_answer_of_nothing_is_an_empty_message() -> None:
    (item,) = of_choice(Choice())
    assert (item["type"], item["content"][0]["text"]) == ("message", "")
    looked = ToolCall("c", "look", "{}")
    (call,) = of_choice(Choice(calls=[looked], in_order=[looked]))
    assert call["type"] == "function_call"


SAME: list[Any] = [
    (USER, {**USER, "id": "msg_1", "status": "incomplete"}),
    (text("assistant", "Hello\n"), text("assistant", "Hello")),
    (text("user", "ab"), {**USER, "content": [{"type": "input_text", "text": t} for t in "ab"]}),
    (CALL, {**CALL, "arguments": '{"a":1}', "id": "fc_1"}),
    ({**CALL, "arguments": ""}, {**CALL, "arguments": "{}"}),
    (RESULT, {**RESULT, "output": [{"type": "input_text", "text": "7"}]}),
    (RESULT, {**RESULT, "output": " 7\n"}),
    ({**RESULT, "output": "\t7"}, {**RESULT, "output": [{"type": "input_text", "text": "7 "}]}),
    ({**RESULT, "output": ""}, {**RESULT, "output": " \n"}),
    ({**RESULT, "output": "\n"}, {**RESULT, "output": []}),
    ({**RESULT, "output": "\n"}, {**RESULT, "output": [{"type": "input_text", "text": " "}]}),
    ({**USER, "content": [IMAGE]}, {**USER, "content": [{**IMAGE, "detail": "auto"}]}),
]
DIFFERENT: list[Any] = [
    (text("user", "a"), text("user", "b")),
    (text("user", "a"), text("assistant", "a")),
    (text("user", "a"), text("user", "a", name="Ann")),
    (CALL, {**CALL, "call_id": "d"}),
    (CALL, {**CALL, "arguments": '{"a": 2}'}),
    (CALL, RESULT),
    (RESULT, {**RESULT, "output": "8"}),
    (RESULT, {**RESULT, "output": ""}),
    ({**RESULT, "output": "7 8"}, {**RESULT, "output": "78"}),
    ({**USER, "content": [IMAGE]}, {**USER, "content": [{**IMAGE, "image_url": "https://a.b/c.png"}]}),
    (USER, {**USER, "content": [*USER["content"], IMAGE]}),
]


@pytest.mark.parametrize(("stored", "sent"), SAME)
def test_what_says_the_same_is_recognised(stored: Item, sent: Item) -> None:
    assert content_hash(stored) == content_hash(sent)


@pytest.mark.parametrize(("stored", "sent"), DIFFERENT)
def test_what_says_something_else_is_not(stored: Item, sent: Item) -> None:
    assert content_hash(stored) != content_hash(sent)
