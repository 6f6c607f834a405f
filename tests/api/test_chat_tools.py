"""Tools, reasoning, logprobs and formats over /v1/chat/completions: scripted answers, read by the official
client.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import openai
import pytest
from openai.types.chat import (
    ChatCompletionChunk,
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageParam,
)
from pydantic import BaseModel

from headrace.backends.fake import FakeBackend
from headrace.types import (
    Event,
    Finished,
    FinishReason,
    Format,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from tests.conftest import FakeServer
from tests.serving import Served, events

CHAT = "/v1/chat/completions"
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "How is the weather in Bern?"}]
SCHEMA: dict[str, object] = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {"name": "weather", "parameters": SCHEMA},
}
TIME: ChatCompletionFunctionToolParam = {"type": "function", "function": {"name": "time"}}
BERN = '{"city": "Bern \\u2600 ☀"}'


class Weather(BaseModel):
    """Tell the weather."""

    city: str


def ended(reason: FinishReason) -> Finished:
    return Finished(0, reason, Usage(11, 7, 2, 3))


def calling(*sizes: int) -> list[Event]:
    """Two calls, the first with its arguments in pieces of these sizes."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(BERN[at : at + size])
        at += size
    return [
        Started(0, 0.1, 0.2),
        ReasoningDelta(0, "They want "),
        ReasoningDelta(0, "weather."),
        ToolCallDelta(0, 0, id="call_w", name="weather"),
        *(ToolCallDelta(0, 0, piece) for piece in [*pieces, BERN[at:]]),
        ToolCallDelta(0, 1, id="call_t", name="time", arguments="{}"),
        ended("tool_calls"),
    ]


SPLITS = [(), (1,), (3, 4), (13, 1, 1), (1,) * len(BERN)]


@pytest.fixture
def client(fake_server: FakeServer) -> Iterator[Any]:
    """Call it with a script to get a client that believes nothing."""
    clients: list[openai.OpenAI] = []

    def over(*script: str | Event) -> openai.OpenAI:
        url = fake_server(FakeBackend(script)).url + "/v1"
        clients.append(
            openai.OpenAI(base_url=url, api_key="x", max_retries=0, _strict_response_validation=True)
        )
        return clients[-1]

    yield over
    for made in clients:
        made.close()


def last_request(server: Served) -> Any:
    return server.backend.requests[-1]  # type: ignore[attr-defined]  # a FakeBackend


@pytest.mark.parametrize("sizes", SPLITS)
def test_calls_are_whole(client: Any, sizes: Sequence[int]) -> None:
    answer = client(*calling(*sizes)).chat.completions.create(
        model="fake", messages=QUESTION, tools=[WEATHER, TIME]
    )
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert [call.model_dump() for call in choice.message.tool_calls] == [
        {"id": "call_w", "type": "function", "function": {"name": "weather", "arguments": BERN}},
        {"id": "call_t", "type": "function", "function": {"name": "time", "arguments": "{}"}},
    ]
    assert choice.message.reasoning_content == choice.message.reasoning == "They want weather."
    assert answer.usage.completion_tokens_details.reasoning_tokens == 3
    assert answer.usage.prompt_tokens_details.cached_tokens == 2


@pytest.mark.parametrize("sizes", SPLITS)
def test_streamed_calls_say_who_once_and_then_only_arguments(client: Any, sizes: Sequence[int]) -> None:
    stream = client(*calling(*sizes)).chat.completions.create(
        model="fake", messages=QUESTION, tools=[WEATHER, TIME], stream=True
    )
    chunks: list[ChatCompletionChunk] = list(stream)
    pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or ()]
    assert [piece.index for piece in pieces] == [0] * (len(pieces) - 1) + [1]
    for piece in (pieces[0], pieces[-1]):
        assert (piece.type, piece.id) == ("function", "call_t" if piece.index else "call_w")
    assert pieces[0].function is not None
    assert (pieces[0].function.name, pieces[0].function.arguments) == ("weather", "")
    for piece in pieces[1:-1]:
        assert piece.model_dump(exclude_unset=True).keys() == {"index", "function"}
        assert piece.function is not None
        assert piece.function.model_dump(exclude_unset=True).keys() == {"arguments"}
    sent = [piece.function.arguments or "" for piece in pieces[:-1] if piece.function]
    assert "".join(sent) == BERN
    assert sent[1 : 1 + len(sizes)] == [BERN[sum(sizes[:i]) :][:size] for i, size in enumerate(sizes)]
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "tool_calls"]


def test_reasoning_streams_under_both_names(fake_server: FakeServer) -> None:
    server = fake_server(FakeBackend([ReasoningDelta(0, "h"), ReasoningDelta(0, "m"), TextDelta(0, "Yes")]))
    chunks = events(server.post(CHAT, {"model": "fake", "messages": QUESTION, "stream": True}))[:-1]
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"reasoning_content": "h", "reasoning": "h"},
        {"reasoning_content": "m", "reasoning": "m"},
        {"content": "Yes"},
        {},
    ]


