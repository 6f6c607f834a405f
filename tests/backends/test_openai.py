"""The official client reads the scripted provider directly, and through Headrace: it sees the same."""

from collections.abc import Iterator, Sequence
from typing import Any

import openai
import pytest

from headrace.app import create_app
from headrace.backends.fake import FakeBackend
from headrace.backends.openai import OpenAIBackend
from headrace.config import Config, ProviderConfig
from headrace.types import Event, Finished, ReasoningDelta, ToolCallDelta, Usage
from tests.backends.two_ways import (
    END,
    MESSAGES,
    STOP,
    TEXT,
    USAGE,
    Both,
    both_of,
    chunk,
    counts,
    head,
    streamed,
)
from tests.serving import serving
from tests.upstream import Answer, answer, split, sse

TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("weather", "time")
]


@pytest.fixture(scope="module")
def pair() -> Iterator[Both]:
    with both_of() as found:
        yield found


@pytest.fixture
def both(pair: Both) -> Both:
    pair.provider.forget()
    return pair


def _whole(client: openai.OpenAI, **members: Any) -> list[Any]:
    made = client.chat.completions.create(model="m", messages=MESSAGES, **members)
    return [
        [
            (c.index, c.message.content, c.message.tool_calls, c.finish_reason)
            for c in sorted(made.choices, key=lambda choice: choice.index)
        ],
        counts(made.usage),
    ]


def test_a_stream_is_the_same(both: Both) -> None:
    seen = both.same_stream(Answer(pieces=sse(*TEXT, *END)))
    assert seen.choices[0]["text"] == "Grüße 🌊"
    assert (seen.usage or {})["cached"] == 16


