"""Errors inside a stream in shapes that others use, followed by [DONE] as if all were well: half an answer is
never a success. And texts in odd places of a chunk: none is dropped in silence. Siblings of G1, G4, G18, G28.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.habits import HELLO, check, hear
from tests.api.relays import Relays, relays
from tests.backends.two_ways import chunk, head
from tests.heard import RELAYED, TRANSLATED
from tests.upstream import Answer, sse

WAYS = {**RELAYED, **TRANSLATED}
HEL, LO = chunk({"content": "Hel"}), chunk({"content": "lo"})
STOP = chunk(reason="stop")


@pytest.fixture(scope="module")
def shared() -> Iterator[Relays]:
    with relays() as found:
        yield found


def choice(**members: Any) -> Any:
    return head(choices=[{"index": 0, **members}])


ERRORS: dict[str, Any] = {
    "vLLM's older form": {"object": "error", "message": "boom", "type": "X", "code": 500},
    "FastAPI's": {"detail": "boom"},
    "FastAPI's list": {"detail": [{"loc": ["body"], "msg": "boom", "type": "x"}]},
    "a list of errors": {"errors": [{"message": "boom"}]},
    "errors without choices": {"choices": [], "errors": [{"message": "boom"}]},
    "DashScope's": {"code": "InternalError", "message": "boom", "request_id": "r"},
    "a code and msg": {"code": 1301, "msg": "boom"},
    "Baidu's": {"error_code": 336000, "error_msg": "boom"},
    "MiniMax's": {"base_resp": {"status_code": 1013, "status_msg": "boom"}},
    "Anthropic's word": {"type": "error", "message": "boom"},
    "a status": {"status": "error", "message": "boom"},
    "no success": {"success": False, "message": "boom", "result": None},
    "in a choice": choice(delta={}, error={"message": "boom", "code": 502}),
    "Google's list": [{"error": {"message": "boom", "code": 503, "status": "UNAVAILABLE"}}],
    "an event exception": ("exception", {"message": "boom"}),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=list(ERRORS))
@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_g4_an_error_before_done_is_no_end(relay: Relays, way: Any, error: Any) -> None:
    heard = hear(relay, way, Answer(pieces=sse(HEL, error, "[DONE]")))
    assert "boom" in (heard.error or "")


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_g28_as_the_first_event_it_is_an_error_with_a_status(relay: Relays, way: Any) -> None:
    heard = hear(relay, way, Answer(pieces=sse(ERRORS["vLLM's older form"], "[DONE]")))
    assert (heard.status, "boom" in (heard.error or "")) == (502, True)


@pytest.mark.parametrize("text", ["Internal Server Error", "upstream exception", "request FAILED"])
@pytest.mark.parametrize("way", TRANSLATED.values(), ids=list(TRANSLATED))
def test_g18_a_line_that_says_that_something_failed_is_no_heartbeat(
    relay: Relays, way: Any, text: str
) -> None:
    assert hear(relay, way, Answer(pieces=sse(HEL, text, "[DONE]"))).error is not None


HEARTBEATS: list[Any] = [
    {"type": "ping"}, {"message": "queued"}, {"code": 200, "message": "ok"}, {"status": "processing"},
    {"code": "Success", "msg": "ok"}, {"base_resp": {"status_code": 0, "status_msg": ""}}, {"errors": []}, [],
    {"detail": None, "message": ""}, {"success": True, "message": "queued"}, "keep-alive",
]  # fmt: skip


@pytest.mark.parametrize("beat", HEARTBEATS, ids=str)
@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_g18_objects_without_choices_cost_nothing(relay: Relays, way: Any, beat: Any) -> None:
    heard = hear(relay, way, Answer(pieces=sse(HEL, beat, LO, STOP, "[DONE]")))
    assert (heard.error, heard.text, heard.reason) == (None, "Hello", "stop")


PLACES: dict[str, list[Any]] = {
    "a message beside an empty delta": [choice(delta={}, message={"role": "assistant", "content": "Hello"})],
    "text beside an empty delta": [choice(delta={}, text="Hel"), choice(delta={}, text="lo")],
    "text in the delta": [choice(delta={"text": "Hel"}), choice(delta={"text": "lo"})],
    "a delta that is a text": [choice(delta="Hel"), choice(delta="lo")],
    "content that is false": [choice(delta={"content": False}), HEL, LO],
}


@pytest.mark.parametrize("chunks", PLACES.values(), ids=list(PLACES))
@pytest.mark.parametrize("way", TRANSLATED.values(), ids=list(TRANSLATED))
def test_g1_a_text_in_an_odd_place_is_read_once(relay: Relays, way: Any, chunks: list[Any]) -> None:
    check(hear(relay, way, Answer(pieces=sse(*chunks, STOP, "[DONE]"))), HELLO)


@pytest.mark.parametrize(("number", "text"), [(5, "5"), (0, "0"), (2.5, "2.5")])
def test_a_number_is_the_text_that_it_looks_like(relay: Relays, number: float, text: str) -> None:
    played = Answer(pieces=sse(HEL, choice(delta={"content": number}), STOP, "[DONE]"))
    for way in TRANSLATED.values():
        assert hear(relay, way, played).text == "Hel" + text