@pytest.mark.parametrize("sizes", SPLITS)
def test_stream_helper_puts_calls_together(client: Any, sizes: Sequence[int]) -> None:
    tool = openai.pydantic_function_tool(Weather, name="weather")
    with client(*calling(*sizes)).chat.completions.stream(
        model="fake", messages=QUESTION, tools=[tool, TIME], stream_options={"include_usage": True}
    ) as stream:
        names = [event.name for event in stream if event.type == "tool_calls.function.arguments.done"]
    assert names == ["weather", "time"]
    answer = stream.get_final_completion()
    weather, time = answer.choices[0].message.tool_calls
    assert weather.function.parsed_arguments == Weather(city="Bern ☀ ☀")
    assert (time.id, time.function.arguments) == ("call_t", "{}")
    assert answer.usage.total_tokens == 18


@pytest.mark.parametrize("stream", [False, True])
def test_functions_are_answered_in_their_own_form(fake_server: FakeServer, stream: bool) -> None:
    server = fake_server(FakeBackend(calling(5, 5)))
    with server.client() as client:
        answer: Any = client.chat.completions.create(
            model="fake", messages=QUESTION, functions=[{"name": "weather", "parameters": SCHEMA}],
            function_call={"name": "weather"}, stream=stream,
        )  # fmt: skip
        choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    made = [choice.delta if stream else choice.message for choice in choices]
    calls = [message.function_call for message in made if message.function_call]
    assert [call.name for call in calls if call.name] == ["weather"]
    assert "".join(call.arguments for call in calls) == BERN
    assert not any(message.tool_calls for message in made)
    assert choices[-1].finish_reason == "function_call"
    prompt = last_request(server).prompt
    assert (prompt.tool_choice.names, prompt.parallel_tool_calls) == (("weather",), False)


def test_answer_with_calls_can_be_sent_back_strictly(fake_server: FakeServer) -> None:
    server = fake_server(FakeBackend(calling(4)))
    asking: dict[str, Any] = {"model": "fake", "tools": [WEATHER, TIME]}
    with server.client() as client:
        said: Any = client.chat.completions.create(messages=QUESTION, **asking).choices[0].message
        results: list[Any] = [
            {"role": "tool", "tool_call_id": call.id, "content": "x"} for call in said.tool_calls
        ]
        client.chat.completions.create(
            messages=[*QUESTION, said, *results], **asking, extra_headers={"X-Headrace-Strict": "true"}
        )
    _, assistant, first, second = last_request(server).prompt.messages
    assert [call.id for call in assistant.tool_calls] == [first.tool_call_id, second.tool_call_id]
    assert (assistant.reasoning, assistant.tool_calls[0].arguments) == ("They want weather.", BERN)


@pytest.mark.parametrize("streamed", [False, True])
def test_parse_makes_the_model_it_asked_for(client: Any, streamed: bool) -> None:
    chat = client('{"ci', 'ty": "Be', 'rn"}', ended("stop")).chat.completions
    members: dict[str, Any] = {"model": "fake", "messages": QUESTION, "response_format": Weather}
    if streamed:
        with chat.stream(**members) as stream:
            stream.until_done()
        answer = stream.get_final_completion()
    else:
        answer = chat.parse(**members)
    assert answer.choices[0].message.parsed == Weather(city="Bern")


def test_parse_asks_for_its_schema(fake_server: FakeServer) -> None:
    server = fake_server(FakeBackend(['{"city": "Bern"}']))
    with server.client() as client:
        client.chat.completions.parse(model="fake", messages=QUESTION, response_format=Weather)
    format = last_request(server).format
    assert isinstance(format, Format)
    assert format.value["required"] == ["city"]
    assert (format.kind, format.param) == ("json_schema", "response_format.json_schema.schema")


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_those_of_the_text(client: Any, stream: bool) -> None:
    script = [
        TextDelta(0, "Hi", (TokenLogprob("Hi", b"Hi", -0.1, (("Hi", b"Hi", -0.1), ("Yo", b"Yo", -3.0))),)),
        TextDelta(0, "☀", (TokenLogprob("\ufffd", b"\xe2\x98", -1.0), TokenLogprob("\ufffd", b"\x80", -2.0))),
    ]
    chat = client(*script, ended("stop")).chat.completions
    members: dict[str, Any] = {"model": "fake", "messages": QUESTION, "logprobs": True, "top_logprobs": 2}
    answer = chat.create(**members, stream=stream)
    choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
    assert [(token.logprob, token.bytes) for token in tokens] == [
        (-0.1, [72, 105]),
        (-1.0, [0xE2, 0x98]),
        (-2.0, [0x80]),
    ]
    assert [(top.token, top.logprob) for top in tokens[0].top_logprobs] == [("Hi", -0.1), ("Yo", -3.0)]
    assert tokens[1].top_logprobs == []


def test_each_choice_makes_its_own_calls(client: Any) -> None:
    answer = client(*calling(6)).chat.completions.create(
        model="fake", messages=QUESTION, tools=[WEATHER], n=2
    )
    made = [choice.message.tool_calls[0].function.arguments for choice in answer.choices]
    assert made == [BERN, BERN]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 14)
