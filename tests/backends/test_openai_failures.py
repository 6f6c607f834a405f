"""What a client receives when an OpenAI-compatible provider fails, and what the provider sees of a client
that leaves.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import openai
import pytest

from tests.backends.two_ways import (
    COUNTED,
    END,
    KEY,
    MESSAGES,
    STOP,
    TEXT,
    Both,
    both_of,
    chunk,
    head,
    streamed,
)
from tests.serving import eventually
from tests.upstream import Answer, answer, scripted, sse


@pytest.fixture(scope="module")
def pair() -> Iterator[Both]:
    with both_of(timeout_s=60) as found:
        yield found


@pytest.fixture(scope="module")
def impatient() -> Iterator[Both]:
    """Its provider may be silent for half a second only."""
    with both_of(timeout_s=0.5) as found:
        yield found


@pytest.fixture
def both(pair: Both) -> Both:
    pair.provider.forget()
    return pair


def _whole(client: openai.OpenAI) -> Any:
    return client.chat.completions.create(model="m", messages=MESSAGES)


STATUSES = [
    (400, 400, "provider_refused"),
    (401, 502, "provider_authentication_error"),
    (403, 502, "provider_authentication_error"),
    (404, 404, "model_not_found"),
    (408, 504, "provider_timeout"),
    (409, 409, "provider_refused"),
    (413, 413, "provider_refused"),
    (422, 422, "provider_refused"),
    (429, 429, "rate_limit_exceeded"),
    (500, 502, "provider_error"),
    (502, 502, "provider_error"),
    (503, 503, "provider_unreachable"),
]


@pytest.mark.parametrize("see", [streamed, _whole])
@pytest.mark.parametrize(("status", "expected", "code"), STATUSES)
def test_each_status_is_reported_with_the_providers_words(
    both: Both, see: Any, status: int, expected: int, code: str
) -> None:
    body = {"error": {"message": f"its own words ({KEY})", "type": "t", "code": None}}
    num_before = len(both.provider.posts)
    with pytest.raises(openai.APIStatusError) as caught:
        both.through(see, answer(body, status=status, headers={"Retry-After": "7"}))
    assert (caught.value.status_code, caught.value.code) == (expected, code)
    assert "its own words" in caught.value.message
    assert KEY not in caught.value.response.text
    if status in (429, 503):
        assert caught.value.response.headers["retry-after"] == "7"
    assert len(both.provider.posts) == num_before + 1, "it was sent again"
    assert both.provider.posts[-1].headers["authorization"] == f"Bearer {KEY}"


ERRORS = [
    ({"message": "words", "type": "rate_limit_error", "code": "rate_limit_exceeded"}, 429),
    ({"message": "words", "code": 429}, 429),
    ({"message": "words", "code": "503"}, 503),
    ({"message": "words", "code": 401}, 502),
    ({"message": "words", "type": "invalid_request_error"}, 400),
    ({"message": "words", "type": "server_error", "code": None}, 502),
    ({"message": "words", "code": 7}, 502),
    ("words", 502),
]


@pytest.mark.parametrize(("error", "status"), ERRORS)
def test_an_error_in_a_stream_ends_it_with_the_providers_words(both: Both, error: Any, status: int) -> None:
    played = Answer(pieces=sse(*TEXT, {"error": error}))
    with pytest.raises(openai.APIStatusError) as refused:
        both.through(_whole, played)
    assert refused.value.status_code == status
    both.provider.play(played, played)
    direct, through = _until_it_fails(both.direct), _until_it_fails(both.client)
    assert through[0] == direct[0] == "Grüße 🌊"
    assert through[1].endswith("words")


def _until_it_fails(client: openai.OpenAI) -> tuple[str, str]:
    """The text that arrived, and the message of the error; "" if there was none."""
    text = ""
    try:
        with client.chat.completions.create(model="m", messages=MESSAGES, stream=True) as stream:
            for one in stream:
                text += "".join(choice.delta.content or "" for choice in one.choices)
    except openai.APIError as exc:
        return text, exc.message
    except Exception as exc:  # the transport's own
        return text, repr(exc)
    return text, ""


def test_an_event_named_error_is_an_error(both: Both) -> None:
    both.provider.play(Answer(pieces=sse(*TEXT, ("error", {"message": "words"}))))
    assert _until_it_fails(both.client) == ("Grüße 🌊", "p: words")


def test_finish_reason_error_is_an_error(both: Both) -> None:
    both.provider.play(Answer(pieces=sse(*TEXT, chunk(reason="error"), "[DONE]")))
    assert "failed" in _until_it_fails(both.client)[1]


@pytest.mark.parametrize("num_pieces", range(len(TEXT) + len(END) + 1))
@pytest.mark.parametrize("cut", [True, False])
def test_a_connection_that_ends_at_each_event(both: Both, num_pieces: int, cut: bool) -> None:
    pieces = sse(*TEXT, *END)[:num_pieces]
    both.provider.play(*[Answer(pieces=pieces, cut=cut)] * 2)
    direct, through = _until_it_fails(both.direct), _until_it_fails(both.client)
    assert through[0] == direct[0]
    is_complete = num_pieces > len(TEXT)  # its finish came: nothing is missing but the count
    assert bool(through[1]) is not is_complete


@pytest.mark.parametrize("at", range(1, 30))
def test_a_connection_that_is_cut_within_an_event(both: Both, at: int) -> None:
    pieces = [*sse(*TEXT), sse(STOP)[0][:at]]
    both.provider.play(Answer(pieces=pieces, cut=True), Answer(pieces=pieces))
    for _ in range(2):
        text, error = _until_it_fails(both.client)
        assert text == "Grüße 🌊"
        assert error


NONSENSE: dict[str, Sequence[bytes]] = {
    "html": [b"<html><body>Bad Gateway</body></html>"],
    "empty": [],
    "a number": sse("5"),
    "a list": sse([]),
    "no JSON": sse("{nope"),
    "choices of another kind": sse({"choices": 5}),
    "a choice of another kind": sse({"choices": ["x"]}),
    "a choice too many": sse(head(choices=[{"index": 1, "delta": {"content": "x"}}])),
    "an index of another kind": sse(head(choices=[{"index": [], "delta": {}}])),
    "text of another kind": sse(chunk({"content": 5})),
    "calls of another kind": sse(chunk({"tool_calls": [5]})),
    "arguments of another kind": sse(chunk({"tool_calls": [{"index": 0, "function": {"arguments": 5}}]})),
    "usage of another kind": sse(chunk(), head(choices=[], usage={"prompt_tokens": "many"})),
    "logprobs of another kind": sse(chunk(logprobs={"content": [{"token": "x", "logprob": None}]})),
    "bytes of no text": [b"data: \xff\xfe\n\n"],
    "nested without end": sse("[" * 100_000),
    "nothing but the end": sse("[DONE]"),
    "nothing but a count": sse(COUNTED, "[DONE]"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_a_failure_of_the_provider(both: Both, name: str) -> None:
    played = Answer(pieces=NONSENSE[name])
    with pytest.raises(openai.APIStatusError) as caught:
        both.through(_whole, played)
    assert (caught.value.status_code, caught.value.code) == (502, "provider_error")
    both.provider.play(played)
    assert _until_it_fails(both.client)[1]


def test_a_stall_before_the_answer_and_in_it(impatient: Both) -> None:
    both = impatient
    for stalled in (Answer(opening_s=60), Answer(stall=True), Answer(pieces=sse(*TEXT), stall=True)):
        with pytest.raises(openai.APIStatusError) as caught:
            both.through(_whole, stalled)
        assert (caught.value.status_code, caught.value.code) == (504, "provider_timeout")
        eventually(lambda: both.provider.posts[-1].closed_at)
    text, error = both.through(_until_it_fails, Answer(pieces=sse(*TEXT), stall=True))
    assert text == "Grüße 🌊"
    assert "silent" in error or "in time" in error


def test_an_answer_that_is_complete_does_not_wait_for_the_end(both: Both) -> None:
    seen = both.through(streamed, Answer(pieces=sse(*TEXT, *END), stall=True))
    assert seen.choices[0]["reason"] == "stop"
    both.through(streamed, Answer(pieces=sse(*TEXT, STOP), stall=True))


def test_a_redirect_does_not_get_the_key(both: Both) -> None:
    with scripted() as other:
        for status in (301, 302, 303, 307, 308):
            with pytest.raises(openai.APIStatusError) as caught:
                both.through(_whole, Answer(status, headers={"Location": other.url + "/v1/chat/completions"}))
            assert caught.value.status_code == 502
            assert other.url not in caught.value.response.text
        assert not other.requests


def test_the_callers_headers_are_not_passed_on(both: Both) -> None:
    both.provider.play(Answer(pieces=sse(*TEXT, *END)))
    both.served.post(
        "/v1/chat/completions",
        {"model": "m", "messages": MESSAGES},
        headers={"Authorization": "Bearer caller", "Cookie": "a=b", "X-Other": "1"},
    )
    headers = both.provider.posts[-1].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["x-own"] == "1"
    assert not {"cookie", "x-other"} & set(headers)


def test_a_connection_is_used_again_after_a_whole_answer(both: Both) -> None:
    for _ in range(3):
        both.through(streamed, Answer(pieces=sse(*TEXT, *END)))
    assert len({seen.connection for seen in both.provider.posts[-3:]}) == 1


CHAT_BODY = {"model": "m", "messages": MESSAGES}
TEXT_BODY = {"model": "m", "prompt": "hi"}
LEAVING = [
    ("/v1/chat/completions", CHAT_BODY | {"stream": True}),
    ("/v1/chat/completions", CHAT_BODY),
    ("/v1/completions", TEXT_BODY | {"stream": True}),
    ("/v1/completions", TEXT_BODY),
    ("/v1/embeddings", {"model": "m", "input": "hi"}),
]


@pytest.mark.parametrize(("path", "body"), LEAVING)
@pytest.mark.parametrize("played", [Answer(opening_s=60), Answer(pieces=sse(*TEXT), stall=True)])
def test_the_provider_sees_a_hang_up_at_once(
    both: Both, path: str, body: dict[str, Any], played: Answer
) -> None:
    num_before = len(both.provider.posts)
    both.provider.play(played)
    with both.served.begin(path, body) as caller:
        eventually(lambda: len(both.provider.posts) > num_before)
        if played.pieces and body.get("stream"):
            assert caller.recv(1000).startswith(b"HTTP/1.1 200")
    seen = both.provider.posts[-1]
    eventually(lambda: seen.closed_at)
