"""Content parts of a chat, thoughts of a history, and what of usage is not known."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from headrace.collected import Collected
from headrace.errors import BadRequest
from headrace.types import (
    Event,
    Finished,
    Media,
    Message,
    ModelInfo,
    ReasoningDelta,
    TextDelta,
    Thought,
    Usage,
)
from headrace.wire import chat
from headrace.wire.parameters import parse
from tests.wire.documented import check_documented

PNG = base64.b64encode(b"\x89PNG\r\n").decode()
INFO = ModelInfo("m", "us", 0, 4096, None)
SIGNED, REDACTED = Thought("It rains.", "sig=="), Thought(redacted="0paque")
WRITTEN = [
    {"type": "thinking", "thinking": "It rains.", "signature": "sig=="},
    {"type": "redacted_thinking", "data": "0paque"},
]


def body_of(*messages: dict[str, Any], **members: Any) -> chat.ChatBody:
    return parse(chat.ChatBody, json.dumps({"model": "m", "messages": messages, **members}).encode())


def messages_of(*messages: dict[str, Any]) -> tuple[Message, ...]:
    prompt: Any = chat.to_request(body_of(*messages)).prompt
    found: tuple[Message, ...] = prompt.messages
    return found


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def image(url: object, **members: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **members}}


def test_parts_keep_their_order_and_text_is_joined() -> None:
    parts = (
        text("see "),
        image(f"data:image/png;base64,{PNG}", detail="low"),
        text("and"),
        image("https://a.b/c.jpg"),
    )
    (message,) = messages_of(user(*parts))
    assert message.text == "see \nand"
    assert message.parts == (
        "see ",
        Media("image", data=PNG, media_type="image/png", detail="low"),
        "and",
        Media("image", url="https://a.b/c.jpg"),
    )


def test_text_alone_makes_no_parts() -> None:
    assert messages_of(user(text("a"), text("b"))) == (Message("user", "a\nb"),)


@pytest.mark.parametrize(
    ("media_type", "kind"), [("application/pdf", "document"), ("image/webp", "image"), ("", "document")]
)
def test_files_are_documents_or_images(media_type: str, kind: Any) -> None:
    file = {"file_data": f"data:{media_type};base64,{PNG}", "filename": "a.bin"}
    (message,) = messages_of(user({"type": "file", "file": file}))
    expected = media_type or "application/octet-stream"
    assert message.parts == (Media(kind, data=PNG, media_type=expected, name="a.bin"),)


@pytest.mark.parametrize(
    "part",
    [
        image("data:image/png;base64,not base64!"),
        image("data:image/png;base64,"),
        image("data:image/png,plain"),
        image("file:///etc/passwd"),
        image("ftp://a.b/c"),
        image(""),
        {"type": "image_url", "image_url": {}},
        {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "file", "file": {"file_data": PNG}},
        {"type": "file", "file": {}},
    ],
)
def test_what_is_no_image_and_no_file_is_refused_by_its_path(part: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as refused:
        messages_of({"role": "system", "content": "s"}, user(text("a"), part))
    assert refused.value.param == "messages.1.content.1"


def test_a_type_error_inside_a_part_names_the_member() -> None:
    with pytest.raises(BadRequest) as refused:
        messages_of(user(image(5)))
    assert refused.value.param == "messages.0.content.0.image_url.url"


def test_thinking_blocks_of_the_history_become_thoughts() -> None:
    said = {"role": "assistant", "content": "yes", "thinking_blocks": WRITTEN}
    (message,) = messages_of(said)
    assert message.thoughts == (SIGNED, REDACTED)
    assert message.reasoning == "It rains."
    (message,) = messages_of({**said, "reasoning_content": "In short: rain."})
    assert message.reasoning == "In short: rain."


THOUGHT: list[Event] = [
    ReasoningDelta(0, "It "),
    ReasoningDelta(0, "rains.", thought=SIGNED),
    ReasoningDelta(0, "", thought=REDACTED),
    TextDelta(0, "yes"),
    Finished(0, "content_filter", Usage(9, 2, 3, cache_write_tokens=4)),
]


def whole(events: list[Event]) -> Any:
    collected = Collected()
    for event in events:
        collected.push(event)
    answer = chat.completion(body_of(user(text("a"))), INFO, collected)
    check_documented(answer, chat.ChatCompletion)
    return answer


def streamed(events: list[Event], **options: Any) -> list[Any]:
    chunks = chat.Chunks(body_of(user(text("a")), stream=True, stream_options=options), INFO)
    written = [*chunks.first(), *(one for event in events for one in chunks.event(event)), *chunks.last()]
    found = [json.loads(one) for one in written]
    for chunk in found:
        check_documented(chunk, chat.ChatCompletionChunk)
    return found


def test_thoughts_are_whole_and_can_be_sent_back() -> None:
    choice = whole(THOUGHT)["choices"][0]
    assert choice["finish_reason"] == "content_filter"
    message = choice["message"]
    assert (message["reasoning_content"], message["thinking_blocks"]) == ("It rains.", WRITTEN)
    assert messages_of(message)[0].thoughts == (SIGNED, REDACTED)


def test_a_stream_tells_a_thought_when_it_is_complete() -> None:
    deltas = [chunk["choices"][0]["delta"] for chunk in streamed(THOUGHT)]
    assert deltas[1:4] == [
        {"reasoning_content": "It ", "reasoning": "It "},
        {"reasoning_content": "rains.", "reasoning": "rains.", "thinking_blocks": WRITTEN[:1]},
        {"thinking_blocks": WRITTEN[1:]},
    ]


def test_tokens_written_to_a_cache_are_reported_if_there_are_any() -> None:
    details = whole(THOUGHT)["usage"]["prompt_tokens_details"]
    assert details == {"cached_tokens": 3, "cache_write_tokens": 4}
    plain = whole([Finished(0, "stop", Usage(9, 2, 3))])["usage"]["prompt_tokens_details"]
    assert plain == {"cached_tokens": 3}


@pytest.mark.parametrize("continuous", [False, True])
def test_usage_that_is_not_known_is_null(continuous: bool) -> None:
    events: list[Event] = [TextDelta(0, "a"), Finished(0, "stop", Usage(0, 0, is_known=False))]
    assert whole(events)["usage"] is None
    chunks = streamed(events, include_usage=True, continuous_usage_stats=continuous)
    assert [chunk["usage"] for chunk in chunks] == [None] * 4
    assert chunks[-1]["choices"] == []
