"""The openai client, one script for both of its major versions."""

from __future__ import annotations

import json
import struct
from base64 import b64decode
from collections.abc import Sequence
from typing import Annotated, Literal

import openai
from pydantic import BaseModel, Field
from turns import BASE_URL, KEY, MODEL, QUESTION, run, turn

client = openai.OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0, timeout=120)
asynchronous = openai.AsyncOpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0, timeout=120)
strict = openai.OpenAI(
    base_url=BASE_URL, api_key=KEY, max_retries=0, timeout=120, _strict_response_validation=True
)
MESSAGES = [{"role": "user", "content": QUESTION}]
GREEDY = {"model": MODEL, "temperature": 0, "max_tokens": 24}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Paris", "London"]},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
CALL = {"type": "function", "function": {"name": "get_weather"}}


class Color(BaseModel):
    name: Literal["red", "green", "blue"]
    brightness: Annotated[int, Field(ge=0, le=100)]
    is_warm: bool


class GetWeather(BaseModel):
    """The weather in a city."""

    city: Literal["Paris", "London"]


@turn("create")
def create() -> None:
    answer = client.chat.completions.create(messages=MESSAGES, **GREEDY)
    choice = answer.choices[0]
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    assert answer.system_fingerprint
    assert choice.index == 0
    assert choice.finish_reason in ("stop", "length")
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.message.refusal is None
    assert choice.message.tool_calls is None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id


@turn("stream")
def stream() -> None:
    whole = client.chat.completions.create(messages=MESSAGES, **GREEDY)
    chunks = list(
        client.chat.completions.create(
            messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert [reason for reason in reasons if reason] == [whole.choices[0].finish_reason]
    assert not chunks[-1].choices
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


@turn("stream helper")
def stream_helper() -> None:
    options = {"model": MODEL, "temperature": 0, "max_tokens": 200, "stop": ["."]}
    with client.chat.completions.stream(messages=MESSAGES, **options) as events:
        pieces = [event.delta for event in events if event.type == "content.delta"]
        final = events.get_final_completion()
    assert "".join(pieces) == final.choices[0].message.content


@turn("parse")
def parse() -> None:
    answer = client.chat.completions.parse(
        messages=MESSAGES, response_format=Color, model=MODEL, temperature=0, max_tokens=100
    )
    assert isinstance(answer.choices[0].message.parsed, Color)
    assert answer.choices[0].finish_reason == "stop"


@turn("parse while streaming")
def parse_stream() -> None:
    with client.chat.completions.stream(
        messages=MESSAGES, response_format=Color, model=MODEL, temperature=0, max_tokens=100
    ) as events:
        final = events.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Color)


@turn("JSON object")
def json_object() -> None:
    question = [{"role": "user", "content": 'Answer with JSON like {"color": "red"}: the color of grass?'}]
    answer = client.chat.completions.create(
        messages=question, model=MODEL, temperature=0, max_tokens=200, response_format={"type": "json_object"}
    )
    assert answer.choices[0].finish_reason in ("stop", "length")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)


@turn("async create and stream")
async def async_turns() -> None:
    answer = await asynchronous.chat.completions.create(messages=MESSAGES, **GREEDY)
    chunks = await asynchronous.chat.completions.create(messages=MESSAGES, stream=True, **GREEDY)
    pieces = [chunk.choices[0].delta.content or "" async for chunk in chunks]
    assert "".join(pieces) == answer.choices[0].message.content
    await asynchronous.close()


@turn("raw response headers")
def raw_headers() -> None:
    raw = client.chat.completions.with_raw_response.create(messages=MESSAGES, **GREEDY)
    assert raw.headers["x-request-id"] == raw.parse()._request_id
    assert int(raw.headers["openai-processing-ms"]) >= 0
    assert raw.headers["openai-version"] == "2020-10-01"
    with client.chat.completions.with_streaming_response.create(messages=MESSAGES, **GREEDY) as response:
        assert response.headers["x-request-id"]
        assert response.parse().choices


