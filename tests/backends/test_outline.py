"""A large body is judged by its members, not by its first and last bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.backends.http import Upstream
from headrace.backends.openai.relay_reader import OpenAIRelayReader
from headrace.backends.passthrough import as_json
from headrace.backends.relay_reader import MAX_VALUE, outline
from headrace.types import Usage
from tests.api.relays import HI, USAGE, Relays
from tests.upstream import Answer

VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
LARGE = "x" * 300_000
MESSAGE = {"role": "assistant", "content": LARGE}
WHOLE = {"choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}], "usage": USAGE}
CHAT = "/v1/chat/completions"


@given(st.dictionaries(st.text(), VALUES, max_size=5), st.sampled_from([None, 2]), st.booleans())
def test_small_members_are_read(members: Any, indent: int | None, is_ascii: bool) -> None:
    text = json.dumps(members, indent=indent, ensure_ascii=is_ascii)
    assert outline(text.encode(errors="surrogatepass")) == members


@given(st.dictionaries(st.text(), VALUES, min_size=1, max_size=5), st.data())
def test_what_breaks_off_is_no_object(members: Any, data: st.DataObject) -> None:
    text = json.dumps(members).encode()
    with pytest.raises(ValueError, match=r"object|string|Expecting|Extra|delimiter"):
        outline(text[: data.draw(st.integers(0, len(text) - 1))])


@pytest.mark.parametrize("text", ["", "[]", "{}{}", "{} x", "[{}]", '"{}"', "}{"])
def test_what_is_no_object(text: str) -> None:
    with pytest.raises(ValueError, match=r"object|string|Expecting|Extra|delimiter"):
        outline(text.encode())


def test_large_members_are_left_out() -> None:
    found = outline(json.dumps({"a": "x" * (MAX_VALUE + 1), "b": {"a": [1]}}).encode())
    assert found == {"a": None, "b": {"a": [1]}}


def answer_to(relay: Relays, body: bytes) -> tuple[int, Any, bytes]:
    relay.provider.play(Answer(headers={"Content-Type": "application/json"}, pieces=[body]))
    status, headers, raw = relay.ask(CHAT, json.dumps({"model": "up:m", "messages": HI}).encode())
    return status, headers, raw


def test_a_large_answer_is_passed_on_as_it_is(relay: Relays) -> None:
    whole = json.dumps(WHOLE, indent=1).encode()
    for raw in (whole, b"\xef\xbb\xbf" + whole):
        assert answer_to(relay, raw)[::2] == (200, raw)


def test_white_space_before_a_large_answer_may_be_lost(relay: Relays) -> None:
    """It means nothing, and is not collected while the answer has not begun."""
    whole = json.dumps(WHOLE, indent=1).encode() + b"\n"
    status, _, raw = answer_to(relay, b" " * 300_000 + whole)
    assert (status, raw.lstrip()) == (200, whole)


CUT = json.dumps(WHOLE).encode()
BROKEN = {
    "cut after an object": CUT[: CUT.index(b'"finish_reason"') - 2] + b"}",
    "cut within a text that ends in a brace": b'{"choices": [{"message": {"content": "'
    + b"x" * 300_000
    + b"{}",
    "with something behind it": CUT + b" {}",
    "two": CUT + CUT,
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_half_a_large_answer_is_an_error(relay: Relays, body: bytes) -> None:
    status, _, raw = answer_to(relay, body)
    assert (status, json.loads(raw)["error"]["code"]) == (502, "provider_error")


def test_an_error_is_found_behind_or_before_much_else(relay: Relays) -> None:
    error = {"message": "the model is on fire", "code": 503}
    huge = {**error, "details": LARGE}
    for body in ({"padding": LARGE, "error": error}, {"error": error, "padding": LARGE}, {"error": huge}):
        status, _, raw = answer_to(relay, json.dumps(body).encode())
        assert status == 503, raw
        assert "on fire" in json.loads(raw)["error"]["message"]


def test_the_usage_is_the_answers_own() -> None:
    """Not that of a value which has a member of the same name, nor what an argument says."""
    reader = OpenAIRelayReader(
        Upstream("p", "http://127.0.0.1", headers={}, timeout_s=1), "/chat/completions", {}
    )
    nested = {**WHOLE, "extra": {"usage": {"prompt_tokens": 999, "completion_tokens": 999}}}
    for body in (nested, {**nested, "padding": LARGE}):
        raw = json.dumps(body).encode()
        passed, usage = as_json(raw, reader, is_json=True)
        assert (passed, usage) == (raw, Usage(20, 5))
