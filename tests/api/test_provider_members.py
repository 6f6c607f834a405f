"""What providers say beside an answer's text: it is carried where the caller's dialect has a place for it."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import pytest

from headrace.backends.http import Upstream
from headrace.backends.openai.answer import Answer as OpenAIAnswer
from headrace.backends.sse import ServerSentEvent
from headrace.errors import ProviderError
from tests.api.relays import CHUNK, STOP, Relays
from tests.backends.two_ways import chunk
from tests.backends.writing import CHAT, HI, NDJSON, Written, writing
from tests.heard import RELAYED, TRANSLATED, frames
from tests.upstream import Answer, sse

CITATION = {
    "type": "url_citation",
    "url_citation": {"url": "https://a", "title": "A", "start_index": 0, "end_index": 1},
}


def folded(relay: Relays, *chunks: Any) -> dict[str, Any]:
    """The message that a caller gets who is passed a stream as JSON."""
    relay.provider.play(Answer(pieces=sse(*chunks, STOP, "[DONE]")))
    way = RELAYED["relayed chat"]
    status, _, raw = relay.ask(way.path, way.body("up:m"))
    assert status == 200
    message: dict[str, Any] = json.loads(raw)["choices"][0]["message"]
    return message


def test_a_stream_as_json_keeps_its_annotations(relay: Relays) -> None:
    pieces = [chunk({"annotations": [CITATION]}), chunk({"annotations": [CITATION], "images": [{"a": 1}]})]
    message = folded(relay, CHUNK, *pieces)
    assert (message["content"], message["annotations"]) == ("Grüße", [CITATION, CITATION])
    assert message["images"] == [{"a": 1}]


def test_a_stream_as_json_keeps_its_refusal(relay: Relays) -> None:
    message = folded(relay, chunk({"refusal": "I can"}), chunk({"refusal": "not."}))
    assert (message["content"], message["refusal"]) == (None, "I cannot.")
    assert folded(relay, CHUNK, chunk({"refusal": "No."}))["content"] == "Grüße"
    assert folded(relay, CHUNK)["refusal"] is None


@pytest.fixture(scope="module")
def written() -> Any:
    with writing() as found:
        yield found


@pytest.mark.parametrize("page", [b"<!DOCTYPE html>\n<html>\n</html>", b"<html>", b"<?xml version='1.0'?>"])
@pytest.mark.parametrize("stream", [False, True])
def test_g16_a_page_instead_of_ollamas_answer_says_so(written: Written, page: bytes, stream: bool) -> None:
    written.play(Answer(headers={"Content-Type": "text/html"}, pieces=[page]), path="/api/chat")
    status, headers, body = written.ask(CHAT, {"model": "ol:m", "messages": HI, "stream": stream})
    assert (status, headers.get("x-should-retry")) == (502, "false")
    assert "base_url" in body["error"]["message"]


@pytest.mark.parametrize(
    ("members", "status"),
    [({"status_code": 429}, 429), ({"StatusCode": 401}, 502), ({"status": 400}, 400), ({}, 502)],
)
def test_g28_an_error_in_ollamas_lines_keeps_its_status(
    written: Written, members: dict[str, Any], status: int
) -> None:
    line = json.dumps({"error": "its words", **members}).encode() + b"\n"
    written.play(Answer(headers=NDJSON, pieces=[line]), path="/api/chat")
    found, headers, body = written.ask(CHAT, {"model": "ol:m", "messages": HI})
    assert (found, body["error"]["message"]) == (status, "ol: its words")
    assert (headers.get("x-should-retry") == "false") == (members.get("StatusCode") == 401)


@pytest.mark.parametrize(("num_names", "is_refused"), [(100, True), (1, False)])
def test_further_members_count_towards_the_limit_of_an_answer(num_names: int, is_refused: bool) -> None:
    reader = OpenAIAnswer(Upstream("p", "http://x", headers={}, timeout_s=1), 1, extra_members=("a",))
    with pytest.raises(ProviderError, match="without an end") if is_refused else nullcontext():
        for number in range(100):
            found = {"choices": [], f"x_{number % num_names}": "x" * 2**20}
            reader.read(ServerSentEvent("", json.dumps(found)))


KEPT = ["chat", "chat kept", "chat streamed", "chat kept and streamed"]


@pytest.mark.parametrize("way", KEPT)
def test_a_chat_that_is_translated_keeps_what_is_beside_the_text(relay: Relays, way: str) -> None:
    more = {"service_tier": "flex", "system_fingerprint": "fp", "x_groq": {"id": "r"}, "citations": ["u"]}
    twice = chunk({"annotations": [CITATION, "?"]})
    pieces = sse({**CHUNK, **more}, twice, twice, {**STOP, "service_tier": None}, "[DONE]")
    relay.provider.play(Answer(pieces=pieces))
    found = TRANSLATED[way]
    _, _, raw = relay.ask(found.path, found.body("up:m"), **found.headers)
    values = (
        [value for _, value in frames(raw) if value != "[DONE]"] if found.is_streamed else [json.loads(raw)]
    )
    choices = [choice for value in values for choice in value["choices"]]
    said = [choice.get("delta") or choice.get("message") for choice in choices]
    assert [one["annotations"] for one in said if one and one.get("annotations")] == [[CITATION]]
    for name, expected in more.items():
        assert [value[name] for value in values if value.get(name) is not None] == [expected]


@pytest.mark.parametrize("way", TRANSLATED)
def test_what_has_no_place_costs_no_answer(relay: Relays, way: str) -> None:
    more = {"service_tier": "flex", "system_fingerprint": "fp", "x_groq": {"id": "r"}, "citations": ["u"]}
    pieces = sse({**CHUNK, **more}, chunk({"annotations": [CITATION]}), STOP, "[DONE]")
    relay.provider.play(Answer(pieces=pieces))
    found = TRANSLATED[way]
    status, _, raw = relay.ask(found.path, found.body("up:m"), **found.headers)
    assert found.heard(status, raw).text == "Grüße"
