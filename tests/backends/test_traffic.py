"""Whatever a provider sends, however it is cut up: every reader gives the same answer, or a ServerError.

`HEADRACE_TRAFFIC=100000 python -m pytest tests/backends/test_traffic.py -k chat` runs as many cases of one
dialect (chat, completions, responses, messages, ollama) as the number says.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headrace.backends.answer import AnswerBody, AnswerReader, events_of, read_answer
from headrace.backends.anthropic import answer as anthropic
from headrace.backends.anthropic.relay_reader import AnthropicRelayReader
from headrace.backends.http import Upstream
from headrace.backends.ollama import answer as ollama
from headrace.backends.openai import answer as openai
from headrace.backends.openai.relay_reader import OpenAIRelayReader
from headrace.backends.passthrough import Stream, as_json
from headrace.backends.relay_reader import RelayReader
from headrace.backends.sse import ServerSentEvent, lines
from headrace.collected import Collected
from headrace.dialects.anthropic import tool_input
from headrace.errors import ServerError
from headrace.types import (
    Conversation,
    Event,
    Finished,
    GenerateRequest,
    Message,
    ModelInfo,
    ReasoningDelta,
    Started,
    Thought,
    Usage,
)
from headrace.wire import chat as wire_chat
from headrace.wire import completions as wire_completions
from headrace.wire.anthropic import answer as wire_messages
from headrace.wire.parameters import parse
from headrace.wire.responses.object import begin
from headrace.wire.responses.stream import ResponseEvents
from tests.backends.traffic import Case
from tests.heard import DIALECTS, Heard, frames
from tests.wire.responses.streams import body_of
from tests.wire.stream_order import in_pieces, read_stream

NUM_CASES = int(os.environ.get("HEADRACE_TRAFFIC", "400"))
INFO = ModelInfo("m", "us", 0, 4096, None)
HI = GenerateRequest("m", Conversation((Message("user", "hi"),)))
NAME = "up"

CHAT = parse(wire_chat.ChatBody, b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}')
COUNTED: Any = {"stream": True, "stream_options": {"include_usage": True}}
STREAMED = parse(
    wire_chat.ChatBody,
    json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **COUNTED}).encode(),
)
TEXT = parse(wire_completions.CompletionBody, json.dumps({"model": "m", "prompt": "hi", **COUNTED}).encode())

traffic = settings(
    max_examples=NUM_CASES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 2**62)


Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Run a coroutine to its end, in an event loop that all share."""
    with asyncio.Runner() as found:
        yield found.get_loop().run_until_complete


async def piecemeal(pieces: Sequence[bytes]) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece


# --- the readers ------------------------------------------------------------------------------------------


UPSTREAM = Upstream(NAME, "http://x", headers={}, timeout_s=1)


async def chat_events(pieces: Sequence[bytes]) -> list[Event]:
    return await sse_events(openai.Answer(UPSTREAM, 1), pieces)


async def message_events(pieces: Sequence[bytes]) -> list[Event]:
    return await sse_events(anthropic.Answer(UPSTREAM), pieces)


async def sse_events(reader: AnswerReader[ServerSentEvent], pieces: Sequence[bytes]) -> list[Event]:
    return [event async for event in read_answer(reader, events_of(UPSTREAM, piecemeal(pieces)))]


async def ollama_events(pieces: Sequence[bytes]) -> list[Event]:
    reader = ollama.Answer(UPSTREAM, HI, 0, 4096)
    return [event async for event in read_answer(reader, lines(piecemeal(pieces)))]


def openai_reader(endpoint: str = "/chat/completions") -> RelayReader:
    return OpenAIRelayReader(UPSTREAM, endpoint, {"stream_options": {"include_usage": True}})


def anthropic_reader() -> RelayReader:
    return AnthropicRelayReader(UPSTREAM)


async def passed_on(reader: RelayReader, pieces: Sequence[bytes]) -> bytes:
    """What the caller of a relayed stream gets."""
    stream = Stream(reader, AnswerBody(NAME, piecemeal(pieces)), until_content=False)
    await stream.begin()
    return b"".join([piece async for piece in stream.rest()])


async def folded(reader: RelayReader, raw: bytes) -> bytes:
    """What the caller gets who asked for JSON and whose provider sent a stream."""
    answer_body = AnswerBody(NAME, piecemeal([raw]))
    await answer_body.begin()
    return as_json(raw, reader, is_json=answer_body.is_json)[0]


# --- what is heard of it, by each way ---------------------------------------------------------------------


def collected(events: Sequence[Event]) -> Collected:
    found = Collected()
    for event in events:
        found.push(event)
    return found


def heard(dialect: str, texts: Sequence[str], *, is_framed: bool = False) -> Heard:
    found, reader = Heard(), DIALECTS[dialect]
    if is_framed:
        for name, data in frames("".join(texts).encode()):
            reader.event(found, name, data)
    else:
        for text in texts:
            reader.event(found, "", json.loads(text))
    return found


