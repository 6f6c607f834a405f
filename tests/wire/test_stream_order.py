"""The checker of streams finds what is wrong with one: a good stream, spoilt in one place, passes no more."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from headrace.types import Finished, ReasoningDelta, TextDelta
from tests.wire.responses.streams import LOGPROBS, USAGE, Answer, Written, called, logprob, patched, write
from tests.wire.stream_order import check_stream, in_pieces, read_stream

GOOD = write(
    Answer(
        {"include": [LOGPROBS], "background": True},
        (
            ReasoningDelta(0, "hm"),
            TextDelta(0, "a", (logprob("a"),)),
            *called(0, "look", '{"a":', "1}"),
            *called(1, "patch", patched("x")),
            Finished(0, "tool_calls", USAGE),
        ),
    )
)
CUT = write(Answer({}, (TextDelta(0, "a"), Finished(0, "length", USAGE))))
FAILED = write(Answer({}, (TextDelta(0, "a"),), "fail"))
Events = list[dict[str, Any]]


def spoilt(events: Events, spoil: Callable[[Events], object]) -> Events:
    """With numbers that are right again."""
    events = copy.deepcopy(events)
    spoil(events)
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def first(events: Events, type: str) -> dict[str, Any]:
    return next(event for event in events if event["type"] == f"response.{type}")


@pytest.mark.parametrize("written", [GOOD, CUT, FAILED])
def test_no_event_can_be_left_out_or_come_twice(written: Written) -> None:
    for index in range(len(written.events)):
        for spoil in (without, twice):
            with pytest.raises((AssertionError, IndexError)):
                check_stream(spoilt(written.events, partial(spoil, index)))


def without(index: int, events: Events) -> None:
    events.pop(index)


def twice(index: int, events: Events) -> None:
    events.insert(index, events[index])


def test_no_two_neighbours_can_change_places_but_the_ends_of_calls() -> None:
    for index in range(len(GOOD.events) - 1):
        pair = [event["output_index"] for event in GOOD.events[index : index + 2] if "output_index" in event]
        if len(set(pair)) == 2 and {2, 3} >= set(pair):
            continue  # calls may come side by side

        def swap(events: Events, index: int = index) -> None:
            events[index], events[index + 1] = events[index + 1], events[index]

        with pytest.raises((AssertionError, IndexError)):
            check_stream(spoilt(GOOD.events, swap))


SPOILT: dict[str, Callable[[Events], object]] = {
    "another id": lambda events: events[-1]["response"].update(id="resp_2"),
    "another model": lambda events: events[2]["response"].update(model="x"),
    "a member less": lambda events: events[0]["response"].pop("top_p"),
    "a null user": lambda events: [e["response"].update(user=None) for e in events if "response" in e],
    "a truthy error": lambda events: events[3].update(error={"message": "x"}),
    "a gap": lambda events: first(events, "output_item.added").update(output_index=1),
    "an item of another id": lambda events: first(events, "output_text.delta").update(item_id="msg_x"),
    "another text": lambda events: first(events, "output_text.done").update(text="b"),
    "another delta": lambda events: first(events, "function_call_arguments.delta").update(delta="["),
    "no logprobs": lambda events: first(events, "output_text.done").update(logprobs=[]),
    "another name": lambda events: first(events, "function_call_arguments.done").update(name="x"),
    "an item less": lambda events: events[-1]["response"]["output"].pop(),
    "another item": lambda events: events[-1]["response"]["output"][0].update(id="rs_x"),
    "another call id": lambda events: events[-1]["response"]["output"][2].update(call_id="x"),
    "another part": lambda events: first(events, "content_part.added")["part"].update(text="x"),
    "an item that is half": lambda events: events[-1]["response"]["output"][-1].update(status="incomplete"),
    "no time of completion": lambda events: events[-1]["response"].update(completed_at=None),
    "another status": lambda events: events[-1]["response"].update(status="incomplete"),
    "an item begun whole": lambda events: first(events, "output_item.added")["item"].update(
        status="completed"
    ),
    "nothing in the output": lambda events: events[-1]["response"].update(output=[]),
    "more after the end": lambda events: events.append(events[-1]),
}


@pytest.mark.parametrize("what", SPOILT)
def test_it_finds(what: str) -> None:
    check_stream(GOOD.events)
    with pytest.raises(AssertionError):
        check_stream(spoilt(GOOD.events, SPOILT[what]))


def test_it_finds_numbers_that_jump() -> None:
    with pytest.raises(AssertionError):
        check_stream([{**event, "sequence_number": event["sequence_number"] + 1} for event in GOOD.events])


def test_a_stream_that_was_left_is_right_as_far_as_it_goes() -> None:
    for length in range(len(GOOD.events)):
        check_stream(GOOD.events[:length], whole=False)
        with pytest.raises(AssertionError):
            check_stream(GOOD.events[:length])


@pytest.mark.parametrize("seed", range(5))
def test_frames_are_put_together_wherever_they_are_cut(seed: int) -> None:
    assert read_stream(in_pieces(GOOD.raw, seed)) == GOOD.events


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b"event: response.created", b"event: response.queued"),
        (b"event: response.created\n", b""),
        (b"data: [DONE]\n\n", b""),
        (b"data: [DONE]\n\n", b"data: [DONE]\n\nevent: x\ndata: {}\n\n"),
        (b"data: [DONE]\n\n", b"data: [DONE]\n"),
    ],
)
def test_it_finds_frames_that_are_wrong(good: bytes, bad: bytes) -> None:
    assert good in GOOD.raw
    with pytest.raises(AssertionError):
        read_stream([GOOD.raw.replace(good, bad)])


def test_texts_are_what_is_sent() -> None:
    assert [json.loads(text) for text in GOOD.texts] == GOOD.events
