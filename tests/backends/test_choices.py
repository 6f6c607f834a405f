"""Two choices are requested: what callers get if a provider ignores `n`, or numbers its choices oddly."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.backends.writing import CHAT, HI, STRICT, Written
from tests.upstream import Answer, answer, sse

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
COUNTED = {"choices": [], "usage": USAGE}


def whole(*indexes: int | None) -> Answer:
    """A JSON body with the texts a, b, …"""
    own = [{} if index is None else {"index": index} for index in indexes]
    said = [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"} for text in "abcd"]
    return answer({"choices": [index | text for index, text in zip(own, said, strict=False)], "usage": USAGE})


def chunk(index: int | None, text: str = "", reason: str | None = None) -> dict[str, Any]:
    own = {} if index is None else {"index": index}
    return {"choices": [{**own, "delta": {"content": text}, "finish_reason": reason}]}


ONE, BOTH = {0: "a"}, {0: "a", 1: "b"}
SENT: dict[str, tuple[Answer, dict[int, str]]] = {
    "one of two": (whole(0), ONE),
    "one of two, numbered from 1": (whole(1), ONE),
    "two without numbers": (whole(None, None), BOTH),
    "two with the same number": (whole(0, 0), BOTH),
    "two numbered from 1": (whole(1, 2), BOTH),
    "two, last first": (whole(1, 0), {1: "a", 0: "b"}),
    "three": (whole(0, 1, 2), BOTH),
    "one of two, streamed": (Answer(pieces=sse(chunk(0, "a"), chunk(0, "", "stop"), COUNTED, "[DONE]")), ONE),
    "one of two without a number, streamed": (
        Answer(pieces=sse(chunk(None, "a"), chunk(None, "", "stop"), COUNTED, "[DONE]")), ONE,
    ),
    "two streamed, one without a reason": (
        Answer(pieces=sse(chunk(0, "a"), chunk(1, "b"), chunk(0, "", "stop"), COUNTED, "[DONE]")), BOTH,
    ),
}  # fmt: skip
BROKEN = {
    "no end": Answer(pieces=sse(chunk(0, "a"), chunk(0, "", "stop"))),
    "a broken connection": Answer(pieces=sse(chunk(0, "a")), cut=True),
    "nothing": Answer(pieces=sse("[DONE]")),
    "no choice": answer({"choices": [], "usage": USAGE}),
}


@pytest.mark.parametrize(("played", "expected"), SENT.values(), ids=SENT)
@pytest.mark.parametrize("headers", [STRICT, {}], ids=["strict", "stored"])
def test_the_choices_that_are_there_are_answered(
    written: Written, played: Answer, expected: dict[int, str], headers: dict[str, str]
) -> None:
    written.play(played)
    body = {"model": "up:m", "messages": HI, "n": 2, "store": not headers}
    status, _, found = written.ask(CHAT, body, **headers)
    assert status == 200
    assert {choice["index"]: choice["message"]["content"] for choice in found["choices"]} == expected
    assert found["usage"]["total_tokens"] == 7


@pytest.mark.parametrize(("played", "expected"), SENT.values(), ids=SENT)
def test_and_so_are_they_in_a_stream(written: Written, played: Answer, expected: dict[int, str]) -> None:
    written.play(played)
    body = {"model": "up:m", "messages": HI, "n": 2, "stream": True}
    _, _, found = written.ask(CHAT, body, **STRICT)
    *lines, done = [line.removeprefix("data: ") for line in found["text"].splitlines() if line]
    choices = [choice for line in lines for choice in json.loads(line)["choices"]]
    texts = dict.fromkeys(expected, "")
    for choice in choices:
        if text := choice["delta"].get("content"):
            texts[choice["index"]] += text
    ended = sorted(choice["index"] for choice in choices if choice["finish_reason"])
    assert (texts, ended, done) == (expected, sorted(expected), "[DONE]")


@pytest.mark.parametrize("played", BROKEN.values(), ids=BROKEN)
def test_half_an_answer_is_no_whole_one(written: Written, played: Answer) -> None:
    written.play(played)
    status, _, found = written.ask(CHAT, {"model": "up:m", "messages": HI, "n": 2}, **STRICT)
    assert (status, found["error"]["type"]) == (502, "server_error")


def test_of_several_prompts_none_is_left_out(written: Written) -> None:
    written.play(
        answer({"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]}), path="/v1/completions"
    )
    status, _, _ = written.ask("/v1/completions", {"model": "up:m", "prompt": ["x", "y"]}, **STRICT)
    assert status == 502


def test_a_stream_that_came_instead_of_json_has_what_it_has(written: Written) -> None:
    written.play(SENT["one of two, streamed"][0])
    status, _, found = written.ask(CHAT, {"model": "up:m", "messages": HI, "n": 2})
    assert (status, [choice["message"]["content"] for choice in found["choices"]]) == (200, ["a"])