def heard_whole(dialect: str, body: Any) -> Heard:
    found = Heard()
    DIALECTS[dialect].whole(found, json.loads(json.dumps(body, allow_nan=False)))
    return found


def by_chat(events: Sequence[Event]) -> list[Heard]:
    writer = wire_chat.Chunks(STREAMED, INFO)
    texts = [*writer.first(), *(text for event in events for text in writer.event(event)), *writer.last()]
    whole = wire_chat.completion(CHAT, INFO, collected(events))
    return [heard("chat/completions", texts), heard_whole("chat/completions", whole)]


def by_completions(events: Sequence[Event]) -> list[Heard]:
    writer = wire_completions.Chunks(TEXT, INFO)
    texts = [*writer.first(), *(text for event in events for text in writer.event(event)), *writer.last()]
    whole = wire_completions.completion(TEXT, INFO, collected(events))
    return [heard("completions", texts), heard_whole("completions", whole)]


def by_messages(events: Sequence[Event]) -> list[Heard]:
    writer = wire_messages.Frames(INFO)
    texts = [*writer.first(), *(text for event in events for text in writer.event(event)), *writer.last()]
    whole = wire_messages.message(INFO, collected(events))
    return [heard("messages", texts, is_framed=True), heard_whole("messages", whole)]


def by_responses(events: Sequence[Event], seed: int) -> list[Heard]:
    body = body_of(tools=[], store=False)
    writer = ResponseEvents(begin(body, INFO, id="resp_1", created_at=1), body)
    texts = [*writer.first(), *(text for event in events for text in writer.event(event)), *writer.close()]
    texts.append(writer.last(writer.response))
    raw = "".join(f"event: {json.loads(text)['type']}\ndata: {text}\n\n" for text in texts)
    values = read_stream(in_pieces((raw + "data: [DONE]\n\n").encode(), seed))
    found = Heard()
    for value in values:
        DIALECTS["responses"].event(found, value["type"], value)
    added = Heard(reason=found.reason, usage=found.usage)
    for value in values:
        added.text += value["delta"] if value["type"] == "response.output_text.delta" else ""
        added.reasoning += value["delta"] if value["type"] == "response.reasoning_text.delta" else ""
        if value["type"] == "response.output_item.done" and "arguments" in value["item"]:
            added.calls.append([value["item"]["name"], value["item"]["arguments"]])
    return [found, added, heard_whole("responses", writer.response)]


def same(first: Heard, other: Heard, *, is_parsed: bool = False) -> None:
    """`is_parsed`: the other's arguments are what could be parsed of them."""
    assert (other.text, other.reasoning) == (first.text, first.reasoning)
    assert (other.error, other.usage or first.usage) == (first.error, first.usage or other.usage)
    mine = [[name, _normal(text, is_parsed=is_parsed)] for name, text in first.calls]
    assert [[name, _normal(text, is_parsed=is_parsed)] for name, text in other.calls] == mine
    assert len(set(other.ids)) == len(other.ids)


def _normal(arguments: str, *, is_parsed: bool) -> Any:
    return tool_input(arguments) if is_parsed else arguments or "{}"


def on_all_ways(events: Sequence[Event]) -> Heard:
    """Streamed and whole, in chat's dialect and in Anthropic's; test_responses has the third."""
    first, whole = by_chat(events)
    same(first, whole)
    assert whole.reason == first.reason
    streamed, message = by_messages(events)
    same(first, streamed, is_parsed=True)
    same(first, message, is_parsed=True)
    assert streamed.reason == message.reason == first.reason
    return first


def is_ended(dialect: str, case: Case) -> bool:
    """Whether anything in a body says that it is the end: found without the readers."""
    if dialect == "messages":
        return b'stop_reason": "' in case.raw or b"message_stop" in case.raw or case.raw[:1] in b"{["
    if dialect == "ollama":
        return b'"done": true' in case.raw or b'done_reason": "' in case.raw
    return b'finish_reason": "' in case.raw or b"data: [DONE]" in case.raw or case.raw[:1] in b"{["


def as_said(case: Case, found: Heard) -> None:
    """What an answer that nothing has spoiled must be heard as."""
    assert found.error is None
    assert (found.text, found.reasoning) == (case.content.text, case.content.reasoning)
    calls = [[name, json.loads(text or "{}")] for name, text in found.calls]
    assert calls == [[name, json.loads(text or "{}")] for name, text in case.content.calls]
    assert found.reason == case.content.reason
    assert found.usage == case.content.usage


Read = Callable[[Sequence[bytes]], Any]


def read_both(run: Run, read: Read, case: Case, dialect: str) -> list[Event] | None:
    """The events; None: an error, and the same one however the bytes are cut."""
    outcomes: list[Any] = []
    for pieces in (case.pieces, [case.raw]):
        try:
            outcomes.append(run(read(pieces)))
        except ServerError as exc:
            outcomes.append(exc.message)
    assert isinstance(outcomes[0], str) == isinstance(outcomes[1], str)
    if isinstance(outcomes[0], str):
        assert case.is_spoiled, outcomes[0]
        return None
    assert is_ended(dialect, case), "a success without an end"
    return outcomes[0]  # type: ignore[no-any-return]


