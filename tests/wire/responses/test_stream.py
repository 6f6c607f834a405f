"""The events of a response's stream: their order, what they add up to, and what the official client makes of
them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import BadRequest, ProviderLimited, ServerError
from headrace.types import Event, Finished, ReasoningDelta, TextDelta, Thought, ToolCallDelta, Usage
from headrace.wire.items import to_messages
from headrace.wire.responses.stream import ResponseEvents, event_name, is_last, last_event
from tests.wire.responses.streams import (
    LOGPROBS,
    SEALED,
    USAGE,
    Answer,
    answered,
    answers,
    body_of,
    called,
    logprob,
    patched,
    write,
)
from tests.wire.stream_order import check_stream, in_pieces, read_stream

EXAMPLES = settings(max_examples=60, deadline=None)


class Sent(httpx2.BaseTransport):
    """A provider that answers with these bytes, in pieces."""

    def __init__(self, raw: bytes, seed: int) -> None:
        self.raw, self.seed = raw, seed

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=headers, stream=Pieces(in_pieces(self.raw, self.seed)))


class Pieces(httpx2.SyncByteStream):
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return self.pieces


def client(raw: bytes, seed: int = 0) -> openai.OpenAI:
    http = httpx2.Client(transport=Sent(raw, seed))
    return openai.OpenAI(
        base_url="http://server/v1", api_key="x", http_client=http, max_retries=0,
        _strict_response_validation=True,
    )  # fmt: skip


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


@EXAMPLES
@given(answers(), st.integers(0, 1000))
def test_any_answer_is_a_stream_in_order_that_adds_up_to_the_response(answer: Answer, seed: int) -> None:
    written = write(answer)
    events = read_stream(in_pieces(written.raw, seed))
    assert events == written.events
    assert events[-1]["response"] == written.response
    items, texts = [item["type"] for item in written.response["output"]], texts_of(written.response)
    if answer.end == "close":
        assert items == kinds(answer)
        assert texts == shown_texts(answer.events)
    else:  # what waited for a call to be whole is not told of an answer that broke off
        assert items == kinds(answer)[: len(items)]
        assert "".join(shown_texts(answer.events)).startswith("".join(texts))


def kinds(answer: Answer) -> list[str]:
    """What each item of the answer is, read off the neutral events."""
    has_logprobs = LOGPROBS in answer.members["include"]
    kinds: list[str] = []
    for event in answer.events:
        if isinstance(event, TextDelta) and (event.text or (has_logprobs and event.logprobs)):
            kinds += [] if kinds[-1:] == ["message"] else ["message"]
        elif isinstance(event, ReasoningDelta) and (event.text or event.thought):
            kinds += [] if kinds[-1:] == ["reasoning"] else ["reasoning"]
        elif isinstance(event, ToolCallDelta) and event.name is not None:
            kinds.append("custom_tool_call" if event.name == "patch" else "function_call")
    if answer.end == "close" and not set(kinds) - {"reasoning"}:
        finished = answer.events[-1]
        is_whole = isinstance(finished, Finished) and finished.reason in ("stop", "tool_calls")
        kinds += ["message"] if is_whole or not kinds else []
    return kinds


def texts_of(response: dict[str, Any]) -> list[str]:
    """All that was said."""
    return [
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
        if part["text"]
    ]


def shown_texts(events: tuple[Event, ...]) -> list[str]:
    texts, is_open = list[str](), False
    for event in events:
        if isinstance(event, TextDelta) and event.text:
            texts = [*texts[:-1], texts[-1] + event.text] if is_open else [*texts, event.text]
            is_open = True
        elif isinstance(event, ReasoningDelta | ToolCallDelta):
            is_nothing = isinstance(event, ReasoningDelta) and not (event.text or event.thought)
            goes_on = isinstance(event, ToolCallDelta) and event.name is None
            is_open = is_open and (is_nothing or goes_on)
    return texts


@EXAMPLES
@given(answers(), st.integers(0, 1000))
def test_the_official_client_reads_any_answer(answer: Answer, seed: int) -> None:
    written = write(answer)
    with client(written.raw, seed).responses.create(model="m", input="hi", stream=True) as events:
        assert [event.to_dict() for event in events] == written.events
    with client(written.raw, seed).responses.stream(model="m", input="hi") as stream:
        assert [event.type for event in stream][-1] == written.events[-1]["type"]
        if written.response["status"] == "completed":
            final = stream.get_final_response()
            assert [without_parsed(item.to_dict()) for item in final.output] == written.response["output"]


def without_parsed(value: Any) -> Any:
    """What the client's helper adds."""
    if isinstance(value, list):
        return [without_parsed(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    return {name: without_parsed(entry) for name, entry in value.items() if not name.startswith("parsed")}


def test_a_plain_answer_event_by_event() -> None:
    written = answered(TextDelta(0, "Hel", (), 1), TextDelta(0, "", (), 1), TextDelta(0, "lo", (), 1))
    assert types(written.events) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
        "output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    response = written.response
    assert (response["status"], response["incomplete_details"], response["error"]) == (
        "completed",
        None,
        None,
    )
    assert response["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 12,
    }


def test_in_the_background_it_is_queued_first_and_stays_so_until_something_comes() -> None:
    written = answered(background=True)
    check_stream(written.events)
    statuses = [event["response"]["status"] for event in written.events if "response" in event]
    assert statuses == ["queued", "queued", "in_progress", "completed"]


def test_an_empty_answer_is_an_empty_message() -> None:
    (item,) = answered().response["output"]
    assert (item["type"], item["content"][0]["text"]) == ("message", "")


@pytest.mark.parametrize(
    ("reason", "expected"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_what_is_cut_short_is_incomplete_in_its_last_item(reason: str, expected: str) -> None:
    written = answered(ReasoningDelta(0, "hm"), TextDelta(0, "Hel"), reason=reason)
    check_stream(written.events)
    assert written.events[-1]["type"] == "response.incomplete"
    assert written.response["incomplete_details"] == {"reason": expected}
    assert [item["status"] for item in written.response["output"]] == ["completed", "incomplete"]


def test_thinking_alone_that_is_cut_short_gets_no_message() -> None:
    (item,) = answered(ReasoningDelta(0, "hm"), reason="length").response["output"]
    assert (item["type"], item["status"]) == ("reasoning", "incomplete")


def test_logprobs_come_where_they_are_included() -> None:
    said = TextDelta(0, "a", (logprob("a"),))
    assert answered(said).events[4]["logprobs"] == []
    written = answered(said, include=[LOGPROBS])
    (token,) = written.events[4]["logprobs"]
    assert (token["token"], token["bytes"], token["logprob"]) == ("a", [97], -0.5)
    assert token["top_logprobs"][1]["logprob"] == -9999.0
    assert written.response["output"][0]["content"][0]["logprobs"] == [token]


def test_a_custom_tool_is_called_with_the_text_in_the_arguments() -> None:
    pieces = ['{"inp', 'ut": "a\\', "n\\ud83d", '\\ude00"', "}"]
    written = answered(*called(0, "patch", *pieces), reason="tool_calls")
    check_stream(written.events)
    (item,) = written.response["output"]
    assert (item["type"], item["call_id"], item["input"]) == ("custom_tool_call", "call_0", "a\n😀")
    deltas = [e["delta"] for e in written.events if e["type"] == "response.custom_tool_call_input.delta"]
    assert deltas == ["a", "\n", "😀"]


@pytest.mark.parametrize("arguments", ["rm -rf", '{"text": "x"}', '["x"]', "", '"x"'])
def test_arguments_that_are_none_of_a_custom_tools_are_its_text(arguments: str) -> None:
    written = answered(*called(0, "patch", arguments), reason="tool_calls")
    check_stream(written.events)
    assert written.response["output"][0]["input"] == arguments


def test_a_long_custom_input_is_whole_however_it_comes() -> None:
    text = "+ line\n\\ud83d ü" * 2000
    written = answered(*called(0, "patch", *patched(text)), reason="tool_calls")
    check_stream(written.events)
    assert written.response["output"][0]["input"] == text


def test_signed_thoughts_come_back_unchanged() -> None:
    signed, redacted = Thought("It rains.", "sig"), Thought(redacted="0paque")
    thinking = (
        ReasoningDelta(0, "It "), ReasoningDelta(0, "rains."), ReasoningDelta(0, "", 0, signed),
        ReasoningDelta(0, "", 0, redacted),
    )  # fmt: skip
    (reasoning, message) = answered(*thinking, TextDelta(0, "Yes.")).response["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "It rains."}]
    (merged,) = to_messages([reasoning, message])
    assert (merged.text, merged.reasoning, merged.thoughts) == ("Yes.", "It rains.", (signed, redacted))


def test_a_thought_whose_text_was_not_shown_is_shown_when_it_is_complete() -> None:
    written = answered(ReasoningDelta(0, "", 0, Thought("Quiet.", "sig")), TextDelta(0, "a"))
    check_stream(written.events)
    assert written.response["output"][0]["content"][0]["text"] == "Quiet."


def test_each_of_several_thoughts_is_shown_once() -> None:
    """The text of the first came before it was complete, that of the others comes with them."""
    first, second, third = (Thought(f"{word}.", f"sig{word}") for word in ("One", "Two", "Three"))
    written = answered(
        ReasoningDelta(0, "One."), ReasoningDelta(0, "", 0, first), ReasoningDelta(0, "", 0, second),
        ReasoningDelta(0, "", 0, Thought(redacted="0paque")), ReasoningDelta(0, "", 0, third),
        TextDelta(0, "a"),
    )  # fmt: skip
    check_stream(written.events)
    assert written.response["output"][0]["content"][0]["text"] == "One.Two.Three."


def test_sealed_reasoning_is_shown_where_it_is_included() -> None:
    plain = answered(ReasoningDelta(0, "hm"), TextDelta(0, "a")).response["output"][0]
    sealed = answered(ReasoningDelta(0, "hm"), TextDelta(0, "a"), include=[SEALED]).response["output"][0]
    assert "encrypted_content" not in plain
    assert "hm" in base64.b64decode(sealed["encrypted_content"]).decode()
    (merged,) = to_messages([{**sealed, "content": []}])
    assert (merged.reasoning, merged.thoughts) == ("hm", ())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ServerError("broken"), "server_error"),
        (BadRequest("no", param="messages"), "invalid_prompt"),
        (ProviderLimited("later"), "rate_limit_exceeded"),
    ],
)
def test_a_failure_is_reported_twice_and_half_a_call_is_never_done(error: ServerError, code: str) -> None:
    written = write(Answer({}, tuple(called(0, "look", '{"a": "rm')), "cancel"))
    assert "output_item.done" not in types(written.events)
    encoder = ResponseEvents(written.events[0]["response"], body_of())
    texts = [*encoder.first(), *encoder.event(TextDelta(0, "Hel"))]
    texts += [*encoder.fail(error), encoder.last(encoder.response)]
    events = [json.loads(text) for text in texts]
    check_stream(events)
    assert types(events)[-2:] == ["error", "failed"]
    assert events[-1]["response"]["error"] == {"code": code, "message": error.message}
    (item,) = events[-1]["response"]["output"]
    assert (item["status"], item["content"][0]["text"]) == ("incomplete", "Hel")


def test_a_cancelled_stream_ends_as_failed_without_an_error() -> None:
    written = write(Answer({}, (TextDelta(0, "Hel"),), "cancel"))
    check_stream(written.events)
    assert types(written.events)[-1] == "failed"
    assert (written.response["status"], written.response["error"]) == ("cancelled", None)


def test_usage_that_is_not_known_is_null() -> None:
    written = write(Answer({}, (TextDelta(0, "a"), Finished(0, "stop", Usage(0, 0, is_known=False)))))
    assert written.response["usage"] is None


def test_names_are_cut_out_of_texts() -> None:
    texts = answered(TextDelta(0, 'say "hi"')).texts
    assert [event_name(text) for text in texts] == [json.loads(text)["type"] for text in texts]
    assert [is_last(text) for text in texts] == [False] * (len(texts) - 1) + [True]


@pytest.mark.parametrize("end", ["close", "fail", "cancel"])
def test_the_end_of_a_stream_can_be_sent_again(end: str) -> None:
    written = write(Answer({}, answered_events(), end))
    assert last_event(written.response, len(written.texts) - 1) == written.texts[-1]


def answered_events() -> tuple[Event, ...]:
    return TextDelta(0, "a"), Finished(0, "stop", USAGE)


def opened_and_done(events: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [
        (event["type"].rpartition(".")[2], event["output_index"])
        for event in events
        if event["type"].startswith("response.output_item.")
    ]


SIDE_BY_SIDE = {
    "one after another": [(0, "{}"), (1, "{}")],
    "in pieces": [(0, '{"a"'), (0, ": 1}"), (1, "{"), (1, "}"), (2, "{}")],
    "side by side": [(0, '{"a"'), (1, '{"b"'), (2, "{"), (0, ": 1}"), (2, "}"), (1, ": 2}")],
    "never whole": [(0, '{"a"'), (1, "{}")],
    "the first last": [(0, ""), (1, "{}"), (0, "{}")],
}


@pytest.mark.parametrize("case", SIDE_BY_SIDE)
@pytest.mark.parametrize("is_spoken", [False, True])
def test_l19_each_item_is_done_before_the_next_is_added(case: str, is_spoken: bool) -> None:
    events: list[Event] = [TextDelta(0, "Hm.")] if is_spoken else []
    started: set[int] = set()
    for call, arguments in SIDE_BY_SIDE[case]:
        new = call not in started
        started.add(call)
        events.append(
            ToolCallDelta(0, call, arguments, id=f"call_{call}", name="look")
            if new
            else ToolCallDelta(0, call, arguments)
        )
    events += [TextDelta(0, "Done.")] if is_spoken else []
    written = write(Answer({}, (*events, Finished(0, "tool_calls", USAGE))))
    order = opened_and_done(read_stream(in_pieces(written.raw, 0)))
    count = len(started) + 2 * is_spoken
    assert order == [(step, index) for index in range(count) for step in ("added", "done")]
    whole = {call: "".join(text for one, text in SIDE_BY_SIDE[case] if one == call) for call in started}
    output = [item for item in written.response["output"] if item["type"] == "function_call"]
    assert [item["arguments"] for item in output] == [whole[call] for call in sorted(whole)]
