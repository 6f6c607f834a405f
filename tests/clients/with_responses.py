"""The openai client, validating strictly, over every endpoint of responses, conversations and stored
completions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Literal

import openai
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel
from turns import BASE_URL, KEY, MODEL, QUESTION, run, turn

SERVER = {"base_url": BASE_URL, "api_key": KEY, "max_retries": 0, "timeout": 120}
client = openai.OpenAI(**SERVER, _strict_response_validation=True)
responses, conversations, completions = client.responses, client.conversations, client.chat.completions
GREEDY = {"model": MODEL, "temperature": 0, "max_output_tokens": 24}
HELLO = {"input": "Hi", **GREEDY}  # has an end within that, which the SDK's stream helper insists on
CHAT = {"model": MODEL, "temperature": 0, "max_tokens": 24}
MESSAGES = [{"role": "user", "content": QUESTION}]
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "London"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
FORCED = {
    "tools": [WEATHER],
    "tool_choice": {"type": "function", "name": "get_weather"},
    **GREEDY,
    "max_output_tokens": 100,
}


class Color(BaseModel):
    name: Literal["red", "green", "blue"]
    is_warm: bool


class GetWeather(BaseModel):
    """The weather in a city."""

    city: Literal["Paris", "London"]


@turn("create, then a second turn by previous_response_id")
def two_turns() -> None:
    first = responses.create(input=QUESTION, instructions="Be brief.", metadata={"kind": "test"}, **GREEDY)
    assert first.output_text
    assert first.status in ("completed", "incomplete")
    assert first.metadata == {"kind": "test"}
    second = responses.create(input="And of grass?", previous_response_id=first.id, **GREEDY)
    assert second.previous_response_id == first.id
    assert second.instructions is None
    assert second.usage.input_tokens > first.usage.input_tokens
    inputs = list(responses.input_items.list(second.id, order="asc"))
    assert [item.role for item in inputs] == ["user", "assistant", "user"]
    assert inputs[1].id == first.output[0].id


@turn("stream, and the stream helper")
def stream() -> None:
    whole = responses.create(**HELLO)
    assert whole.status == "completed"
    events = list(responses.create(stream=True, **HELLO))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert _text(events) == events[-1].response.output_text == whole.output_text
    with responses.stream(**HELLO) as helper:
        assert _text(list(helper)) == whole.output_text
        assert helper.get_final_response().output_text == whole.output_text


def _text(events: list[ResponseStreamEvent]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


@turn("parse, whole and streamed")
def parse() -> None:
    members = {"input": QUESTION, "text_format": Color, "model": MODEL, "max_output_tokens": 100}
    assert isinstance(responses.parse(**members).output_parsed, Color)
    with responses.stream(**members) as events:
        assert isinstance(events.get_final_response().output_parsed, Color)


@turn("a forced tool call and its output")
def tool_turn() -> None:
    calling = responses.create(input="What is the weather in Paris?", **FORCED)
    (call,) = [item for item in calling.output if item.type == "function_call"]
    assert json.loads(call.arguments)["city"] in ("Paris", "London")
    output = _output(calling)
    answer = responses.create(
        input=[output], previous_response_id=calling.id, tools=[WEATHER], tool_choice="none", **GREEDY
    )
    assert answer.output_text
    question = {"role": "user", "content": "What is the weather in Paris?"}
    resent = responses.create(
        input=[question, *(item.model_dump(exclude_none=True) for item in calling.output), output],
        store=False, tools=[WEATHER], tool_choice="none", **GREEDY,
    )  # fmt: skip
    assert resent.output_text == answer.output_text


def _output(response: Response) -> dict[str, str]:
    """What its first call gave."""
    call = next(item for item in response.output if item.type == "function_call")
    return {"type": "function_call_output", "call_id": call.call_id, "output": "22 degrees"}


@turn("a required tool call, streamed and parsed")
def tool_stream() -> None:
    with responses.stream(
        input=QUESTION, tools=[openai.pydantic_function_tool(GetWeather)], tool_choice="required",
        parallel_tool_calls=False, model=MODEL, max_output_tokens=100,
    ) as events:  # fmt: skip
        kinds = [event.type for event in events]
        final = events.get_final_response()
    (call,) = final.output
    assert isinstance(call.parsed_arguments, GetWeather)
    assert "response.function_call_arguments.done" in kinds


@turn("log probabilities, and tools that need a service are named")
def included() -> None:
    members = {"input": QUESTION, "tools": [{"type": "web_search"}], **GREEDY}
    raw = responses.with_raw_response.create(
        include=["message.output_text.logprobs"], top_logprobs=2, **members
    )
    assert "web_search" in raw.headers["x-headrace-ignored"]
    (part,) = raw.parse().output[0].content
    assert all(len(entry.top_logprobs) == 2 for entry in part.logprobs)


@turn("retrieve, delete, and what is not there")
def stored() -> None:
    made = responses.create(input=QUESTION, **GREEDY)
    assert responses.retrieve(made.id).to_dict() == made.to_dict()
    responses.delete(made.id)
    _missing(lambda: responses.retrieve(made.id))
    _missing(lambda: responses.input_items.list(made.id))
    unstored = responses.create(input=QUESTION, store=False, **GREEDY)
    _missing(lambda: responses.retrieve(unstored.id))
    after = {"input": "And?", "previous_response_id": unstored.id, **GREEDY}
    refusal = _refusal(openai.BadRequestError, lambda: responses.create(**after))
    assert refusal.code == "previous_response_not_found"


def _missing(call: Callable[[], object]) -> None:
    assert _refusal(openai.NotFoundError, call).type == "invalid_request_error"


def _refusal(kind: type[openai.APIStatusError], call: Callable[[], object]) -> openai.APIStatusError:
    try:
        call()
    except kind as exc:
        return exc
    raise AssertionError("it was not refused")


@turn("background: polled, cancelled")
def background() -> None:
    queued = responses.create(background=True, **HELLO)
    assert queued.status in ("queued", "in_progress")
    done = _polled(queued)
    assert done.status == "completed"
    assert done.output_text == responses.create(**HELLO).output_text
    assert responses.cancel(done.id).status == done.status
    endless = {"model": MODEL, "max_output_tokens": 4000, "extra_body": {"ignore_eos": True}}
    long = responses.create(input=QUESTION, background=True, **endless)
    assert responses.cancel(long.id).status == "cancelled"
    assert responses.retrieve(long.id).status == "cancelled"


def _polled(response: Response) -> Response:
    until = time.monotonic() + 60
    while response.status in ("queued", "in_progress") and time.monotonic() < until:
        time.sleep(0.05)
        response = responses.retrieve(response.id)
    return response


@turn("background: a stream that is left and gone on with")
def resumed() -> None:
    seen = []
    with responses.create(background=True, stream=True, **HELLO) as events:
        for event in events:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
    id, last = seen[0].response.id, seen[-1].sequence_number
    rest = list(responses.retrieve(id, stream=True, starting_after=last))
    whole = [*seen, *rest]
    assert [event.sequence_number for event in whole] == list(range(len(whole)))
    assert _text(whole) == rest[-1].response.output_text == responses.retrieve(id).output_text
    with responses.stream(response_id=id) as helper:
        assert helper.get_final_response().output_text == _text(whole)


@turn("input tokens, compact")
def tokens() -> None:
    made = responses.create(input=QUESTION, **GREEDY)
    assert responses.input_tokens.count(model=MODEL, input=QUESTION).input_tokens == made.usage.input_tokens
    # not strict: the SDK's types know no user messages there, which OpenAI's documentation promises
    plain = openai.OpenAI(**SERVER).responses
    compacted = plain.compact(model=MODEL, previous_response_id=made.id)
    assert [item.type for item in compacted.output] == ["message", "compaction"]
    (item,) = [item for item in compacted.output if item.type == "compaction"]
    after = responses.create(
        input=[item.model_dump(exclude_none=True), {"role": "user", "content": "And of grass?"}], **GREEDY
    )
    assert after.output_text


@turn("WebSocket: two turns and a tool turn")
def socket() -> None:
    with responses.connect() as connection:
        events = _answered(connection, input=QUESTION, store=False)
        assert _text(events) == responses.create(input=QUESTION, **GREEDY).output_text
        first = events[-1].response
        second = _answered(connection, input="And of grass?", previous_response_id=first.id, store=False)
        assert second[-1].response.usage.input_tokens > first.usage.input_tokens
        called = _answered(connection, input=QUESTION, **FORCED)[-1].response
        assert _text(_answered(connection, input=[_output(called)], previous_response_id=called.id))


def _answered(connection: openai.resources.responses.responses.ResponsesConnection, **members) -> list:
    connection.response.create(**GREEDY | members)
    events = []
    for event in connection:
        events.append(event)
        assert event.type != "error", event
        if event.type in ("response.completed", "response.incomplete"):
            return events
    raise AssertionError("the connection was closed")


@turn("conversations and their items")
def conversation() -> None:
    made = conversations.create(items=[{"role": "user", "content": "Hello"}], metadata={"topic": "sky"})
    assert conversations.retrieve(made.id) == made
    assert conversations.update(made.id, metadata={"topic": "grass"}).metadata == {"topic": "grass"}
    added = conversations.items.create(
        made.id,
        items=[
            {"role": "assistant", "content": "Hello!"},
            {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "22 degrees"},
        ],
    )
    assert [item.type for item in added.data] == ["message", "function_call", "function_call_output"]
    listed = list(conversations.items.list(made.id, order="asc", limit=2))
    assert len(listed) == 4
    assert listed[1:] == added.data
    assert conversations.items.retrieve(added.data[0].id, conversation_id=made.id) == added.data[0]
    assert conversations.items.delete(added.data[0].id, conversation_id=made.id).id == made.id
    assert len(list(conversations.items.list(made.id))) == 3
    own = client.get("/conversations", cast_to=object)["data"]
    assert made.id in [entry["id"] for entry in own]
    exported = client.get(f"/conversations/{made.id}/export", cast_to=object)
    assert exported
    assert conversations.delete(made.id).deleted
    _missing(lambda: conversations.retrieve(made.id))


@turn("responses in a conversation, a tool turn among them")
def in_conversation() -> None:
    made = conversations.create()
    first = responses.create(input=QUESTION, conversation=made.id, **GREEDY)
    assert first.conversation.id == made.id
    called = responses.create(input="And the weather?", conversation=made.id, **FORCED)
    list(responses.create(input=[_output(called)], conversation={"id": made.id}, stream=True, **GREEDY))
    kinds = [item.type for item in conversations.items.list(made.id, order="asc")]
    said = "message"
    assert kinds == [said, said, said, "function_call", "function_call_output", said]


@turn("chat with a named conversation")
def named() -> None:
    raw = completions.with_raw_response.create(
        messages=MESSAGES, extra_headers={"X-Conversation-ID": "new"}, **CHAT
    )
    id = raw.headers["x-conversation-id"]
    first = raw.parse()
    second = completions.create(
        messages=[{"role": "user", "content": "And of grass?"}], extra_body={"conversation": id}, **CHAT
    )
    assert second.usage.prompt_tokens > first.usage.prompt_tokens
    answer = {"role": "assistant", "content": first.choices[0].message.content}
    resent = [*MESSAGES, answer, {"role": "user", "content": "And of grass?"}]
    assert completions.create(messages=resent, **CHAT).choices[0].message == second.choices[0].message
    roles = [item.role for item in conversations.items.list(id, order="asc")]
    assert roles == ["user", "assistant", "user", "assistant"]


@turn("stored chat completions")
def stored_completions() -> None:
    topic = {"topic": f"sky {time.time_ns()}"}
    made = completions.create(messages=MESSAGES, store=True, metadata=topic, **CHAT)
    streamed = {"stream": True, "store": True, "metadata": topic, **CHAT}
    id = {chunk.id for chunk in completions.create(messages=MESSAGES, **streamed)}.pop()
    assert completions.retrieve(made.id).choices == made.choices
    assert [entry.id for entry in completions.list(metadata=topic, model=MODEL, limit=1)] == [made.id, id]
    # The SDK's type knows no role but the assistant's there; OpenAI sends the user's too.
    (message,) = openai.OpenAI(**SERVER).chat.completions.messages.list(made.id)
    assert message.content == QUESTION
    assert completions.update(made.id, metadata={"topic": "grass"}).metadata == {"topic": "grass"}
    assert [entry.id for entry in completions.list(metadata=topic)] == [id]
    assert completions.delete(made.id).deleted
    _missing(lambda: completions.retrieve(made.id))
    _missing(lambda: completions.retrieve(completions.create(messages=MESSAGES, **CHAT).id))


if __name__ == "__main__":
    run()