@turn("a forced tool call and its result")
def tool_call() -> None:
    answer = client.chat.completions.create(
        messages=MESSAGES, model=MODEL, temperature=0, max_tokens=100, tools=[WEATHER], tool_choice=CALL
    )
    choice = answer.choices[0]
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert call.id
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city", "unit"}
    assert choice.finish_reason in ("tool_calls", "stop")
    result = {"role": "tool", "tool_call_id": call.id, "content": "22 degrees and sunny"}
    history = [*MESSAGES, choice.message.model_dump(exclude_none=True), result]
    after = client.chat.completions.create(messages=history, tools=[WEATHER], tool_choice="none", **GREEDY)
    assert after.choices[0].message.tool_calls is None
    assert after.choices[0].message.content


@turn("a required tool call, streamed and parsed")
def tool_stream() -> None:
    with client.chat.completions.stream(
        messages=MESSAGES, model=MODEL, temperature=0, max_tokens=100, tool_choice="required",
        tools=[openai.pydantic_function_tool(GetWeather)], parallel_tool_calls=False,
    ) as events:  # fmt: skip
        kinds = [event.type for event in events]
        final = events.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, GetWeather)
    assert "tool_calls.function.arguments.delta" in kinds
    assert "tool_calls.function.arguments.done" in kinds
    assert final.choices[0].finish_reason == "tool_calls"


@turn("tools that may be called")
def tool_auto() -> None:
    answer = client.chat.completions.create(messages=MESSAGES, tools=[WEATHER], **GREEDY)
    message = answer.choices[0].message
    assert message.content or message.tool_calls
    assert (answer.choices[0].finish_reason == "tool_calls") == bool(message.tool_calls)


@turn("log probabilities of chat")
def chat_logprobs() -> None:
    answer = client.chat.completions.create(messages=MESSAGES, logprobs=True, top_logprobs=3, **GREEDY)
    choice = answer.choices[0]
    has_end = choice.finish_reason == "stop"  # a token that is counted, and has no text
    assert len(choice.logprobs.content) + has_end == answer.usage.completion_tokens
    text = b"".join(bytes(entry.bytes) for entry in choice.logprobs.content)
    assert text.startswith(choice.message.content.encode())
    for entry in choice.logprobs.content:
        assert len(entry.top_logprobs) == 3
        assert entry.token == entry.top_logprobs[0].token  # greedy
        assert entry.logprob <= 0


@turn("several answers, a seed, stop strings, a bias")
def sampling() -> None:
    wanted = {"messages": MESSAGES, "model": MODEL, "max_tokens": 8, "temperature": 1, "seed": 7, "n": 3}
    first, second = (client.chat.completions.create(**wanted) for _ in range(2))
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert first.system_fingerprint == second.system_fingerprint
    stopped = client.chat.completions.create(messages=MESSAGES, stop=["e", "a"], **GREEDY)
    assert not {"e", "a"} & set(stopped.choices[0].message.content)
    biased = client.chat.completions.create(
        messages=MESSAGES, model=MODEL, temperature=0, max_tokens=4, logit_bias={"99": 100}, logprobs=True
    )
    assert len({entry.token for entry in biased.choices[0].logprobs.content}) == 1


