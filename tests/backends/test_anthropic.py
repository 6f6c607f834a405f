"""Anthropic's event streams through our backend say what its own SDK reads from the same bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import anthropic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.backends.sse import ServerSentEvent
from headrace.errors import (
    BadRequest,
    ContextTooLong,
    ModelNotFound,
    ProviderError,
    ProviderKeyRefused,
    ProviderLimited,
    ProviderRefused,
    ProviderTimedOut,
    ProviderUnreachable,
    ServerError,
)
from headrace.types import EmbedRequest, Finished, ReasoningDelta, Started, TextDelta, Thought, Usage
from tests.backends.anthropic_wire import (
    HELLO,
    PLAIN,
    STREAMS,
    WEATHER,
    backend_of,
    block,
    end,
    failed,
    generate,
    named,
    ours,
    reading,
    sdk,
    start,
    text,
    theirs,
    thinking,
    tool_use,
)
from tests.serving import eventually
from tests.upstream import Answer, Upstream, answer, scripted, split, sse


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with scripted() as upstream:
        upstream.always("/v1/models", answer({"data": [], "has_more": False}))
        yield upstream


@pytest.mark.parametrize("name", STREAMS)
def test_we_read_what_the_sdk_reads(upstream: Upstream, name: str) -> None:
    scripted = Answer(pieces=sse(*STREAMS[name]))
    upstream.play(scripted, scripted)
    assert ours(generate(upstream)) == theirs(upstream.url)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("name", ["parallel tools beside text", "unicode", "thinking"])
def test_we_read_it_byte_by_byte(upstream: Upstream, name: str, end: bytes) -> None:
    whole = b": hi\n\n".replace(b"\n", end) + b"".join(sse(*STREAMS[name], end=end))
    upstream.play(Answer(pieces=split(whole, range(1, len(whole)))), Answer(pieces=[whole], gzip=True))
    assert ours(generate(upstream)) == theirs(upstream.url)


def test_arguments_may_be_cut_anywhere(upstream: Upstream) -> None:
    for at in range(len(WEATHER) + 1):
        call = tool_use(0, "toolu_1", "weather", WEATHER[:at], WEATHER[at:])
        upstream.play(Answer(pieces=sse(start(), *call, *end("tool_use"))))
        assert ours(generate(upstream)).calls == [("toolu_1", "weather", json.loads(WEATHER))]


def test_spaces_after_the_data_and_missing_names_of_events_do_no_harm(upstream: Upstream) -> None:
    pieces = [f"data: {json.dumps(value)}   \n\n".encode() for _, value in PLAIN]
    upstream.play(Answer(pieces=pieces))
    assert ours(generate(upstream)).text == "Hello"


def test_arguments_in_the_first_event_of_a_call_are_read(upstream: Upstream) -> None:
    first = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}
    upstream.play(Answer(pieces=sse(start(), *block(0, first), *end("tool_use"))))
    assert ours(generate(upstream)).calls == [("toolu_1", "f", {"a": 1})]


def test_events_come_in_order_and_say_how_long_they_took(upstream: Upstream) -> None:
    events = [start(cache_read_input_tokens=9), *thinking(0, "Hm", signature="cw=="), *text(1, "Yes")]
    details = {"thinking_tokens": 4}
    upstream.play(Answer(pieces=sse(*events, *end(output_tokens_details=details)), delay_s=0.01))
    began, *rest, finished = generate(upstream)
    assert isinstance(began, Started)
    assert (began.prompt_tokens, began.cached_tokens) == (20, 9)
    assert 0.01 <= began.prefill_s < 5
    assert rest == [
        ReasoningDelta(0, "Hm"),
        ReasoningDelta(0, "", thought=Thought("Hm", "cw==")),
        TextDelta(0, "Yes"),
    ]
    assert isinstance(finished, Finished)
    assert finished.usage == Usage(20, 7, 9, reasoning_tokens=4)
    assert 0.05 <= finished.decode_s < 5


def test_the_stop_sequence_that_was_met_is_known(upstream: Upstream) -> None:
    upstream.play(Answer(pieces=sse(start(), *text(0, "x"), *end("stop_sequence", met="END"))))
    (finished,) = (event for event in generate(upstream) if isinstance(event, Finished))
    assert (finished.reason, finished.stop) == ("stop", "END")


def test_a_thought_without_a_signature_is_shown_and_not_kept(upstream: Upstream) -> None:
    cut = block(0, {"type": "thinking", "thinking": ""}, {"type": "thinking_delta", "thinking": "Hm"})
    upstream.play(Answer(pieces=sse(start(), *cut, *end("max_tokens"))))
    assert [e for e in generate(upstream) if isinstance(e, ReasoningDelta)] == [ReasoningDelta(0, "Hm")]


def test_thoughts_that_are_interleaved_are_passed_on_one_after_the_other(upstream: Upstream) -> None:
    empty = {"type": "thinking", "thinking": "", "signature": ""}
    events: list[Any] = [start()]
    events += [named("content_block_start", index=index, content_block=empty) for index in (0, 1, 2)]
    for piece in "12":
        for index, letter in enumerate("ABC"):
            delta = {"type": "thinking_delta", "thinking": letter + piece}
            events.append(named("content_block_delta", index=index, delta=delta))
    for index in (1, 0, 2):
        sign = {"type": "signature_delta", "signature": f"c{index}"}
        events.append(named("content_block_delta", index=index, delta=sign))
        events.append(named("content_block_stop", index=index))
    upstream.play(Answer(pieces=sse(*events, *end())))
    thoughts = [event for event in generate(upstream) if isinstance(event, ReasoningDelta)]
    assert "".join(event.text for event in thoughts) == "A1A2B1B2C1C2"
    whole = [(event.thought.text, event.thought.signature) for event in thoughts if event.thought]
    assert whole == [("A1A2", "c0"), ("B1B2", "c1"), ("C1C2", "c2")]


def test_a_reason_once_reported_holds(upstream: Upstream) -> None:
    more = named("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 9})
    delta, stop = end("max_tokens")
    upstream.play(Answer(pieces=sse(start(), *text(0, "x"), delta, more, stop)))
    outcome = ours(generate(upstream))
    assert (outcome.reason, outcome.usage) == ("length", (11, 9, 0, 0))


def test_a_count_does_not_become_zero(upstream: Upstream) -> None:
    last = end(input_tokens=0, cache_read_input_tokens=0)
    upstream.play(Answer(pieces=sse(start(), *text(0, "x"), *last)))
    assert ours(generate(upstream)).usage == (11, 7, 0, 0)


def test_without_usage_none_is_known(upstream: Upstream) -> None:
    bare = [named("message_start", message={}), *text(0, "x")]
    delta = named("message_delta", delta={"stop_reason": "end_turn"})
    upstream.play(Answer(pieces=sse(*bare, delta, named("message_stop"))))
    finished = generate(upstream)[-1]
    assert isinstance(finished, Finished)
    assert not finished.usage.is_known


ERRORS: list[tuple[int, str, type[ServerError], int]] = [
    (400, "invalid_request_error", ProviderRefused, 400),
    (401, "authentication_error", ProviderKeyRefused, 502),
    (402, "billing_error", ProviderKeyRefused, 502),
    (403, "permission_error", ProviderKeyRefused, 502),
    (404, "not_found_error", ModelNotFound, 404),
    (409, "conflict_error", ProviderRefused, 409),
    (413, "request_too_large", ProviderRefused, 413),
    (422, "invalid_request_error", ProviderRefused, 422),
    (429, "rate_limit_error", ProviderLimited, 429),
    (500, "api_error", ProviderError, 502),
    (504, "timeout_error", ProviderTimedOut, 504),
    (529, "overloaded_error", ProviderUnreachable, 503),
]


@pytest.mark.parametrize(("status", "type", "error", "outcome"), ERRORS)
def test_an_error_is_reported_once_with_its_words(
    upstream: Upstream, status: int, type: str, error: type[ServerError], outcome: int
) -> None:
    refusal = answer(failed(type), status=status, headers={"Retry-After": "7"})
    upstream.play(refusal, refusal)
    with pytest.raises(ServerError) as raised:
        generate(upstream)
    assert (raised.type, raised.value.status) == (error, outcome)
    assert raised.value.message == "anthropic: It is so"
    is_temporary = status in (409, 429) or status >= 500
    assert raised.value.headers.get("Retry-After") == ("7" if is_temporary else None)
    with pytest.raises(anthropic.APIStatusError) as direct:
        theirs(upstream.url)
    assert (direct.value.status_code, direct.value.api_message) == (status, "It is so")


@pytest.mark.parametrize(("type", "error"), {type: error for _, type, error, _ in ERRORS}.items())
@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_error_inside_the_stream_is_the_same_error(
    upstream: Upstream, after: int, type: str, error: type[ServerError]
) -> None:
    pieces = sse(*PLAIN[:after], ("error", failed(type)))
    upstream.play(Answer(pieces=pieces), Answer(pieces=pieces))
    with pytest.raises(ServerError) as raised:
        generate(upstream)
    expected = ProviderRefused if type == "invalid_request_error" else error
    assert (raised.type, raised.value.message) == (expected, "anthropic: It is so")
    with pytest.raises(anthropic.APIStatusError) as direct:
        theirs(upstream.url)
    assert direct.value.type == type


def test_an_unknown_error_inside_the_stream_is_the_providers(upstream: Upstream) -> None:
    upstream.play(Answer(pieces=sse(start(), ("error", failed("new_error", "")))))
    with pytest.raises(ProviderError, match=r"^anthropic: new_error$") as raised:
        generate(upstream)
    assert raised.value.status == 502


def test_a_prompt_that_is_too_long_is_reported_as_one(upstream: Upstream) -> None:
    message = "prompt is too long: 208310 tokens > 200000 maximum"
    upstream.play(answer(failed("invalid_request_error", message), status=400))
    with pytest.raises(ContextTooLong, match="208310 tokens") as raised:
        generate(upstream)
    assert raised.value.param == "messages"


def test_a_connection_that_is_cut_anywhere_is_an_error(upstream: Upstream) -> None:
    events = STREAMS["parallel tools beside text"]
    for sent in range(len(events) - 1):  # without the last one, the stop reason is there
        upstream.play(Answer(pieces=sse(*events[:sent]), cut=True))
        with pytest.raises(ProviderError):
            generate(upstream)
    upstream.play(Answer(pieces=sse(*events), cut=True))
    assert ours(generate(upstream)).reason == "tool_calls"


def test_an_answer_that_ends_early_is_an_error_unless_it_said_why_it_stopped(upstream: Upstream) -> None:
    for sent in range(len(PLAIN) - 1):
        upstream.play(Answer(pieces=sse(*PLAIN[:sent])))
        if PLAIN[sent - 1][0] == "message_delta":
            assert ours(generate(upstream)).text == "Hello"
        else:
            with pytest.raises(ProviderError, match="in the middle"):
                generate(upstream)


@pytest.mark.parametrize(
    "pieces",
    [
        [b"<html>busy</html>"],
        [b"data: {nonsense\n\n"],
        [b"data: [1]\n\n"],
        [b"data: " + b"[" * 100_000 + b"\n\n"],
        sse(named("message_start", message=[1]), named("message_stop")),
        sse(named("content_block_start", index={}, content_block=None), named("message_stop")),
        sse(named("content_block_delta", index=[], delta={"type": "thinking_delta"})),
    ],
)
def test_nonsense_is_the_providers_error(upstream: Upstream, pieces: Sequence[bytes]) -> None:
    upstream.play(Answer(pieces=pieces))
    with pytest.raises(ProviderError) as raised:
        generate(upstream)
    assert raised.value.status == 502


NAMES = [
    "index",
    "message",
    "content_block",
    "delta",
    "usage",
    "type",
    "text",
    "input",
    "id",
    "name",
    "error",
]
NAMES += [
    "stop_reason",
    "input_tokens",
    "output_tokens_details",
    "thinking",
    "signature",
    "partial_json",
    "data",
]
TYPES = sorted({name for stream in STREAMS.values() for name, _ in stream})
KINDS = [
    "text",
    "thinking",
    "tool_use",
    "redacted_thinking",
    "text_delta",
    "thinking_delta",
    "signature_delta",
]
LEAVES = st.sampled_from([*TYPES, *KINDS, "input_json_delta", "", 0, 1, -1.5, None, True])
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
)
EVENTS = st.builds(
    lambda type, value: {**value, "type": type},
    st.sampled_from([*TYPES, "error"]),
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(EVENTS | VALUES, max_size=8))
def test_whatever_comes_is_read_or_refused(values: list[object]) -> None:
    read = reading("anthropic")
    with suppress(ServerError):
        for value in values:
            for event in read.read(ServerSentEvent("", json.dumps(value))):
                assert event.index == 0
        read.end()


def test_silence_and_redirects_end(upstream: Upstream) -> None:
    upstream.play(Answer(pieces=sse(*PLAIN[:2]), stall=True))
    with pytest.raises(ProviderTimedOut):
        generate(upstream, timeout_s=0.1)
    upstream.play(Answer(307, {"Location": "http://127.0.0.1:1/"}))
    with pytest.raises(ProviderError, match="redirect"):
        generate(upstream)


def test_the_headers_of_a_request(upstream: Upstream) -> None:
    upstream.play(Answer(pieces=sse(*PLAIN)))
    generate(upstream, headers={"Anthropic-Beta": "a-2026-01-01", "ANTHROPIC-VERSION": "2026-10-21"})
    seen = upstream.posts[-1]
    assert (seen.method, seen.path, seen.query) == ("POST", "/v1/messages", "")
    assert seen.headers["x-api-key"] == "sk-secret"
    assert seen.headers["anthropic-version"] == "2026-10-21"
    assert seen.headers["anthropic-beta"] == "a-2026-01-01"
    assert "authorization" not in seen.headers
    assert seen.body["stream"] is True
    upstream.play(Answer(pieces=sse(*PLAIN)))
    generate(upstream)
    assert upstream.posts[-1].headers["anthropic-version"] == "2023-06-01"


def test_a_reader_that_leaves_ends_the_providers_work_at_once(upstream: Upstream) -> None:
    async def run() -> None:
        backend = backend_of(upstream)
        await backend.start()
        async with backend.generate(HELLO) as events:
            assert isinstance(await anext(events), Started)
        await asyncio.to_thread(eventually, lambda: upstream.posts[-1].closed_at is not None)
        await backend.aclose()

    upstream.play(Answer(pieces=sse(*PLAIN[:2]), stall=True))
    asyncio.run(run())


def test_a_connection_serves_the_next_request_too(upstream: Upstream) -> None:
    async def run() -> None:
        backend = backend_of(upstream, models=["m"])
        await backend.upstream.start()
        for _ in range(3):
            async with backend.generate(HELLO) as events:
                assert len([event async for event in events]) == 4
        await backend.aclose()

    upstream.play(*[Answer(pieces=sse(*PLAIN), delay_s=0.001)] * 3)
    asyncio.run(run())
    assert len({seen.connection for seen in upstream.posts[-3:]}) == 1


def test_an_answer_whose_connection_does_not_end_is_over_all_the_same(upstream: Upstream) -> None:
    upstream.play(Answer(pieces=sse(*PLAIN), stall=True))
    assert ours(generate(upstream)).text == "Hello"


LISTED = {
    "type": "model", "id": "claude-opus-5-5", "display_name": "Claude Opus 5.5", "lifecycle": "active",
    "created_at": "2026-09-01T00:00:00Z", "max_input_tokens": 1_000_000, "max_tokens": 128_000,
}  # fmt: skip


def test_its_list_of_models_is_read_page_by_page(upstream: Upstream) -> None:
    async def run() -> list[tuple[str, str, int, int | None]]:
        backend = backend_of(upstream)
        await backend.upstream.start()
        await backend.refresh()
        await backend.aclose()
        return [(m.id, m.owned_by, m.created, m.max_model_len) for m in backend.models()]

    other = {**LISTED, "id": "claude-haiku-5-5", "created_at": "?", "max_input_tokens": None}
    pages = [
        {"data": [LISTED], "has_more": True, "first_id": LISTED["id"], "last_id": LISTED["id"]},
        {"data": [other, {"no": "id"}], "has_more": False, "last_id": other["id"]},
    ]
    upstream.play(*map(answer, pages), *map(answer, pages), path="/v1/models")
    found = asyncio.run(run())
    assert found == [
        ("claude-opus-5-5", "anthropic", 1788220800, 1_000_000),
        ("claude-haiku-5-5", "anthropic", 0, None),
    ]
    queries = [seen.query for seen in upstream.requests if seen.path == "/v1/models"][-2:]
    assert queries == ["limit=1000", "limit=1000&after_id=claude-opus-5-5"]
    with sdk(upstream.url) as client:
        assert [model.id for model in client.models.list() if model.id] == [id for id, *_ in found]


def test_it_embeds_nothing(upstream: Upstream) -> None:
    with pytest.raises(BadRequest, match="no embeddings"):
        asyncio.run(backend_of(upstream).embed(EmbedRequest("claude", ("x",))))