def test_a_json_answer_is_the_same(both: Both) -> None:
    usage = {"usage": USAGE}
    message = {"role": "assistant", "content": "Grüße 🌊"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    direct = answer({**head(choices=choices, **usage), "object": "chat.completion"})
    both.provider.play(direct, Answer(pieces=sse(*TEXT, *END)))
    assert _whole(both.direct) == _whole(both.client)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_a_stream_is_the_same_however_it_is_cut(both: Both, size: int) -> None:
    raw = b"".join(sse(*TEXT, *END))
    both.same_stream(Answer(pieces=split(raw, range(size, len(raw), size)), delay_s=0.0001))


VARIANTS = {
    "CRLF": Answer(pieces=sse(*TEXT, *END, end=b"\r\n")),
    "comments": Answer(pieces=[b": OPENROUTER PROCESSING\n\n", *sse(*TEXT), b": ping\n", *sse(*END)]),
    "gzip": Answer(pieces=sse(*TEXT, *END), gzip=True),
    "no [DONE]": Answer(pieces=sse(*TEXT, *END[:-1])),
    "no [DONE] and no usage": Answer(pieces=sse(*TEXT, STOP)),
    "no empty line at the end": Answer(pieces=[*sse(*TEXT, *END[:-1]), b"data: [DONE]"]),
    "usage beside the finish": Answer(pieces=sse(*TEXT, {**STOP, "usage": USAGE}, "[DONE]")),
    "usage null until the end": Answer(pieces=sse(*[{**chunk, "usage": None} for chunk in TEXT], *END)),
    "more after the finish": Answer(pieces=sse(*TEXT, STOP, chunk({"content": "!"}), *END[1:])),
    "length": Answer(pieces=sse(*TEXT, chunk(reason="length"), "[DONE]")),
    "filtered": Answer(pieces=sse(*TEXT, chunk(reason="content_filter"), "[DONE]")),
    "delta null": Answer(pieces=sse(*TEXT, {**chunk(), "choices": []}, *END)),
    "unknown events": Answer(pieces=sse(*TEXT, ("ping", {"type": "ping"}), *END)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_stream_is_the_same_in_each_variant(both: Both, name: str) -> None:
    assert both.same_stream(VARIANTS[name]).choices[0]["text"].startswith("Grüße 🌊")


def test_an_unknown_reason_is_a_stop(both: Both) -> None:
    seen = both.through(streamed, Answer(pieces=sse(*TEXT, chunk(reason="eos"), "[DONE]")))
    assert seen.choices[0]["reason"] == "stop"


def test_the_stop_string_is_reported_where_the_provider_tells_it(both: Both) -> None:
    both.provider.play(Answer(pieces=sse(*TEXT, chunk(reason="stop", stop_reason="END"), "[DONE]")))
    body = {"model": "m", "max_tokens": 9, "messages": MESSAGES, "stop_sequences": ["END"]}
    answer = both.served.post("/v1/messages", body).json()
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "END")


def _piece(index: int | None, arguments: str | None = None, **more: Any) -> dict[str, Any]:
    name = {"name": more.pop("name")} if "name" in more else {}
    function = {**name, **({} if arguments is None else {"arguments": arguments})}
    at = {} if index is None else {"index": index}
    return {**at, **more, "function": function}


def _calling(*pieces: dict[str, Any]) -> list[dict[str, Any]]:
    return [chunk({"tool_calls": [piece]}) for piece in pieces]


FIRST, SECOND = '{"city": "Zürich 🌊", "unit": "°C"}', '{"zone": "UTC+1"}'
CALLED = chunk(reason="tool_calls")


@pytest.mark.parametrize("at", range(len(FIRST) + 1))
def test_parallel_calls_are_the_same_wherever_their_arguments_are_split(both: Both, at: int) -> None:
    other = min(at, len(SECOND))
    chunks = [
        *_calling(_piece(0, "", id="call_a", type="function", name="weather")),
        *_calling(_piece(0, FIRST[:at]), _piece(1, "", id="call_b", type="function", name="time")),
        *_calling(_piece(1, SECOND[:other]), _piece(0, FIRST[at:]), _piece(1, SECOND[other:])),
    ]
    played = Answer(pieces=sse(TEXT[0], *chunks, CALLED, *END[1:]))
    seen = both.same_stream(played, tools=TOOLS)
    assert seen.choices[0]["calls"] == {
        0: {"id": ["call_a"], "name": ["weather"], "arguments": FIRST},
        1: {"id": ["call_b"], "name": ["time"], "arguments": SECOND},
    }


def test_parallel_calls_are_the_same_wherever_their_bytes_are_split(both: Both) -> None:
    chunks = [
        *_calling(_piece(0, FIRST, id="call_a", type="function", name="weather")),
        *_calling(_piece(1, SECOND, id="call_b", type="function", name="time")),
    ]
    raw = b"".join(sse(*chunks, CALLED, "[DONE]"))
    expected = _calls_of(both, [raw])
    for at in range(1, raw.index(b"finish_reason") + 20):
        assert _calls_of(both, split(raw, [at])) == expected


def _calls_of(both: Both, pieces: Sequence[bytes]) -> Any:
    seen = both.through(lambda client: streamed(client, tools=TOOLS), Answer(pieces=pieces))
    return seen.choices[0]["calls"]


def _weather(index: int | None) -> dict[str, Any]:
    return _piece(index, "{}", id="call_a", name="weather")


def _time(index: int | None) -> dict[str, Any]:
    return _piece(index, "{}", id="call_b", name="time")


A = {"id": ["call_a"], "name": ["weather"], "arguments": "{}"}
B = {"id": ["call_b"], "name": ["time"], "arguments": "{}"}
ODD_CALLS = {
    "no index": [_weather(None), _time(None)],
    "always index 0": [_weather(0), _time(0)],
    "from index 1": [_weather(1), _time(2)],
    "id and name repeated": [
        _piece(0, "{", id="call_a", name="weather"), _piece(0, "}", id="call_a", name="weather"),
        _piece(1, "{", id="call_b", name="time"), _piece(1, "}", id="call_b", name="time"),
    ],
    "id and name empty": [
        _piece(0, "{", id="call_a", name="weather"), _piece(0, "}", id="", name=""),
        _time(1),
    ],
    "the name comes late": [
        _piece(0, id="call_a"), _piece(0, "{"), _piece(0, "}", name="weather"),
        _time(1),
    ],
    "arguments null": [
        _piece(0, None, id="call_a", name="weather"), _piece(0, "{}"), _time(1),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_CALLS)
def test_calls_in_odd_shapes_are_understood(both: Both, name: str) -> None:
    pieces = sse(*_calling(*ODD_CALLS[name]), CALLED, "[DONE]")
    assert _calls_of(both, pieces) == {0: A, 1: B}


def test_a_call_without_an_id_gets_one(both: Both) -> None:
    seen = _calls_of(both, sse(*_calling(_piece(0, "{}", name="time")), CALLED, "[DONE]"))
    assert seen[0]["id"][0].startswith("call_")


def test_text_beside_calls_is_kept(both: Both) -> None:
    chunks = [*TEXT, *_calling(_piece(0, "{}", id="call_a", name="weather")), CALLED, *END[1:]]
    seen = both.same_stream(Answer(pieces=sse(*chunks)), tools=TOOLS)
    assert (seen.choices[0]["text"], seen.choices[0]["reason"]) == ("Grüße 🌊", "tool_calls")


@pytest.mark.parametrize(
    "names", [("reasoning_content",), ("reasoning",), ("reasoning_content", "reasoning")]
)
def test_reasoning_is_the_same_under_each_name(both: Both, names: Sequence[str]) -> None:
    thoughts = [chunk(dict.fromkeys(names, text)) for text in ("I ", "think")]
    seen = both.same_stream(Answer(pieces=sse(*thoughts, *TEXT, *END)))
    assert (seen.choices[0]["reasoning"], seen.choices[0]["text"]) == ("I think", "Grüße 🌊")


def test_several_choices_are_the_same(both: Both) -> None:
    chunks = [
        head(choices=[{"index": index, "delta": {"content": text}, "finish_reason": None}])
        for index, text in ((1, "b"), (0, "a"), (1, "B"))
    ]
    ends = [head(choices=[{"index": i, "delta": {}, "finish_reason": "stop"}]) for i in (1, 0)]
    played = Answer(pieces=sse(*chunks, *ends, *END[1:]))
    seen = both.same_stream(played, n=2)
    assert [seen.choices[index]["text"] for index in (0, 1)] == ["a", "bB"]
    assert (seen.usage or {})["completion"] == 5


def test_logprobs_are_the_same(both: Both) -> None:
    content = [
        {"token": "Gr", "logprob": -0.5, "bytes": [71, 114], "top_logprobs": []},
        {"token": "ü", "logprob": -9999.0, "bytes": [195, 188],
         "top_logprobs": [{"token": "u", "logprob": -0.1, "bytes": [117]}]},
    ]  # fmt: skip
    chunks = [
        chunk({"content": "Gr"}, logprobs={"content": content[:1]}),
        chunk({"content": "ü"}, logprobs={"content": content[1:], "refusal": None}),
        chunk(reason="stop", logprobs={"content": [{**content[0], "token": "</s>"}]}),
    ]
    played = Answer(pieces=sse(*chunks, "[DONE]"))
    seen = both.same_stream(played, logprobs=True, top_logprobs=1)
    assert [token["token"] for token in seen.choices[0]["logprobs"]] == ["Gr", "ü", "</s>"]


def test_text_completions_are_the_same(both: Both) -> None:
    def see(client: openai.OpenAI) -> Any:
        stream = client.completions.create(model="m", prompt=["a", "b"], logprobs=1, stream=True)
        texts, logprobs, reasons = {0: "", 1: ""}, [], {}
        for one in stream:
            for choice in one.choices:
                texts[choice.index] += choice.text
                logprobs += choice.logprobs.token_logprobs or [] if choice.logprobs else []
                if choice.finish_reason:
                    reasons[choice.index] = choice.finish_reason
        return texts, logprobs, reasons

    scores: Any = {
        "tokens": ["x"],
        "token_logprobs": [-0.25],
        "top_logprobs": [{"x": -0.25}],
        "text_offset": [0],
    }
    played = ((1, "x", scores, None), (0, "y", None, "stop"), (1, "", None, "length"))
    chunks = [
        {"object": "text_completion", "choices": [{"index": i, "text": text, "logprobs": logprobs,
                                                   "finish_reason": reason}]}
        for i, text, logprobs, reason in played
    ]  # fmt: skip
    seen = both.same(see, Answer(pieces=sse(*chunks, "[DONE]")))
    assert seen == ({0: "y", 1: "x"}, [-0.25], {0: "stop", 1: "length"})
    assert both.provider.posts[-1].body["prompt"] == ["a", "b"]


def test_a_request_arrives_as_it_was_sent(both: Both) -> None:
    """Member by member what the provider would have been sent directly."""
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"a": 1}'}}
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
        {"type": "image_url", "image_url": {"url": "https://x.invalid/y.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="}},
    ]
    schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    json_schema = {"name": "answer", "schema": schema, "strict": True}
    members: Any = {
        "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": parts, "name": "u"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "42", "tool_call_id": "c1"},
        ],
        "model": "m", "stream": True, "stream_options": {"include_usage": True}, "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": "weather"}}, "parallel_tool_calls": False,
        "max_tokens": 7, "temperature": 0, "top_p": 0.5, "seed": 3, "stop": ["a", "b"], "n": 2,
        "frequency_penalty": 0.5, "presence_penalty": -0.5, "logit_bias": {"5": 1.0}, "logprobs": True,
        "top_logprobs": 2, "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": json_schema},
    }  # fmt: skip
    ends = [head(choices=[{"index": index, "delta": {}, "finish_reason": "stop"}]) for index in (0, 1)]
    both.same(
        lambda client: len(list(client.chat.completions.create(**members))) > 0, Answer(pieces=sse(*ends))
    )
    direct, through = both.provider.posts[-2:]
    assert through.body == direct.body


def test_headrace_behind_headrace_is_the_same() -> None:
    script: list[str | Event] = [
        ReasoningDelta(0, "hm"),
        "Grü",
        "ße 🌊",
        ToolCallDelta(0, 0, '{"a":', "call_a", "weather"),
        ToolCallDelta(0, 1, "{}", "call_b", "time"),
        ToolCallDelta(0, 0, " 1}"),
        Finished(0, "tool_calls", Usage(20, 5, 16, 2)),
    ]
    with serving(create_app(Config(), [FakeBackend(script, id="m")])) as behind:
        config = ProviderConfig(kind="openai", base_url=behind.url + "/v1", models=("m",))
        app = create_app(Config(), [OpenAIBackend("p", config, None)])
        with serving(app) as served, behind.client() as direct, served.client() as through:
            seen = streamed(direct, tools=TOOLS, n=2)
            assert streamed(through, tools=TOOLS, n=2) == seen
            vectors = [
                client.embeddings.create(model="m", input=["a", "bb"]).model_dump()
                for client in (direct, through)
            ]
    assert seen.choices[1]["calls"][0] == {"id": ["call_a"], "name": ["weather"], "arguments": '{"a": 1}'}
    assert vectors[0] == vectors[1]