@turn("completions: token ids, log probabilities, echo")
def completions() -> None:
    prompt = "The capital of France is"
    same = {**GREEDY, "seed": 7}  # the same bits, whatever runs beside it
    whole = client.completions.create(prompt=prompt, logprobs=2, echo=True, **same)
    choice = whole.choices[0]
    found = choice.logprobs
    assert choice.text.startswith(prompt)
    assert "".join(found.tokens).startswith(choice.text)
    assert found.token_logprobs[0] is None
    assert len(found.tokens) == whole.usage.total_tokens
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(found.text_offset)
    assert found.text_offset[0] == 0
    answer = client.completions.create(prompt=[prompt, prompt], **same)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].text == choice.text.removeprefix(prompt)
    ids = client.post("/tokenize", body={"model": MODEL, "prompt": prompt}, cast_to=object)["tokens"]
    by_ids = client.completions.create(prompt=ids, **same)
    assert by_ids.choices[0].text == answer.choices[0].text
    assert by_ids.usage.prompt_tokens == len(ids)
    scored = client.completions.create(model=MODEL, prompt=ids, max_tokens=0, echo=True, logprobs=1)
    assert len(scored.choices[0].logprobs.tokens) == len(ids)
    pieces = client.completions.create(prompt=prompt, stream=True, **same)
    assert "".join(piece.choices[0].text for piece in pieces) == answer.choices[0].text


@turn("embeddings, base64 and float")
def embeddings() -> None:
    inputs = ["The sky is blue.", "Grass is green."]
    by_default = client.embeddings.create(model=MODEL, input=inputs)
    as_floats = client.embeddings.create(model=MODEL, input=inputs, encoding_format="float")
    as_text = client.embeddings.create(model=MODEL, input=inputs, encoding_format="base64")
    assert [entry.index for entry in by_default.data] == [0, 1]
    assert by_default.usage.prompt_tokens == by_default.usage.total_tokens > 0
    for one, other, text in zip(by_default.data, as_floats.data, as_text.data, strict=True):
        assert _product(one.embedding, one.embedding) > 0.999
        assert _product(one.embedding, other.embedding) > 0.999
        raw = b64decode(text.embedding)
        assert len(struct.unpack(f"<{len(raw) // 4}f", raw)) == len(one.embedding)
    small = client.embeddings.create(model=MODEL, input=inputs[0], dimensions=32).data[0].embedding
    assert len(small) == 32
    assert _product(small, small) > 0.999


def _product(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


@turn("models")
def models() -> None:
    assert MODEL in [entry.id for entry in client.models.list()]
    assert client.models.retrieve(MODEL).object == "model"


@turn("errors")
def errors() -> None:
    error = _refusal(openai.NotFoundError, model="nobody")
    assert (error.code, error.type) == ("model_not_found", "invalid_request_error")
    assert error.request_id
    error = _refusal(openai.BadRequestError, temperature=9)
    assert error.param == "temperature"
    error = _refusal(openai.BadRequestError, response_format={"type": "json_schema"})
    assert error.param.startswith("response_format")


def _refusal(kind: type[openai.APIStatusError], **changes: object) -> openai.APIStatusError:
    try:
        client.chat.completions.create(**{"messages": MESSAGES, **GREEDY, **changes})
    except kind as exc:
        return exc
    raise AssertionError(f"{changes} was not refused")


@turn("everything under strict response validation")
def strictly() -> None:
    chat = strict.chat.completions
    chat.create(messages=MESSAGES, logprobs=True, top_logprobs=1, **GREEDY)
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    assert list(chat.create(messages=MESSAGES, **streamed, **GREEDY))
    forced = {
        "tools": [WEATHER],
        "tool_choice": CALL,
        "messages": MESSAGES,
        "model": MODEL,
        "max_tokens": 100,
    }
    assert chat.create(**forced).choices[0].message.tool_calls
    assert list(chat.create(stream=True, **forced))
    assert (
        chat.parse(messages=MESSAGES, response_format=Color, model=MODEL, max_tokens=100)
        .choices[0]
        .message.parsed
    )
    # Neither with echo nor streamed: the logprob of a first token and the finish_reason of a chunk are null,
    # here as at OpenAI, and the SDK's types know no null there.
    strict.completions.create(prompt="a b c", logprobs=1, **GREEDY)
    strict.embeddings.create(model=MODEL, input="a", encoding_format="float")
    assert strict.models.list().data


if __name__ == "__main__":
    run()