def relayed(run: Run, reader: Callable[[], RelayReader], case: Case) -> tuple[Any, Any]:
    """A stream and a JSON body that were passed on; None: an error."""
    found: list[bytes | None] = []
    for work in (passed_on(reader(), case.pieces), folded(reader(), case.raw)):
        try:
            found.append(run(work))
        except ServerError:
            found.append(None)
    return found[0], found[1]


def check_relayed(
    run: Run, read: Read, reader: Callable[[], RelayReader], case: Case, first: Heard, dialect: str
) -> None:
    """A caller who is passed the answer, in either form, hears the same."""
    stream, body = relayed(run, reader, case)
    if not case.is_spoiled:
        assert stream is not None
        assert body is not None
    if stream is not None:
        read_again = by_chat(run(read([stream])))[1]
        same(first, read_again)
        assert read_again.reason == first.reason
    if body is not None and body.lstrip()[:1] == b"{":
        heard = heard_whole(dialect, json.loads(body))
        same(first, heard, is_parsed=dialect == "messages")
        unfolded = reader().unfolded(json.loads(body))
        assert unfolded is not None
        read_again = by_chat(run(read([unfolded])))[1]
        same(first, read_again, is_parsed=dialect == "messages")


@traffic
@given(seeds)
@example(562174726908)  # a piece is skipped while the delta that starts another call waits
def test_chat(run: Run, seed: int) -> None:
    case = Case.of("chat", seed)
    events = read_both(run, chat_events, case, "chat")
    if events is not None:
        first = on_all_ways(events)
        if not case.is_spoiled:
            as_said(case, first)
        check_relayed(run, chat_events, openai_reader, case, first, "chat/completions")


@traffic
@given(seeds)
def test_completions(run: Run, seed: int) -> None:
    case = Case.of("completions", seed)
    events = read_both(run, chat_events, case, "completions")
    if events is None:
        return
    if any(type(event).__name__ in ("ReasoningDelta", "ToolCallDelta") for event in events):
        return  # another dialect got in; a text has no place for it
    first, whole = by_completions(events)
    same(first, whole)
    if not case.is_spoiled:
        as_said(case, first)
    stream, body = relayed(run, lambda: openai_reader("/completions"), case)
    if stream is not None:
        same(first, by_completions(run(chat_events([stream])))[0])
    if body is not None and body.lstrip()[:1] == b"{":
        same(first, heard_whole("completions", json.loads(body)))


@traffic
@example(79889731)  # two interleaved thoughts, each with half a character
@example(334669624324391168)  # a block whose type is a number
@example(222374)  # a stream without names of events that breaks off within its last one
@example(276849022258588)  # a second beginning, whose prompt has no tokens
@given(seeds)
def test_messages(run: Run, seed: int) -> None:
    case = Case.of("messages", seed)
    events = read_both(run, message_events, case, "messages")
    if events is not None:
        first = on_all_ways(events)
        if not case.is_spoiled:
            as_said(case, first)
        check_relayed(run, message_events, anthropic_reader, case, first, "messages")


@pytest.mark.parametrize("signed", ["a", "b", "ab", ""])
def test_the_text_of_a_signed_thought_is_written_once(signed: str) -> None:
    """Some providers interleave two thoughts, so that the text of one lies before that of the other."""
    thought = ReasoningDelta(0, "", thought=Thought(signed, "c2ln"))
    texts = [ReasoningDelta(0, "a"), ReasoningDelta(0, "b")]
    events: list[Event] = [Started(0, 0, 0, 1), *texts, thought, Finished(0, "stop", Usage(1, 2))]
    assert on_all_ways(events).reasoning == "ab"


@traffic
@given(seeds)
def test_ollama(run: Run, seed: int) -> None:
    case = Case.of("ollama", seed)
    events = read_both(run, ollama_events, case, "ollama")
    if events is not None:
        first = on_all_ways(events)
        if not case.is_spoiled:
            as_said(case, first)


@traffic
@given(seeds, st.sampled_from(["chat", "messages", "ollama"]))
def test_responses(run: Run, seed: int, dialect: str) -> None:
    """Their streams, written of any provider's traffic and read at any boundaries."""
    case = Case.of(dialect, seed)
    read: Read = {"chat": chat_events, "messages": message_events, "ollama": ollama_events}[dialect]
    events = read_both(run, read, case, dialect)
    if events is not None:
        answers = by_responses(events, seed)
        for other in answers:
            same(answers[0], other)
        if not case.is_spoiled:
            as_said(case, answers[0])


def test_sent_is_compared_by_what_it_says() -> None:
    assert ServerSentEvent("", "x", is_last=True) == ServerSentEvent("", "x")
